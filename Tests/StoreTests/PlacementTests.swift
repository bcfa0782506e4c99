import BlobModel
import BlockModel
@testable import Index
@testable import Packs
import Synchronization
import System
import Testing
import TestSupport

@testable import Store

/// What is stored before the store's lock is taken: whose it is, and what becomes of it when others come in between. Each `Store` here
/// stands for a process of its own.
@Suite struct PlacementTests {
    let scratch: ScratchDirectory
    let a, b: Store

    init() throws {
        scratch = try ScratchDirectory()
        a = try Store(path: scratch.path + "/store", creating: true)
        b = try Store(path: scratch.path + "/store")
        for name in ["a", "b"] { try a.create(name, byteCount: 64 << 20) }
        // A filter, without which nothing is placed early.
        for (name, store) in [("a", a), ("b", b)] { try SharingTests.commit([(0, 9_999)], to: name, of: store) }
        try SharingTests.commit([(0, 0)], to: "b", of: b)
        try SharingTests.commit([(0, 0)], to: "a", of: a)
    }

    /// A batch of these blocks, on the disk from block 0 on.
    static func staged(_ numbers: some Sequence<UInt64>, _ store: Store) throws -> Batch {
        let batch = try Batch(store)
        for (place, number) in numbers.enumerated() { unsafe batch.append(UInt64(place), lending: lend(block(number)).address) }
        return batch
    }

    static func batch(_ numbers: some Sequence<UInt64>, _ store: Store) throws -> HashedBatch { try staged(numbers, store).finishHashing() }

    func expectClean(location: SourceLocation = #_sourceLocation) throws {
        let problems = try a.check(readData: true, repair: false) { _, _ in }.problems
        #expect(problems == [], sourceLocation: location)
    }

    func expect(_ name: String, _ numbers: some Sequence<UInt64>, location: SourceLocation = #_sourceLocation) throws {
        let expected = numbers.flatMap { block($0) }
        #expect(try SharingTests.read(name, of: a, blocks: expected.count / blockSize) == expected, sourceLocation: location)
    }

    static func recordLock() { Issue.record("it took the lock") }

    func collect() throws -> UInt64 { try b.collect(shouldStop: { false }) { _, _ in } }

    /// Two store the same content at the same moment. Whoever commits first, both refer to what was stored first.
    @Test(arguments: [false, true]) func twoThatStoredTheSame(isFirstLast: Bool) throws {
        let mine = try Self.batch(1...300, a), others = try Self.batch(101...400, b)
        guard var second = try b.lookUp(others), let first = try a.place(mine, nil) else { return Self.recordLock() }
        try second.placement.seal(others, in: b.packs, .raw, behind: second.superblock.counted, nil)
        let counts = [first.placement.stored.count, second.placement.stored.count]
        #expect(counts == [300, 300])
        if isFirstLast {
            _ = try b.commit(others, second, to: "b")
            _ = try a.commit(mine, first, to: "a")
        } else {
            _ = try a.commit(mine, first, to: "a")
            _ = try b.commit(others, second, to: "b")
        }
        try expectClean()
        try expect("a", 1...300)
        try expect("b", 101...400)
        let statistics = try a.statistics()
        #expect(statistics.uniqueBytes == 400 * 4096)
        // With the block that was there in the beginning.
        #expect(statistics.reclaimableBytes == 201 * 4096)
        #expect(try collect() == 201 * 4096)
        try expectClean()
        try expect("a", 1...300)
        try expect("b", 101...400)
    }

    /// What another has stored and not committed yet is found, too.
    @Test func whatAnotherIsAboutToCommit() throws {
        let mine = try Self.batch(1...300, a), others = try Self.batch(101...400, b)
        guard let first = try a.place(mine, nil), let second = try b.place(others, nil) else { return Self.recordLock() }
        let count = second.placement.stored.count
        #expect(count == 100)
        _ = try b.commit(others, second, to: "b")
        _ = try a.commit(mine, first, to: "a")
        #expect(try a.statistics().uniqueBytes == 400 * 4096)
        #expect(try a.statistics().reclaimableBytes == 4096)
        try expectClean()
        try expect("a", 1...300)
        try expect("b", 101...400)
    }

    /// As long as it is about to be referred to, nobody collects it; afterwards everybody may.
    @Test func whatIsPlacedBelongsToItsWriter() throws {
        let batch = try Self.batch(1...300, a)
        guard let early = try a.place(batch, nil) else { return Self.recordLock() }
        // The block of the beginning, which shares a pack with some of these, stays as well.
        #expect(try collect() == 0)
        #expect(try a.statistics().reclaimableBytes == 301 * 4096)
        _ = try a.commit(batch, early, to: "a")
        try expect("a", 1...300)
        #expect(try collect() == 4096)
        try expectClean()
        try expect("a", 1...300)
        // One who gives up. The collection took the filter with it.
        try SharingTests.commit([(0, 1)], to: "a", of: a)
        guard let lost = try a.place(try Self.batch(1001...1200, a), nil) else { return Self.recordLock() }
        #expect(try collect() == 0)
        _ = consume lost
        #expect(try collect() == 200 * 4096)
        try expectClean()
        try expect("a", 1...300)
    }

    /// Blobs that were found, and were collected before anything could refer to them, are stored again; in the midst of a collection as well.
    @Test(arguments: 0..<3) func whatWasFoundIsCollected(moment: Int) throws {
        try SharingTests.commit((0..<300).map { ($0, 1 + $0) }, to: "b", of: b)
        try b.deleteWholly(try b.lock("b"))
        try b.completeIndex()
        try b.settleCounts()
        // Twice the same among them.
        let numbers = (1...200).map { UInt64($0) } + [7, 7, 500, 500]
        let batch = try Self.batch(numbers, a)
        func collectPacks() throws { _ = try b.collect([1, 2]) }
        if moment == 1 {
            // It is found in the midst of the collection, before what was written anew is current.
            var early: EarlyPlacement?
            var isFirst = true
            _ = try b.collect([1, 2]) { () throws(Failure) in
                if isFirst { early = try a.place(batch, nil) }
                isFirst = false
            }
            let isThere = early != nil
            #expect(isThere)
            _ = try a.commit(batch, early.take(), to: "a")
        } else {
            guard let early = try a.place(batch, nil) else { return Self.recordLock() }
            let counts = [early.placement.hits.count, early.placement.stored.count]
            #expect(counts == [202, 1])
            if moment == 2 { _ = try collect() } else { try collectPacks() }
            _ = try a.commit(batch, early, to: "a")
        }
        try expectClean()
        try expect("a", numbers)
        #expect(try a.statistics().uniqueBytes == 201 * 4096)
    }

    /// A collection that comes to a commit and then to nothing, as its process is killed, or there is no room: having written packs anew, or made
    /// them current.
    @Test(arguments: 1...2) func whatWasFoundIsCollectedByOneThatDies(commits: Int) throws {
        try SharingTests.commit((0..<300).map { ($0, 1 + $0) }, to: "b", of: b)
        try b.deleteWholly(try b.lock("b"))
        try b.completeIndex()
        try b.settleCounts()
        try SharingTests.commit([(0, 2)], to: "a", of: a)
        let batch = try Self.batch(1...200, a)
        guard let early = try a.place(batch, nil) else { return Self.recordLock() }
        var done = 0
        #expect(throws: Failure.self) {
            try b.collect([1, 2]) { () throws(Failure) in
                done += 1
                if done == commits { throw Failure(.system, "collect", "killed") }
            }
        }
        try expectClean()
        _ = try a.commit(batch, early, to: "a")
        try expectClean()
        try expect("a", 1...200)
        _ = try collect()
        try expectClean()
        try expect("a", 1...200)
        #expect(try a.versionsThere().loose.isEmpty)
        #expect(try a.statistics().reclaimableBytes == 0)
    }

    /// Dead blobs that come to life while their pack is written anew: that pack is left as it is.
    @Test(arguments: [false, true]) func whatIsReferredToMeanwhileStays(isPutOff: Bool) throws {
        try SharingTests.commit((0..<300).map { ($0, 1 + $0) }, to: "b", of: b)
        try b.deleteWholly(try b.lock("b"))
        try b.completeIndex()
        try b.settleCounts()
        // Few changes of a pack's counts are deferred, many are not. The first slot has what the stores began with.
        let count = isPutOff ? 3 : 60
        let batch = try Self.staged((1...count).map { UInt64($0) }, a)
        var isFirst = true
        let freed = try b.collect([1, 2]) { () throws(Failure) in
            if isFirst { try a.commit(batch, to: "a") }
            isFirst = false
        }
        try expect("a", 1...UInt64(count))
        try expectClean()
        #expect(freed == UInt64(300 - 183) * 4096)
        #expect(try a.current(1) == PackVersion(1, 0))
        _ = try collect()
        try expect("a", 1...UInt64(count))
        try expectClean()
        #expect(try a.statistics().reclaimableBytes == 0)
        #expect(try a.versionsThere().all.count == 1)
    }

    /// What a commit remembers of where packs are is not what it was before a collection: it would take for there what is gone.
    @Test func whatACommitRemembersOfPacks() throws {
        try SharingTests.commit((0..<300).map { ($0, 1 + $0) }, to: "b", of: b)
        // Alive in both packs, so that these stay.
        try SharingTests.commit([(0, 300), (1, 120)], to: "a", of: a)
        try b.deleteWholly(try b.lock("b"))
        try b.completeIndex()
        try b.settleCounts()
        let copies = try b.rewrite([1, 2])
        // Nothing is stored from here on: it finds all of these, and knows where their packs are.
        let batch = try Self.batch(1...299, a)
        guard let early = try a.place(batch, nil) else { return Self.recordLock() }
        let found = early.placement.hits.count
        #expect(found == 299)
        var transaction = try StoreTransaction.begin(b)
        #expect(try transaction.collect(copies, takesRecent: false) == 299 * 4096)
        try transaction.commit()
        _ = try a.commit(batch, early, to: "a")
        try expectClean()
        try expect("a", 1...299)
    }

    enum SecondMoment: CaseIterable { case committed, indexedFirst, rebuilt }

    /// What was stored second lies behind what was not: who goes by its neighbour must not find it.
    /// - Parameter moment: when the index is made complete, by a collection or a repair, which may be the first to see what was stored second.
    @Test(arguments: SecondMoment.allCases) func theSecondOfItsContentIsNobodysNext(moment: SecondMoment) throws {
        let mine = try Self.batch(101...300, a), others = try Self.batch(1...400, b)
        guard var second = try b.lookUp(others), let first = try a.place(mine, nil) else { return Self.recordLock() }
        try second.placement.seal(others, in: b.packs, .raw, behind: second.superblock.counted, nil)
        if moment == .indexedFirst { try b.completeIndex() }
        _ = try a.commit(mine, first, to: "a")
        _ = try b.commit(others, second, to: "b")
        if moment == .rebuilt { try b.rebuild() }
        try a.create("c", byteCount: 1 << 20)
        for store in [a, b] {
            try SharingTests.commit([(0, 100), (1, 101), (2, 102)], to: "c", of: store)
            try expectClean()
        }
        #expect(try a.statistics().uniqueBytes == 400 * 4096)
        // Nor does a filter that is made anew make it the first.
        try a.parts.index.retireFilter()
        try SharingTests.commit((0..<400).map { ($0, 1 + $0) }, to: "a", of: a)
        try expectClean()
        _ = try collect()
        try SharingTests.commit((0..<400).map { ($0, 1 + $0) }, to: "b", of: b)
        try expectClean()
        #expect(try a.statistics().uniqueBytes == 400 * 4096)
        #expect(try a.statistics().reclaimableBytes == 0)
    }

    /// What is found damaged after it was placed is healed under the lock.
    @Test func whatIsFoundDamagedMeanwhile() throws {
        try SharingTests.commit((0..<20).map { ($0, 1 + $0) }, to: "b", of: b)
        let batch = try Self.batch(1...10, a)
        guard let early = try a.place(batch, nil) else { return Self.recordLock() }
        #expect(try Files.flip(a.path + "/packs/data.mdb", every: block(5), skip: 100) == 1)
        #expect(throws: Failure.self) { try SharingTests.read("b", of: a, blocks: 20) }
        _ = try a.commit(batch, early, to: "a")
        try expect("a", 1...10)
        try expect("b", 1...20)
        try expectClean()
    }

    /// Writers of the same and of other blocks, those who delete and those who collect, all at once.
    @Test(arguments: 0..<8) func allAtOnce(seed: Int) throws {
        let path = a.path
        let models = Mutex<[String: [UInt64]]>([:])
        let writers: [@Sendable () throws -> Void] = (0..<3).map { number in
            { @Sendable () throws in
                let store = try Store(path: path)
                var random = SeededGenerator(seed: UInt64(seed * 10 + number))
                let name = "w\(number)"
                try store.create(name, byteCount: 64 << 20)
                var model = [UInt64](repeating: 0, count: 400)
                for round in 0..<25 {
                    let start = Int.random(in: 0..<300, using: &random)
                    var changes: [(place: UInt64, number: UInt64)] = []
                    for place in start..<start + Int.random(in: 1...100, using: &random) {
                        model[place] = UInt64.random(in: 0...600, using: &random)
                        changes.append((UInt64(place), model[place]))
                    }
                    try SharingTests.commit(changes, to: name, of: store)
                    if round % 8 == 7 {
                        try store.delete(try store.lock(name))
                        try store.create(name, byteCount: 64 << 20)
                        model = [UInt64](repeating: 0, count: 400)
                    }
                }
                let last = model
                models.withLock { $0[name] = last }
            }
        }
        let isDone = Atomic(0)
        let collector = { @Sendable () throws in
            let store = try Store(path: path)
            while isDone.load(ordering: .relaxed) < 3 { _ = try store.collect(shouldStop: { false }) { _, _ in } }
        }
        SharingTests.together(
            writers.map { body in
                { @Sendable () throws in
                    defer { isDone.add(1, ordering: .relaxed) }
                    try body()
                }
            } + [collector])
        try expectClean()
        let found = models.withLock { $0 }
        #expect(found.count == 3)
        for (name, model) in found { try expect(name, model) }
        let unique = Set(found.values.joined()).subtracting([0])
        #expect(try a.statistics().uniqueBytes == UInt64(unique.count * blockSize), "seed \(seed)")
        _ = try collect()
        #expect(try a.statistics().reclaimableBytes == 0, "seed \(seed)")
        try expectClean()
        for (name, model) in found { try expect(name, model) }
    }
}
