import BlobModel
import BlockModel
import Synchronization
import System
import Testing
import TestSupport

@testable import Counts
@testable import LMDB
@testable import Packs
@testable import Store

@Suite struct CollectorTests {
    let scratch: ScratchDirectory
    let store: Store

    init() throws {
        scratch = try ScratchDirectory()
        store = try Store(path: scratch.path + "/store", creating: true)
    }

    func check(_ note: Comment = "") throws {
        #expect(try store.check(readData: true, repair: false) { _, _ in }.problems == [], note)
    }

    func write(_ name: String, _ blocks: [UInt64]) throws {
        try store.write(name, blocks.map { block($0) })
    }

    @Test func aDeletedDiskGivesItsSpaceBack() throws {
        try write("keep", (1...1000).filter { $0 % 2 == 0 })
        let before = try store.storedBytes()
        try write("gone", Array(1...4000))
        try store.delete(try store.lock("gone"))
        #expect(try store.statistics().reclaimableBytes == 3500 * 4096)
        #expect(try store.collect(shouldStop: { false }) { _, _ in } == 3500 * 4096)
        let after = try store.statistics()
        #expect(after.reclaimableBytes == 0)
        #expect(after.storedBytes < before + before / 4)
        try check()
        #expect(try SharingTests.read("keep", of: store, blocks: 500) == (1...1000).filter { $0 % 2 == 0 }.flatMap { block($0) })
    }

    /// A pack of which few blobs are left is written anew in less, is read by who knows it and who does not, healed, and collected again.
    @Test func packsOfWhichFewAreLeft() throws {
        try write("all", Array(1...1000))
        let few = (0..<50).map { UInt64($0) * 20 + 1 }
        try write("few", few)
        var reader = try BlockReader(store, disk: "few")
        func expectFew() throws {
            var found = [UInt8](repeating: 0, count: few.count * blockSize)
            try found.withMutableBytes { (bytes) throws(Failure) in try reader.read(from: 0, into: &bytes) }
            #expect(found == few.flatMap { block($0) })
            #expect(try SharingTests.read("few", of: store, blocks: few.count) == few.flatMap { block($0) })
        }
        try expectFew()
        try store.delete(try store.lock("all"))
        _ = try store.collect(shouldStop: { false }) { _, _ in }
        // Some nine blobs of each.
        for pack in 1...5 as ClosedRange<UInt64> {
            let bytes = try store.bytes(ofPack: pack)
            #expect(bytes.rawBytes.load(at: 4, as: UInt16.self) == PackFormat.sparseFormat && bytes.count < 12 * blockSize, "pack \(pack)")
        }
        try expectFew()
        try check("sparse")
        // What is gone comes back elsewhere, and the last slots of packs are not taken for what is there.
        try write("again", Array(100...300))
        try expectFew()
        // Rot in the data of one.
        var bytes = try store.bytes(ofPack: 2)
        bytes[bytes.count - 100] ^= 1
        try store.put(pack: 2, bytes)
        #expect(try store.check(readData: true, repair: false) { _, _ in }.problemCount > 0)
        try write("healer", few)
        try expectFew()
        try check("healed")
        try store.delete(try store.lock("again"))
        try store.delete(try store.lock("healer"))
        _ = try store.collect(shouldStop: { false }) { _, _ in }
        try expectFew()
        try check("again")
    }

    @Test func whatWasCollectedCanComeBack() throws {
        try write("a", Array(1...300))
        try store.delete(try store.lock("a"))
        _ = try store.collect(shouldStop: { false }) { _, _ in }
        try write("a", Array(1...300))
        #expect(try store.statistics().uniqueBytes == 300 * 4096)
        try check()
    }

    /// Random writes, deletions and collections, against a set.
    @Test(arguments: 0..<6)
    func collectingLosesNothing(seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed))
        var models: [String: [UInt64]] = [:]
        for _ in 0..<14 {
            let name = ["a", "b", "c"].randomElement(using: &random) ?? "a"
            switch Int.random(in: 0..<4, using: &random) {
            case 0 where models[name] != nil:
                try store.delete(try store.lock(name))
                models[name] = nil
            case 1: _ = try store.collect(shouldStop: { false }) { _, _ in }
            default:
                let blocks = (0..<Int.random(in: 1...500, using: &random)).map { _ in UInt64.random(in: 1...900, using: &random) }
                try write(name, blocks)
                models[name] = blocks + (models[name] ?? []).dropFirst(blocks.count)
            }
            let unique = Set(models.values.flatMap { $0 })
            #expect(try store.statistics().uniqueBytes == UInt64(unique.count) * 4096, "seed \(seed)")
        }
        _ = try store.collect(shouldStop: { false }) { _, _ in }
        for (name, blocks) in models {
            #expect(try SharingTests.read(name, of: store, blocks: blocks.count) == blocks.flatMap { block($0) }, "seed \(seed)")
        }
        try check("seed \(seed)")
    }

    /// Who saw the packs before one was swept, and asks for its version when it is forgotten, takes it for sealed: what it finds there is looked at
    /// again, under the lock, as the store says that something was written anew since.
    @Test func aPackIsForgottenUnderAWriterThatLooks() throws {
        try write("a", Array(1...300))
        try write("b", [299, 300])
        try store.deleteWholly(try store.lock("a"))
        try store.completeIndex()
        try store.settleCounts()
        let copies = try store.rewrite([1])
        var transaction = try StoreTransaction.begin(store)
        _ = try transaction.collect(copies, takesRecent: false)
        try transaction.commit()
        let before = try store.superblock()
        let snapshot = try store.snapshot()
        // Its packs are seen from here on, their versions from the first question on.
        try store.sweep(copies.flatMap(\.loose))
        #expect(try snapshot.pack(1) != nil)
        let after = try store.superblock()
        #expect(after.rewrites != before.rewrites)
    }

    /// The process is killed behind each of its commits: nothing is wrong then, and the next collection does what is left.
    @Test(arguments: 1...4, [false, true]) func aCollectionThatIsKilled(commits: Int, isWholly: Bool) throws {
        try write("a", Array(1...300))
        try write("b", isWholly ? [299, 300] : Array(150...260))
        try store.deleteWholly(try store.lock("a"))
        try store.completeIndex()
        try store.settleCounts()
        let copies = try store.rewrite([1, 2])
        #expect(copies.map(\.new) == (isWholly ? [nil, 1] : [1, 1]))
        if commits > 1 {
            var transaction = try StoreTransaction.begin(store)
            #expect(try transaction.collect(copies, takesRecent: false) == (isWholly ? 298 : 189) * 4096)
            try transaction.commit()
        }
        let loose = copies.flatMap(\.loose)
        if commits > 2 { try store.packs.sweep(loose, store.versions, nil) }
        if commits > 3 { try store.packs.sweep(loose, store.versions, nil) }
        try check("\(commits)")
        let there = try store.statistics()
        #expect(there.uniqueBytes == (isWholly ? 2 : 111) * 4096)
        #expect(there.reclaimableBytes == (commits > 1 ? 0 : isWholly ? 298 : 189) * 4096)
        // Content that was just collected is written again.
        try write("c", Array(1...20))
        try check("\(commits)")
        #expect(try store.statistics().uniqueBytes == (isWholly ? 22 : 131) * 4096)
        _ = try Store(path: store.path).collect(shouldStop: { false }) { _, _ in }
        try check("\(commits)")
        #expect(try store.statistics().reclaimableBytes == 0)
        let left = try store.versionsThere()
        #expect(left.loose.isEmpty && left.all.count == Set(left.all.map(\.number)).count)
        #expect(try SharingTests.read("c", of: store, blocks: 20) == (1...20).flatMap { block(UInt64($0)) })
        let reading = try ReadTransaction(store.meta)
        var gone = 0
        try store.parts.versions.forEach(reading.view) { (_, state) throws(Failure) in if state?.current == nil { gone += 1 } }
        #expect(gone == 0)
    }

    /// Other writers commit while packs are written anew; another collection does the same to the same packs, before or behind.
    @Test(arguments: 0..<3) func othersMayComeInBetween(who: Int) throws {
        try write("a", Array(1...300))
        try write("b", Array(250...260))
        try store.deleteWholly(try store.lock("a"))
        try store.completeIndex()
        try store.settleCounts()
        let other = try Store(path: store.path)
        var isFirst = true
        let freed = try store.collect([1, 2]) { () throws(Failure) in
            defer { isFirst = false }
            guard isFirst else { return }
            #expect(throws: Never.self) {
                switch who {
                case 0: try StoreTransaction.begin(other).commit()
                case 1: #expect(try other.collect([1, 2]) == 289 * 4096)
                // One that gives up what it finds: of the first pack nothing was written.
                default: while let next = try other.sweepLeftovers(from: 0) { #expect(next > 0) }
                }
            }
        }
        #expect(freed == [289, 0, 184][who] * 4096)
        try check()
        _ = try store.collect(shouldStop: { false }) { _, _ in }
        #expect(try store.statistics().reclaimableBytes == 0)
        #expect(try store.versionsThere().loose.isEmpty)
        try check()
    }

    /// A reader of an old state goes on reading what was there, over all that a collection does.
    @Test func aReaderOfAnOldState() throws {
        try write("a", Array(1...300))
        try write("b", Array(250...260))
        try store.settleCounts()
        let old = try store.state()
        func sum() throws -> Int {
            var sum = 0
            try old.packs.forEachPack { (_, pack) throws(Failure) in
                if let pack { sum += (0..<pack.slotCount).count { !pack.isCollected($0) } }
                return true
            }
            return sum
        }
        #expect(try sum() == 300)
        try store.deleteWholly(try store.lock("a"))
        #expect(try store.collect(shouldStop: { false }) { _, _ in } == 289 * 4096)
        #expect(try sum() == 300)
        var finder = PackFinder(old.packs)
        var room = [UInt8](repeating: 0, count: blockSize)
        let reading = try room.withMutableBytes { (bytes) throws(Failure) in
            try finder.copyBlock(BlobNumber(pack: 1, slot: 7), to: &bytes, at: 0, BlobDecoder())
        }
        #expect(reading == .read && room == block(8))
        try check()
    }

    /// Readers of what lies between that which comes and goes, while it is collected all the time.
    @Test func readersBesideCollections() throws {
        try store.create("keep", byteCount: 16 << 20)
        let path = store.path, rounds = 12
        let kept = (0..<400 as Range<UInt64>).map { 1 + 3 * $0 }
        let isDone = Atomic(0)
        let writer = { @Sendable () throws in
            defer { isDone.add(1, ordering: .relaxed) }
            let store = try Store(path: path)
            for round in 0..<UInt64(rounds) {
                // Between the kept ones, and as new ones.
                let numbers = (1...1200 as ClosedRange<UInt64>).map { $0 % 3 == 1 && round == 0 ? $0 : 10_000 * (round + 1) + $0 }
                try store.write("gone", numbers.map { block($0) })
                if round == 0 { try SharingTests.commit(kept.enumerated().map { (UInt64($0), $1) }, to: "keep", of: store) }
                try store.delete(try store.lock("gone"))
            }
        }
        let collector = { @Sendable () throws in
            let store = try Store(path: path)
            while isDone.load(ordering: .relaxed) < 1 { _ = try store.collect(shouldStop: { false }) { _, _ in } }
        }
        let expected = kept.flatMap { block($0) }
        let reader = { @Sendable () throws in
            let store = try Store(path: path)
            var reader = try BlockReader(store, disk: "keep")
            var bytes = [UInt8](repeating: 0, count: expected.count)
            while isDone.load(ordering: .relaxed) < 1 {
                try bytes.withMutableBytes { (span) throws(Failure) in try reader.read(from: 0, into: &span) }
                let isThere = bytes.contains { $0 != 0 }
                #expect(!isThere || bytes == expected)
                #expect(try store.check(readData: false, repair: false) { _, _ in }.problems == [])
                _ = try store.statistics()
                #expect(try reader.mapped(from: 0, to: 400, limit: 400).blocks.allSatisfy { $0.digest != nil })
            }
        }
        SharingTests.together([writer, collector, reader, reader])
        try check()
        _ = try store.collect(shouldStop: { false }) { _, _ in }
        #expect(try SharingTests.read("keep", of: store, blocks: 400) == expected)
        #expect(try store.statistics().reclaimableBytes == 0)
        try check()
    }

    /// Where the index could not be completed, recent blobs are collected as well, and come back as others.
    @Test func recentBlobs() throws {
        try write("a", Array(1...300))
        try write("b", Array(250...260))
        try store.deleteWholly(try store.lock("a"))
        try store.settleCounts()
        #expect(try store.collect([1, 2]) == 0)
        #expect(try store.collect([1, 2], takesRecent: true) == 289 * 4096)
        try check()
        try write("c", Array(1...300))
        try check()
        try store.completeIndex()
        try check()
        #expect(try store.statistics().uniqueBytes == 300 * 4096)
        #expect(try store.statistics().reclaimableBytes == 0)
    }

    @Test func repairKnowsWhatIsCollected() throws {
        try write("a", Array(1...300))
        try write("b", Array(1...10))
        try store.deleteWholly(try store.lock("a"))
        _ = try store.collect(shouldStop: { false }) { _, _ in }
        var transaction = try StoreTransaction.begin(store)
        transaction.counts.totals.live += 1
        try store.parts.index.clear(&transaction.superblock.index, &transaction.lmdb)
        try transaction.commit()
        let report = try store.check(readData: false, repair: true) { _, _ in }
        #expect(report.isRepaired)
        try check()
        #expect(try store.statistics().uniqueBytes == 10 * 4096)
    }
}
