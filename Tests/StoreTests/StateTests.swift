import BlobModel
import Glibc
import Hashing
import System
import Testing
import TestSupport

@testable import Index
@testable import LMDB
@testable import Maps
@testable import Packs
@testable import Store

/// A store in the midst of something, at work or for ever: between the commit of `packs` and that of `meta`. `check` finds nothing wrong
/// with it, `stats` counts what there is, and what is really wrong is still found.
@Suite struct StateTests {
    let scratch: ScratchDirectory
    let store: Store

    init() throws {
        scratch = try ScratchDirectory()
        store = try Store(path: scratch.path + "/store", creating: true)
    }

    func problems(readData: Bool = false) throws -> [String] { try store.check(readData: readData, repair: false) { _, _ in }.problems }

    func write(_ name: String, _ blocks: [UInt64]) throws {
        try store.write(name, blocks.map { block($0) })
    }

    /// 600 blobs in four packs, 550 of them dead; the first two packs are being collected.
    /// - Parameter commits: 1: they were written anew; 2: they are current as well; 3: what is over is removed.
    func interruptCollection(indexing: Bool, commits: Int) throws {
        try write("keep", (1...600).filter { $0 % 12 == 0 })
        try write("gone", Array(1...600))
        try store.deleteWholly(try store.lock("gone"))
        if indexing { try store.completeIndex() }
        try store.settleCounts()
        let copies = try store.rewrite([1, 2], takesRecent: !indexing)
        // Nothing is left of the second.
        #expect(copies.map(\.new) == [1, nil])
        guard commits > 1 else { return }
        var transaction = try StoreTransaction.begin(store)
        #expect(try transaction.collect(copies, takesRecent: !indexing) ?? 0 > 300 * 4096)
        try transaction.commit()
        if commits > 2 { try store.sweep(copies.flatMap(\.loose)) }
    }

    /// Payload of the blobs that are there and dead.
    func deadBytes() throws -> UInt64 {
        let state = try store.state()
        var counts = store.parts.counts.reader(state.meta.view)
        var total: UInt64 = 0
        for number in 1...4 as ClosedRange<UInt64> {
            let known = try counts.counts(ofPack: number)?.now
            guard let pack = try state.packs.pack(number), let counts = known else {
                // It may be gone.
                let isThere = try state.packs.pack(number) != nil
                if known == nil, !isThere { continue }
                throw Failure(.damage, "pack \(number)", "missing")
            }
            for slot in 0..<pack.slotCount where counts[slot] == 0 && !pack.isCollected(slot) { total += UInt64(pack.storedLength(slot)) }
        }
        return total
    }

    @Test(arguments: [false, true], 1...3) func aCollectionBetweenItsCommits(indexing: Bool, commits: Int) throws {
        try interruptCollection(indexing: indexing, commits: commits)
        #expect(try problems(readData: true) == [])
        let found = try store.statistics()
        #expect(found.uniqueBytes == 50 * 4096)
        #expect(try found.reclaimableBytes == deadBytes())
        #expect(commits == 1 ? found.reclaimableBytes == 550 * 4096 : found.reclaimableBytes < 250 * 4096)
        // And so it stays when others write.
        try store.create("next", byteCount: 4096)
        #expect(try problems() == [])
        #expect(try store.statistics().reclaimableBytes == found.reclaimableBytes)
    }

    /// A little at a time, as where there is little room; others write in between.
    @Test(arguments: [false, true]) func aCollectionInParts(indexing: Bool) throws {
        try write("keep", (1...600).filter { $0 % 12 == 0 })
        try write("gone", Array(1...600))
        try store.deleteWholly(try store.lock("gone"))
        if indexing { try store.completeIndex() }
        try store.settleCounts()
        var reclaimable = try store.statistics().reclaimableBytes
        var parts = 0
        for pack in [1, 2] as [UInt64] {
            while let change = try store.work([pack], limit: 30, takesRecent: !indexing).first, parts < 100 {
                var transaction = try StoreTransaction.begin(store, room: .any)
                let copies = try store.packs.rewrite([change], transaction.versions, nil)
                reclaimable -= try transaction.collect(copies, takesRecent: !indexing) ?? 0
                try transaction.commit()
                parts += 1
                #expect(try problems() == [], "part \(parts)")
                #expect(try store.statistics().reclaimableBytes == reclaimable, "part \(parts)")
                if parts % 3 == 0 { while let next = try store.sweepLeftovers(from: 0) { #expect(next > 0) } }
            }
        }
        #expect(parts > 8)
        // What was collected comes back, and nothing is taken for what it was.
        try write("back", Array(1...600))
        #expect(try problems(readData: true) == [])
        #expect(try store.statistics().uniqueBytes == 600 * 4096)
    }

    /// Another process keeps what it knows of recent digests to itself, as there is no room for the file. Of what was collected
    /// beyond the end of the index nothing may come back into the index.
    @Test func aFilterThatNobodyElseSees() throws {
        let other = try Store(path: store.path)
        // No file can be made there.
        unsafe unlink(store.parts.index.filterPath)
        unsafe mkdir(store.parts.index.filterPath + ".new", 0o700)
        unsafe mkdir(store.parts.index.filterPath, 0o700)
        try write("a", Array(1...300))
        try store.create("b", byteCount: 64 << 20)
        try SharingTests.commit([(0, 1000)], to: "b", of: other)
        #expect(other.parts.index.filter.withLock { $0?.isPrivate } == true)
        try store.deleteWholly(try store.lock("a"))
        try store.settleCounts()
        #expect(try store.collect([1, 2], takesRecent: true) > 0)
        #expect(try problems() == [])
        // A merge of all that the other one has in its table.
        for start in stride(from: 0, to: 4000, by: 500) {
            try SharingTests.commit((0..<500).map { (UInt64(start + $0), UInt64(2000 + start + $0)) }, to: "b", of: other)
        }
        #expect(try problems(readData: true) == [])
        unsafe rmdir(store.parts.index.filterPath)
        unsafe rmdir(store.parts.index.filterPath + ".new")
    }

    @Test func aCommitBetweenItsCommits() throws {
        try write("a", Array(1...300))
        // More of the last pack, and a pack that `meta` knows nothing of.
        guard var builder = try store.builder(ofPack: 2) else { throw Failure(.damage, "pack 2", "missing") }
        let hasher = try SHA256()
        for number in 900..<910 as Range<UInt64> {
            let bytes = block(number)
            let digest = try hasher.digest(bytes.rawBytes)
            builder.append(digest, check: PackFormat.check(bytes.rawBytes, digest), .raw, lend(bytes))
        }
        try store.put(builder)
        #expect(try problems(readData: true) == [])
        let found = try store.statistics()
        #expect(found.uniqueBytes == 300 * 4096 && found.reclaimableBytes == 0)
        try write("b", Array(905...920))
        #expect(try problems(readData: true) == [])
        #expect(try store.statistics().uniqueBytes == 316 * 4096)
    }

    @Test func healingBetweenItsCommits() throws {
        try write("a", Array(1...20))
        // What a reader found, and another has written again since.
        var transaction = try StoreTransaction.begin(store)
        try store.parts.damage.record([BlobNumber(pack: 1, slot: 3)], &transaction.lmdb)
        try transaction.commit()
        #expect(try problems() == [])
        #expect(try problems(readData: true) == [])
        #expect(try store.statistics().damagedBlobs == 0)
    }

    @Test(arguments: 1...4) func packsThatGoBetweenTheirCommits(commits: Int) throws {
        try write("a", Array(1...400))
        try store.deleteWholly(try store.lock("a"))
        try store.completeIndex()
        try store.settleCounts()
        let copies = try store.rewrite(1...3)
        #expect(copies.map(\.new) == [nil, nil, nil])
        if commits > 1 {
            var transaction = try StoreTransaction.begin(store)
            #expect(try transaction.collect(copies, takesRecent: false) == 400 * 4096)
            try transaction.commit()
        }
        // Here, what is gone is removed, and forgotten; each pack by itself.
        if commits > 2 { try store.packs.sweep(copies[0].loose, store.versions, nil) }
        if commits > 3 { try store.sweep(copies[1].loose) }
        #expect(try problems() == [])
        #expect(try store.statistics().reclaimableBytes == (commits > 1 ? 0 : 400 * 4096))
        _ = try store.collect(shouldStop: { false }) { _, _ in }
        #expect(try problems() == [])
        #expect(try store.versionsThere().all.isEmpty && store.versionsThere().loose.isEmpty)
        #expect(try store.snapshot().last() == nil)
        try write("b", Array(1...20))
        #expect(try problems() == [])
    }

    // MARK: What is really wrong

    @Test func aCollectedBlobThatADiskNeeds() throws {
        try interruptCollection(indexing: true, commits: 2)
        // Slot 11 is block 12, which `keep` has.
        let number: UInt64 = 1
        guard let builder = try store.builder(ofPack: number, isDead: { $0 == 11 }) else { throw Failure(.damage, "pack 1", "missing") }
        try store.put(builder)
        #expect(try problems().contains { $0.contains("which is missing") })
    }

    /// A version that is current and not there, and one of which it can't be said whether it is.
    @Test(arguments: [false, true]) func aVersionThatIsMissing(isDamaged: Bool) throws {
        try interruptCollection(indexing: true, commits: 3)
        var transaction = try StoreTransaction.begin(store)
        try store.parts.versions.put(VersionState(current: 7, next: 8), of: 1, &transaction.lmdb)
        if isDamaged {
            try transaction.lmdb.put(store.parts.versions.table, 1, count: 16) { $0.zero(at: 0, count: 16) }
        }
        try transaction.commit()
        let found = try problems()
        let expected = isDamaged ? "pack 1: what says which version of it is current is damaged" : "pack 1: its version 7 is missing"
        #expect(found.contains(expected), "\(found)")
    }

    /// Entries of the index that are wrong one by one, and right in number.
    @Test(arguments: [false, true]) func anEntryInThePlaceOfAnother(isNearby: Bool) throws {
        try write("a", Array(1...300))
        try store.completeIndex()
        var transaction = try StoreTransaction.begin(store)
        let hasher = try SHA256()
        let entry = IndexEntry(try hasher.digest(block(10).rawBytes), BlobNumber(pack: 1, slot: 9))
        #expect(try store.parts.index.remove([entry], &transaction.lmdb) == [entry.blob])
        let other =
            isNearby
            ? IndexEntry(word: entry.prefix << 16, BlobNumber(pack: 1, slot: 8)) : IndexEntry(word: 77 << 16, entry.blob)
        try store.parts.index.add([other], &transaction.lmdb)
        try transaction.commit()
        let found = try problems()
        #expect(found.contains { $0.contains("digest index: blob \(other.blob) is not there") }, "\(found)")
        #expect(found.contains { $0.contains("digest index: 300 entries for 300 blobs, and not theirs") }, "\(found)")
        #expect(try store.check(readData: false, repair: true) { _, _ in }.isRepaired)
        #expect(try problems(readData: true) == [])
    }

    @Test(arguments: [true, false]) func anEntryTooFewOrTooMany(isMissing: Bool) throws {
        try write("a", Array(1...300))
        try store.completeIndex()
        var transaction = try StoreTransaction.begin(store)
        let entry = IndexEntry(try SHA256().digest(block(10).rawBytes), BlobNumber(pack: 1, slot: 9))
        if isMissing {
            _ = try store.parts.index.remove([entry], &transaction.lmdb)
        } else {
            try store.parts.index.add([IndexEntry(word: 5 << 16, BlobNumber(pack: 9, slot: 1))], &transaction.lmdb)
        }
        try transaction.commit()
        #expect(try problems().contains { $0.contains("digest index") })
    }

    /// Maps a block to a blob, whatever that is.
    func refer(_ name: String, block: UInt64, to blob: BlobNumber) throws {
        var transaction = try StoreTransaction.begin(store)
        var disk = try transaction.disk(name)
        try transaction.changeMap(of: &disk, [MapChange(block: block, blob: blob)])
        try transaction.put(disk)
        try transaction.commit()
    }

    @Test func theSameBlockTwice() throws {
        try write("a", Array(1...5))
        for isIndexed in [false, true] {
            if isIndexed { try store.completeIndex() }
            let number: UInt64 = isIndexed ? 3 : 2
            var builder = PackBuilder(number: number)
            let bytes = block(3)
            let digest = try SHA256().digest(bytes.rawBytes)
            builder.append(digest, check: PackFormat.check(bytes.rawBytes, digest), .raw, lend(bytes))
            try store.put(builder)
            // Of two writers at the same moment, one's is dead at once.
            #expect(try problems() == [])
            try refer("a", block: 100 + number, to: BlobNumber(pack: number, slot: 0))
            #expect(try problems().contains { $0.contains("hold the same block") }, "\(isIndexed)")
            try refer("a", block: 100 + number, to: .none)
        }
    }
}
