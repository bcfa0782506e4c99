import System
import Testing
import TestSupport

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

    /// The power fails between the commit of the packs and that of the index.
    @Test func anInterruptedCollectionIsFinishedByTheNextWriter() throws {
        try write("a", Array(1...300))
        try write("b", Array(250...260))
        try store.delete(try store.lock("a"))
        try store.completeIndex()
        var note = try StoreTransaction.begin(store)
        note.superblock.beginCollecting(1, 2)
        try note.commit()
        let transaction = try StoreTransaction.begin(store, rebuilding: true)
        try transaction.rewrite([1, 2])
        transaction.abandon()
        // Content that was just collected is written again by the writer that finishes.
        try write("c", Array(1...20))
        try check()
        #expect(try store.statistics().uniqueBytes == 31 * 4096)
        #expect(try store.statistics().reclaimableBytes == 0)
    }

    /// Other writers commit between the note and the work; another collection puts its own note in its place.
    @Test(arguments: [false, true]) func othersMayComeBetweenTheNoteAndTheWork(collects: Bool) throws {
        try write("a", Array(1...300))
        try write("b", Array(250...260))
        try store.delete(try store.lock("a"))
        try store.completeIndex()
        try store.settleCounts()
        var notes = 0
        let freed = try store.collect([1, 2]) {
            notes += 1
            guard notes == 1 else { return }
            #expect(throws: Never.self) {
                var other = try StoreTransaction.begin(store)
                if collects { other.superblock.beginCollecting(2, 2) }
                try other.commit()
            }
        }
        #expect(notes == (collects ? 2 : 1))
        #expect(freed == 289 * 4096)
        #expect(try store.statistics().reclaimableBytes == 0)
        try check()
    }

    @Test func repairKnowsWhatIsCollected() throws {
        try write("a", Array(1...300))
        try write("b", Array(1...10))
        try store.delete(try store.lock("a"))
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
