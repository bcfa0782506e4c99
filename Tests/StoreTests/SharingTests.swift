import BlockModel
import Catalogue
import Glibc
import Hashing
import Synchronization
import System
import Testing
import TestSupport

@testable import LMDB
@testable import Maps
@testable import Packs
@testable import Store

/// What several users of one store may do to each other, and what those leave who go without a word.
@Suite struct SharingTests {
    let scratch: ScratchDirectory
    let store: Store

    init() throws {
        scratch = try ScratchDirectory()
        store = try Store(path: scratch.path + "/store", creating: true)
    }

    func expectClean(location: SourceLocation = #_sourceLocation) throws {
        #expect(try store.check(readData: true, repair: false) { _, _ in }.problems == [], sourceLocation: location)
    }

    static func commit(_ blocks: [(place: UInt64, number: UInt64)], to disk: String, of store: Store) throws {
        let batch = try Batch(store)
        let sorted = blocks.sorted { $0.place < $1.place }
        let data = sorted.flatMap { block($0.number) }
        try unsafe data.withUnsafeBytes { bytes in
            for (index, place) in sorted.map(\.place).enumerated() {
                unsafe batch.append(place, lending: bytes.baseAddress! + index * blockSize)
            }
            try store.commit(batch, to: disk)
        }
    }

    static func read(_ disk: String, of store: Store, blocks: Int) throws -> [UInt8] {
        var reader = try BlockReader(store, disk: disk)
        var bytes = [UInt8](repeating: 0xa5, count: blocks * blockSize)
        try bytes.withMutableBytes { (span) throws(Failure) in try reader.read(from: 0, into: &span) }
        return bytes
    }

    /// Runs bodies on threads of their own; LMDB's write transactions belong to a thread.
    static func together(_ bodies: [@Sendable () throws -> Void]) {
        let problems = Mutex<[String]>([])
        let left = Atomic(bodies.count)
        withoutActuallyEscaping({ (index: Int) in
            do { try bodies[index]() } catch { problems.withLock { $0.append("\(error)") } }
            left.subtract(1, ordering: .sequentiallyConsistent)
        }) { run in
            final class Job: @unchecked Sendable {
                let run: () -> Void
                init(_ run: @escaping () -> Void) { self.run = run }
            }
            var threads: [pthread_t] = []
            for index in bodies.indices {
                var thread = pthread_t()
                let job = unsafe Unmanaged.passRetained(Job { run(index) })
                unsafe pthread_create(
                    &thread, nil,
                    { argument in
                        if let argument = unsafe argument { unsafe Unmanaged<Job>.fromOpaque(argument).takeRetainedValue().run() }
                        return nil
                    }, job.toOpaque())
                threads.append(thread)
            }
            for thread in threads { pthread_join(thread, nil) }
        }
        #expect(problems.withLock { $0 } == [])
        #expect(left.load(ordering: .sequentiallyConsistent) == 0)
    }

    @Test func twoWritersStoreEachBlockOnce() throws {
        let path = store.path
        try store.create("a", byteCount: 8 << 20)
        try store.create("b", byteCount: 8 << 20)
        let bodies = ["a", "b"].map { name in
            { @Sendable () throws in
                // A store of its own: another opening, as another process would have it.
                let mine = name == "a" ? try Store(path: path) : self.store
                for start in stride(from: 0 as UInt64, to: 1000, by: 50) {
                    try Self.commit((start..<start + 50).map { ($0, 1 + $0 % 700) }, to: name, of: mine)
                }
            }
        }
        Self.together(bodies)
        let expected = (0..<1000 as Range<UInt64>).flatMap { block(1 + $0 % 700) }
        for name in ["a", "b"] { #expect(try Self.read(name, of: store, blocks: 1000) == expected) }
        let statistics = try store.statistics()
        #expect(statistics.uniqueBytes == 700 * 4096)
        #expect(statistics.mappedBytes == 2000 * 4096)
        // What both stored at the same moment is there twice, and one of the two is dead at once.
        try expectClean()
        #expect(try store.collect(shouldStop: { false }) { _, _ in } == statistics.reclaimableBytes)
        #expect(try store.statistics().reclaimableBytes == 0)
        for name in ["a", "b"] { #expect(try Self.read(name, of: store, blocks: 1000) == expected) }
        try expectClean()
    }

    /// A writer dies between its two commits: its blobs are there, and nobody refers to them.
    @Test(arguments: [(0, 3), (150, 300), (184, 5)]) func blobsWithoutAnOwnerAreAdopted(before: Int, orphans: Int) throws {
        try store.create("d", byteCount: 8 << 20)
        if before > 0 { try Self.commit((0..<UInt64(before)).map { ($0, 1 + $0) }, to: "d", of: store) }
        // As a commit would go on: the open pack filled up, then further ones.
        let hasher = try SHA256()
        let blobs = try (0..<orphans).map { number in
            let data = block(UInt64(5000 + number))
            let digest = try hasher.digest(data.rawBytes)
            return NewBlob(digest: digest, check: PackFormat.check(data.rawBytes, digest), source: lend(data))
        }
        _ = try store.packs.seal(blobs, .raw, nil)
        try expectClean()
        let packsBefore = try store.check(readData: false, repair: false) { _, _ in }.blobs
        #expect(packsBefore == before + orphans)
        // The same blocks and some more: what is there already is found.
        try Self.commit((0..<UInt64(orphans + 10)).map { (1000 + $0, 5000 + $0) }, to: "d", of: store)
        let report = try store.check(readData: true, repair: false) { _, _ in }
        #expect(report.problems == [])
        #expect(report.blobs == before + orphans + 10)
        #expect(try store.statistics().uniqueBytes == UInt64(before + orphans + 10) * 4096)
    }

    /// Trimming between commits and under a reader who takes his time.
    @Test(arguments: 0..<4) func trimmingLosesNothing(seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed))
        let blocks = 600
        try store.create("d", byteCount: UInt64(blocks * blockSize))
        var model = [UInt64](repeating: 0, count: blocks)
        let reader = try Store(path: store.path)
        var long: ReadTransaction? = nil
        var longPacks: PackSnapshot? = nil
        var seen: [UInt64: Int] = [:]
        for round in 0..<40 {
            var changes: [UInt64: UInt64] = [:]
            for _ in 0..<Int.random(in: 1...120, using: &random) {
                changes[UInt64.random(in: 0..<UInt64(blocks), using: &random)] = UInt64.random(in: 0...4000, using: &random)
            }
            try Self.commit(changes.map { ($0.key, $0.value) }, to: "d", of: store)
            for (place, number) in changes { model[Int(place)] = number }
            if round % 3 == 0 { try store.trim() }
            if round % 10 == 4 {
                long = try ReadTransaction(reader.meta)
                longPacks = try reader.snapshot()
                seen = try Self.sizes(long, longPacks, reader)
            }
            if round % 10 == 9 {
                // What it saw is as it was, down to the bytes.
                #expect(try Self.sizes(long, longPacks, reader) == seen, "seed \(seed), round \(round)")
                long = nil
                longPacks = nil
                try store.unmap("d", from: 0, to: 100)
                for place in 0..<100 { model[place] = 0 }
            }
            if round % 8 == 7 { #expect(try Self.read("d", of: store, blocks: blocks) == model.flatMap { block($0) }, "seed \(seed), round \(round)") }
        }
        try store.trim()
        #expect(try Self.read("d", of: store, blocks: blocks) == model.flatMap { block($0) }, "seed \(seed)")
        #expect(try Self.read("d", of: reader, blocks: blocks) == model.flatMap { block($0) }, "seed \(seed)")
        try expectClean()
    }

    /// A fingerprint of all that a transaction sees of packs and map nodes.
    static func sizes(_ meta: borrowing ReadTransaction?, _ packs: borrowing PackSnapshot?, _ store: Store) throws -> [UInt64: Int] {
        var found: [UInt64: Int] = [:]
        switch packs {
        case .some(let packs):
            try packs.forEachPack { (number, pack) throws(Failure) in
                if let pack { found[number] = Int(truncatingIfNeeded: checksum(pack.bytes)) }
                return true
            }
        case .none: break
        }
        switch meta {
        case .some(let meta):
            var cursor = try meta.view.cursor(store.parts.maps.nodes.nodes)
            var more = try cursor.first()
            while more {
                found[1 << 40 + (cursor.integerKey ?? 0)] = Int(truncatingIfNeeded: checksum(cursor.value))
                more = try cursor.next()
            }
        case .none: break
        }
        return found
    }

    @Test func deletingGivesEverythingBack() throws {
        for name in ["a", "b", "c"] {
            try store.create(name, byteCount: 64 << 30)
            try Self.commit((0..<300).map { ($0 * 7919 * 5 % 16_000_000, 1 + $0 % 250) }, to: name, of: store)
        }
        #expect(try store.statistics().uniqueBytes == 250 * 4096)
        for (index, name) in ["b", "a", "c"].enumerated() {
            try store.deleteWholly(try store.lock(name))
            let statistics = try store.statistics()
            #expect(statistics.disks.count == 2 - index)
            #expect(statistics.mappedBytes == UInt64(2 - index) * 300 * 4096)
            #expect(statistics.uniqueBytes == (index == 2 ? 0 : 250 * 4096))
            try expectClean()
        }
        let reading = try ReadTransaction(store.meta)
        let nodes = try store.parts.maps.nodeCount(reading.view)
        #expect(nodes == 0)
        let disks = try store.parts.catalogue.disks(reading.view).count
        #expect(disks == 0)
        for number in 1...3 { #expect(unsafe access(store.journalPath(UInt64(number)), F_OK) != 0) }
        try store.settleCounts()
        #expect(try store.superblock().totals.live == 0)
    }

    /// Between the look at what is left of a disk and its deletion, another may have deleted that, and made a disk of that name.
    @Test func aDiskInThePlaceOfALeftover() throws {
        let leftover: DiskRecord
        do {
            let lock = try store.createIncomplete("d", byteCount: 1 << 20)
            leftover = lock.record
        }
        try store.create("d", byteCount: 1 << 20)
        try Self.commit([(0, 1)], to: "d", of: store)
        try store.deleteLeftover(leftover)
        #expect(try Self.read("d", of: store, blocks: 1) == block(1))
    }

    @Test func whatAnInterruptedImportLeftIsRemoved() throws {
        try store.create("kept", byteCount: 1 << 20)
        try Self.commit([(0, 1)], to: "kept", of: store)
        _ = try store.createIncomplete("half", byteCount: 1 << 40)
        try Self.commit((0..<300).map { ($0 * 1000, 1 + $0) }, to: "half", of: store)
        #expect(try store.disks().map(\.name) == ["kept"])
        #expect(try store.disk("half") == nil)
        do {
            // Somebody is at it.
            let lock = try store.lock("half")
            try store.removeLeftovers()
            // It is not a disk yet, and stays.
            #expect(try store.statistics().uniqueBytes == 4096)
            #expect(try store.check(readData: false, repair: false) { _, _ in }.mappedBlocks == 301)
            _ = consume lock
        }
        try store.removeLeftovers()
        #expect(try store.statistics().uniqueBytes == 4096)
        try expectClean()
        // A disk of that name takes the place of one that was left half done.
        _ = try store.createIncomplete("half", byteCount: 1 << 40)
        try Self.commit([(5, 9)], to: "half", of: store)
        try store.create("half", byteCount: 8192)
        #expect(try Self.read("half", of: store, blocks: 2) == [UInt8](repeating: 0, count: 8192))
        try expectClean()
    }
}
