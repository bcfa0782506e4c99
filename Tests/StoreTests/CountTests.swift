import BlobModel
import BlockModel
import Hashing
import System
import Testing
import TestSupport

@testable import Counts
@testable import LMDB
@testable import Packs
@testable import Store

/// Reference counts against the dictionary that they stand for: those in table `counts`, and those that are deferred.
@Suite struct CountTests {
    let scratch: ScratchDirectory
    let store: Store

    init() throws {
        scratch = try ScratchDirectory()
        store = try Store(path: scratch.path + "/store", creating: true)
    }

    /// A pack of so many blobs.
    func addPack(_ number: UInt64, slots: Int) throws {
        try store.addPack(number, of: (0..<slots).map { Digest(UInt64($0 + 1) << 48 | number, 0, 0, 0) })
    }

    /// Those of some packs, by one reader.
    func counts(_ packs: [UInt64]) throws -> [[UInt32]?] {
        let reading = try ReadTransaction(store.meta)
        var reader = store.parts.counts.reader(reading.view)
        var counts: [[UInt32]?] = []
        for pack in packs { counts.append(try reader.counts(ofPack: pack)?.now) }
        return counts
    }

    func counts(_ pack: UInt64) throws -> [UInt32]? { try counts([pack])[0] }

    /// What is deferred.
    func deferred() throws -> Int {
        let reading = try ReadTransaction(store.meta)
        return try reading.view.count(store.parts.counts.changes)
    }

    func change(_ changes: [BlobNumber: Int64]) throws {
        var transaction = try StoreTransaction.begin(store)
        for (blob, change) in changes { transaction.maps.references.refer(to: blob, change) }
        try transaction.commit()
    }

    @Test(arguments: [false, true]) func countsGrowAndShrinkInWidth(settling: Bool) throws {
        try addPack(1, slots: 3)
        let blob = BlobNumber(pack: 1, slot: 1)
        var expected: Int64 = 0
        for step in [255, 1, 65279, 1, 4_294_901_758, 1] as [Int64] {
            if expected == Int64(UInt32.max) { break }
            // What is deferred takes 16 bits a time.
            for part in stride(from: 0, to: step, by: 1 << 24) { try change([blob: min(1 << 24, step - part)]) }
            expected += step
            if settling { try store.settleCounts() }
            #expect(try counts(1) == [0, UInt32(expected), 0])
        }
        #expect(expected == Int64(UInt32.max))
        try store.settleCounts()
        for step in [-4_294_901_760, -65280, -254] as [Int64] {
            for part in stride(from: 0, to: step, by: -(1 << 24)) { try change([blob: max(-(1 << 24), step - part)]) }
            expected += step
            if settling { try store.settleCounts() }
            #expect(try counts(1) == [0, UInt32(expected), 0])
        }
        #expect(expected == 1)
        #expect(try store.statistics().uniqueBytes == 4096)
        try change([blob: -1, BlobNumber(pack: 1, slot: 0): 2])
        if settling { try store.settleCounts() }
        #expect(try counts(1) == [2, 0, 0])
        #expect(try store.statistics().uniqueBytes == 4096)
        #expect(try store.statistics().reclaimableBytes == 32)
    }

    @Test func moreThanACountCanSayIsRefused() throws {
        try addPack(1, slots: 40)
        let blob = BlobNumber(pack: 1, slot: 1)
        // Many changes of one pack are not deferred.
        let others = (2..<40).map { (BlobNumber(pack: 1, slot: $0), Int64(1)) }
        try change([blob: Int64(UInt32.max)].merging(others) { $1 })
        #expect(try deferred() == 0)
        let before = try counts(1)
        #expect(before?[1] == .max)
        #expect(throws: Failure.self) { try change([blob: 1].merging(others) { $1 }) }
        #expect(try counts(1) == before)
    }

    /// A count below zero, a slot that is not there, a pack that is not there, one far from all that are: when they are entered, and to whoever asks.
    @Test(arguments: [[0x1_0000: -1], [0x1_0001: 1], [0x2_0000: 1], [0x1388_0000: 1]] as [[UInt64: Int64]])
    func whatCannotBeIsDamage(bad: [UInt64: Int64]) throws {
        try addPack(1, slots: 1)
        let changes = Dictionary(uniqueKeysWithValues: bad.map { (BlobNumber(rawValue: $0.key), $0.value) })
        try change(changes)
        for attempt in [{ try store.settleCounts() }, { _ = try store.statistics() }] {
            do {
                try attempt()
                Issue.record("\(bad) went through")
            } catch let failure as Failure { #expect(failure.kind == .damage) }
        }
        #expect(try store.check(readData: false, repair: false) { _, _ in }.problemCount > 0)
        #expect(try store.check(readData: false, repair: true) { _, _ in }.isRepaired)
        #expect(try counts(1) == [0])
        #expect(try store.check(readData: false, repair: false) { _, _ in }.problems == [])
    }

    /// Changes near and far, of two groups, settled now and then, by this process and the next.
    @Test(arguments: 0..<4 as Range<UInt64>) func anyChangesAgainstAModel(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let packs = [1, 2, 3, 900, 1023, 1024, 1025, 2047] as [UInt64]
        let slots = 50
        for pack in packs { try addPack(pack, slots: slots) }
        var model: [BlobNumber: Int64] = [:]
        for step in 0..<60 {
            var changes: [BlobNumber: Int64] = [:]
            for _ in 0..<Int.random(in: 0...120, using: &random) {
                // Some packs have many changes at once.
                let pack = Bool.random(using: &random) ? packs[step % packs.count] : packs.randomElement(using: &random) ?? 1
                let blob = BlobNumber(pack: pack, slot: Int.random(in: 0..<slots, using: &random))
                let now = model[blob] ?? 0
                changes[blob] = Bool.random(using: &random) ? -now : [1, 2, 300, 40_000, 100_000].randomElement(using: &random) ?? 1
            }
            try change(changes)
            for (blob, change) in changes { model[blob, default: 0] += change }
            if step % 13 == 12 { try store.settleCounts() }
            for (pack, counts) in zip(packs, try counts(packs)) {
                let expected = (0..<slots).map { UInt32(model[BlobNumber(pack: pack, slot: $0)] ?? 0) }
                #expect(counts == expected, "seed \(seed), step \(step), pack \(pack)")
            }
            let live = model.values.count { $0 > 0 }
            let statistics = try store.statistics()
            #expect(statistics.uniqueBytes == UInt64(live * 4096), "seed \(seed), step \(step)")
            #expect(statistics.reclaimableBytes == UInt64((packs.count * slots - live) * 16), "seed \(seed), step \(step)")
        }
        #expect(try deferred() > 0)
        try store.settleCounts()
        #expect(try deferred() == 0)
        #expect(try store.superblock().totals.live == UInt64(model.values.count { $0 > 0 }))
    }

    /// Without that, they would grow for ever.
    @Test func aGroupWithManyChangesIsSettled() throws {
        for pack in 1...1100 as ClosedRange<UInt64> { try addPack(pack, slots: 31) }
        var model: [BlobNumber: Int64] = [:]
        var most = 0
        // Each commit changes a blob of each pack.
        for step in 0..<40 {
            var changes: [BlobNumber: Int64] = [:]
            for pack in 1...1100 as ClosedRange<UInt64> { changes[BlobNumber(pack: pack, slot: step % 31)] = 1 }
            try change(changes)
            model.merge(changes, uniquingKeysWith: +)
            most = max(most, try deferred())
        }
        // 1023 changes of the first group make three records a commit; sixteen commits fill it.
        #expect(most > 32 && most <= 16 * 3 + 40)
        for pack in [1, 511, 1023, 1024, 1100] as [UInt64] {
            #expect(try counts(pack) == (0..<31).map { UInt32(model[BlobNumber(pack: pack, slot: $0)] ?? 0) })
        }
        #expect(try store.statistics().uniqueBytes == UInt64(model.count * 4096))
    }

    @Test func recordsOfChangesAreChecked() throws {
        try addPack(1, slots: 5)
        try change([BlobNumber(pack: 1, slot: 3): 1])
        var transaction = try StoreTransaction.begin(store)
        let key: UInt64 = 1
        var record = try unsafe transaction.lmdb.view.value(store.parts.counts.changes, key)?.withUnsafeBytes { unsafe [UInt8]($0) } ?? []
        try #require(record.count == 24)
        record[22] ^= 2
        try transaction.lmdb.put(store.parts.counts.changes, key, count: record.count) { $0.copy(record.rawBytes, to: 0) }
        try transaction.commit()
        #expect(throws: Failure.self) { try counts(1) }
        // Behind a record that is not right nothing is put down.
        #expect(throws: Failure.self) { try change([BlobNumber(pack: 1, slot: 2): 1]) }
        #expect(try store.check(readData: false, repair: true) { _, _ in }.isRepaired)
        #expect(try counts(1) == [0, 0, 0, 0, 0])
    }

    /// A check looks for no counts of a group that has no pack, and at its records all the same.
    @Test func recordsOfChangesOfNoPackAreChecked() throws {
        try addPack(1, slots: 1)
        try change([BlobNumber(pack: 5000, slot: 0): 1])
        var transaction = try StoreTransaction.begin(store)
        let key: UInt64 = 4 << 32 | 1
        try #require(try transaction.lmdb.view.value(store.parts.counts.changes, key) != nil)
        try transaction.lmdb.put(store.parts.counts.changes, key, count: 24) { $0.store(7 as UInt64, at: 8) }
        try transaction.commit()
        let problems = try store.check(readData: false, repair: true) { _, _ in }.problems
        #expect(problems.count == 1 && problems[0].contains("changes 4/1"), "\(problems)")
        #expect(try store.check(readData: false, repair: false) { _, _ in }.problems == [])
    }

    /// Changes of a group that can't be read are an error for whoever asks for one of its packs, as often as that is, and for nobody else. A walk
    /// tells of them in the end if nobody asked.
    @Test func changesThatCannotBeReadAreTheirOwnGroupsAlone() throws {
        for pack in [1, 2000] as [UInt64] {
            try addPack(pack, slots: 2)
            try change([BlobNumber(pack: pack, slot: 1): 1])
        }
        var transaction = try StoreTransaction.begin(store)
        let key: UInt64 = 1 << 32 | 1
        try #require(try transaction.lmdb.view.value(store.parts.counts.changes, key) != nil)
        try transaction.lmdb.put(store.parts.counts.changes, key, count: 24) { $0.store(7 as UInt64, at: 8) }
        try transaction.commit()
        let reading = try ReadTransaction(store.meta)
        var reader = store.parts.counts.reader(reading.view)
        for pack in [1, 2000, 2000, 1, 2000, 1] as [UInt64] {
            var found: [UInt32]?
            var failure: Failure?
            do throws(Failure) { found = try reader.counts(ofPack: pack)?.now } catch { failure = error }
            if pack == 1 {
                #expect(found == [0, 1] && failure == nil)
            } else {
                #expect(found == nil && failure?.kind == .damage)
            }
        }
        for asked in [[], [1], [1, 2000], [1, 3000]] as [[UInt64]] {
            var walk = store.parts.counts.walk(reading.view)
            var failed: [UInt64] = []
            for pack in asked {
                do throws(Failure) { _ = try walk.counts(ofPack: pack) } catch { failed.append(pack) }
            }
            #expect(failed == asked.filter { $0 == 2000 })
            var passed: [UInt64]?
            var failure: Failure?
            do throws(Failure) { passed = try walk.finish() } catch { failure = error }
            if asked.contains(2000) {
                #expect(passed == [] && failure == nil)
            } else {
                #expect(passed == nil && failure?.kind == .damage, "\(asked)")
            }
        }
    }

    /// The superblock's totals are those of table `counts`, with changes deferred or not.
    @Test(arguments: ["live blobs", "dead blobs", "dead bytes"], [false, true]) func totalsAreChecked(which: String, isDeferred: Bool) throws {
        try addPack(1, slots: 3)
        // Two changes that come to nothing together.
        if isDeferred { for sign in [1, -1] as [Int64] { try change([BlobNumber(pack: 1, slot: 1): sign]) } }
        #expect(try store.check(readData: false, repair: false) { _, _ in }.problems == [])
        var transaction = try StoreTransaction.begin(store)
        switch which {
        case "live blobs": transaction.counts.totals.live += 1
        case "dead blobs": transaction.counts.totals.dead += 1
        default: transaction.counts.totals.deadBytes += 1
        }
        try transaction.commit()
        let problems = try store.check(readData: false, repair: true) { _, _ in }.problems
        #expect(problems.count == 1 && problems[0].hasPrefix(which + ": "), "\(problems)")
        #expect(try store.check(readData: false, repair: false) { _, _ in }.problems == [])
    }

    /// Where there is something to collect is written down, by table `counts` alone.
    @Test func packsWithDeadBlobsHaveARecord() throws {
        func dead() throws -> [UInt64: UInt32] {
            let reading = try ReadTransaction(store.meta)
            var found: [UInt64: UInt32] = [:]
            try store.parts.counts.forEachPackWithDead(reading.view) { (pack, dead) throws(Failure) in
                found[pack] = dead.blobs
                return true
            }
            return found
        }
        try addPack(1, slots: 4)
        try addPack(2, slots: 3)
        try change([BlobNumber(pack: 1, slot: 0): 1, BlobNumber(pack: 2, slot: 0): 1, BlobNumber(pack: 2, slot: 1): 1, BlobNumber(pack: 2, slot: 2): 2])
        try store.settleCounts()
        #expect(try dead() == [1: 3])
        try change([BlobNumber(pack: 1, slot: 3): 1, BlobNumber(pack: 2, slot: 1): -1])
        #expect(try dead() == [1: 3])
        try store.settleCounts()
        #expect(try dead() == [1: 2, 2: 1])
        // A record that is missing, and one that is not what was written: each is told, and put right.
        for isMissing in [true, false] {
            var transaction = try StoreTransaction.begin(store)
            if isMissing {
                _ = try transaction.lmdb.remove(store.parts.counts.dead, 1)
            } else {
                try transaction.lmdb.put(store.parts.counts.dead, 1, count: 16) { $0.store(7 as UInt64, at: 8) }
            }
            try transaction.commit()
            // These blobs are in no map, so that a repair finds them all dead.
            #expect(try store.check(readData: false, repair: true) { _, _ in }.isRepaired)
            #expect(try dead() == [1: 4, 2: 3])
            #expect(try store.check(readData: false, repair: false) { _, _ in }.problems.isEmpty)
        }
        _ = try store.collect(shouldStop: { false }, progress: { _, _ in })
        #expect(try dead() == [:])
    }

    /// A collection goes by all changes, also those that come while it is at work.
    @Test func collectionsKnowWhatIsDeferred() throws {
        try addPack(1, slots: 4)
        try change([BlobNumber(pack: 1, slot: 0): 1, BlobNumber(pack: 1, slot: 1): 1])
        try store.settleCounts()
        // 0 dies, 2 comes to life, and 3 stays dead.
        try change([BlobNumber(pack: 1, slot: 0): -1, BlobNumber(pack: 1, slot: 2): 1])
        try store.completeIndex()
        _ = try store.collect([1])
        func collected() throws -> [Bool] {
            let snapshot = try store.snapshot()
            guard let pack = try snapshot.pack(1) else { return [] }
            return (0..<pack.slotCount).map { pack.isCollected($0) }
        }
        #expect(try collected() == [false, false, false, true])
        try store.settleCounts()
        _ = try store.collect([1])
        #expect(try collected() == [true, false, false, true])
    }
}
