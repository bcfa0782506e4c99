import BlockModel
import System
import Testing
import TestSupport

@testable import Catalogue
@testable import Disk

/// The ring by itself, without a store.
@Suite struct JournalWriterTests {
    let scratch: ScratchDirectory

    init() throws { scratch = try ScratchDirectory() }

    private static let capacity: UInt64 = 1 << 20

    private static let start = JournalPosition(sequence: 1 << 32, offset: 0)

    /// In a place that may be made to fail.
    private func journal(_ kind: JournalPlace.Kind) throws(Failure) -> (JournalWriter, FaultyJournalStorage) {
        let storage = FaultyJournalStorage(try JournalPlace(kind, scratch.path + "/ring").open(byteCount: Self.capacity))
        try storage.reset(to: Self.capacity)
        return (Self.journal(storage), storage)
    }

    private static func journal(_ storage: any JournalStorage) -> JournalWriter {
        JournalWriter(Journal(storage, id: 7, capacity: capacity), of: "d", head: start)
    }

    /// Appends a record of some blocks with that content, where it fits at the head.
    private func append(_ number: UInt64, blocks: Int, to journal: JournalWriter, _ turn: inout JournalWriter.Turn) throws(Failure) -> UInt64 {
        let bytes = [[UInt8]](repeating: block(number), count: blocks).flatMap { $0 }
        var entries: InlineArray<1, Journal.Entry> = [Journal.Entry(number, 0..<bytes.count, of: bytes.rawBytes)]
        var span = entries.mutableSpan
        return try journal.append(&span, UInt64(Journal.headerSize + bytes.count), of: bytes.rawBytes, &turn)
    }

    /// What is appended and not released is what is replayed, and nothing else, however often the ring wraps.
    @Test(arguments: JournalPlace.Kind.allCases, 0..<6 as Range<UInt64>) func whatIsNotReleasedIsReplayed(kind: JournalPlace.Kind, seed: UInt64) throws {
        struct Kept {
            let number: UInt64
            let place: UInt64
            /// Bytes of the ring that go with it.
            let byteCount: UInt64
            let end: JournalPosition
        }
        var random = SeededGenerator(seed: seed)
        var start = Self.start
        let (journal, _) = try journal(kind)
        var kept: [Kept] = []
        var wraps = 0
        for number in 1...400 as ClosedRange<UInt64> {
            let blocks = Int.random(in: 1...([4, 60].randomElement(using: &random) ?? 1), using: &random)
            let byteCount = UInt64(Journal.headerSize + blocks * blockSize)
            try journal.turns.withLock { (turn) throws(Failure) in
                var skipped: UInt64 = 0
                if journal.shouldBeginAnew(before: byteCount, turn) {
                    #expect(kept.isEmpty)
                    skipped += try journal.skip(&turn)
                }
                let needed = journal.bytesNeeded(byteCount, turn)
                while journal.usedBytes + needed > Self.capacity, !kept.isEmpty {
                    let oldest = kept.removeFirst()
                    journal.release(oldest.byteCount)
                    start = oldest.end
                }
                if !journal.fitsAtHead(byteCount, turn) {
                    skipped += try journal.skip(&turn)
                    wraps += 1
                }
                let place = try append(number, blocks: blocks, to: journal, &turn)
                kept.append(Kept(number: number, place: place, byteCount: skipped + byteCount, end: turn.head))
                #expect(journal.writtenSequence == turn.head.sequence)
            }
            // All of it, now and then, so that the ring begins anew.
            for _ in 0..<(Int.random(in: 0..<20, using: &random) == 0 ? kept.count : Int.random(in: 0..<2, using: &random)) where !kept.isEmpty {
                let oldest = kept.removeFirst()
                journal.release(oldest.byteCount)
                start = oldest.end
            }
            #expect(journal.usedBytes == kept.reduce(0) { $0 + $1.byteCount })
            var found: [UInt64] = []
            let end = try journal.replay(from: start) { (record, _) throws(Failure) in found.append(record.block) }
            #expect(found == kept.map(\.number), "seed \(seed), record \(number)")
            if let last = kept.last { #expect(end == last.end) }
            for record in kept {
                var bytes = [UInt8](repeating: 0, count: blockSize)
                try bytes.withMutableBytes { (bytes) throws(Failure) in
                    journal.copyBlock(at: record.place + UInt64(Journal.headerSize), to: &bytes, at: 0)
                }
                #expect(bytes == block(record.number), "seed \(seed), record \(record.number)")
            }
        }
        #expect(wraps > 3)
    }

    @Test(arguments: JournalPlace.Kind.allCases) func aSyncCoversWhatWasWritten(kind: JournalPlace.Kind) throws {
        let (journal, _) = try journal(kind)
        let first = journal.writtenSequence
        #expect(journal.synchronized == (first, 0))
        try journal.turns.withLock { (turn) throws(Failure) in
            for number in 1...3 as ClosedRange<UInt64> { _ = try append(number, blocks: 1, to: journal, &turn) }
        }
        #expect(journal.writtenSequence == first + 3)
        #expect(journal.synchronized == (first, 3 * 4160))
        // Of some, it is one of all.
        try journal.synchronize(to: first + 1)
        #expect(journal.synchronized == (first + 3, 0))
        try journal.synchronize(to: first + 3)
    }

    /// A device that takes everything and can't be synced.
    @Test func aFailedSyncIsTheLast() throws {
        let journal = Self.journal(try FileJournalStorage(try File(path: "/dev/zero", options: [.write]), byteCount: Self.capacity))
        try expectTheLatch(of: journal)
    }

    @Test(arguments: JournalPlace.Kind.allCases, [FaultyJournalStorage.Fault.before, .after])
    func aFailedSyncIsTheLastWhateverBecameOfIt(kind: JournalPlace.Kind, fault: FaultyJournalStorage.Fault) throws {
        let (journal, storage) = try journal(kind)
        storage.fail(.synchronize, fault)
        try expectTheLatch(of: journal)
    }

    /// One sync fails, and none after it is believed.
    private func expectTheLatch(of journal: JournalWriter) throws {
        try journal.turns.withLock { (turn) throws(Failure) in _ = try append(1, blocks: 1, to: journal, &turn) }
        let first = try #require(throws: Failure.self) { try journal.synchronize(to: journal.writtenSequence) }
        #expect(journal.latch.failure?.what == "disk d")
        // What was durable before is no exception.
        for sequence in [journal.writtenSequence, 1] {
            let later = try #require(throws: Failure.self) { try journal.synchronize(to: sequence) }
            #expect(later.why == "a flush failed: \(first.why)" && later.remedy != nil)
        }
        #expect(journal.synchronized.sequence == 1 << 32)
    }
    // MARK: Faults

    /// Appends records of one block each, all with one write.
    private func append(_ numbers: [UInt64], to journal: JournalWriter) throws(Failure) {
        try journal.turns.withLock { (turn) throws(Failure) in
            let bytes = numbers.flatMap { block($0) }
            var entries = Journal.Entries(repeating: Journal.Entry(.write, 0, blocks: 0))
            for (index, number) in numbers.enumerated() {
                entries[index] = Journal.Entry(number, index * blockSize..<(index + 1) * blockSize, of: bytes.rawBytes)
            }
            var span = entries.mutableSpan
            var first = span._mutatingExtracting(first: numbers.count)
            _ = try journal.append(&first, UInt64(numbers.count * (Journal.headerSize + blockSize)), of: bytes.rawBytes, &turn)
        }
    }

    private static func replay(_ journal: JournalWriter) throws(Failure) -> [UInt64] {
        var found: [UInt64] = []
        _ = try journal.replay(from: start) { (record, _) throws(Failure) in found.append(record.block) }
        return found
    }

    private static let faults: [FaultyJournalStorage.Fault] = [.before, .after, .short(4160 * 2 + 100), .short(4160), .short(10)]

    /// Records that were told to have failed take no effect, though some are there, neither by themselves nor behind what takes the place of others of them.
    @Test(arguments: JournalPlace.Kind.allCases, faults)
    func recordsThatFailedTakeNoEffect(kind: JournalPlace.Kind, fault: FaultyJournalStorage.Fault) throws {
        let (journal, storage) = try journal(kind)
        try append([1], to: journal)
        let written = journal.writtenSequence
        storage.fail(.write, fault)
        #expect(throws: FaultyJournalStorage.failure) { try append([2, 3, 4], to: journal) }
        #expect(journal.writtenSequence == written)
        #expect(journal.turns.with { !$0.hasStrayRecords })
        #expect(try Self.replay(journal) == [1])
        try append([5], to: journal)
        #expect(try Self.replay(journal) == [1, 5])
        try append([6, 7], to: journal)
        #expect(try Self.replay(journal) == [1, 5, 6, 7])
    }

    /// Where they can't be taken back at once, nothing follows them until they are.
    @Test(arguments: JournalPlace.Kind.allCases) func recordsThatFailedAreInTheWay(kind: JournalPlace.Kind) throws {
        let (journal, storage) = try journal(kind)
        try append([1], to: journal)
        storage.fail(.write, .after, .before, .before)
        #expect(throws: FaultyJournalStorage.failure) { try append([2, 3], to: journal) }
        #expect(journal.turns.with { $0.hasStrayRecords })
        #expect(throws: FaultyJournalStorage.failure) { try append([4], to: journal) }
        #expect(journal.turns.with { $0.hasStrayRecords })
        try append([4], to: journal)
        #expect(journal.turns.with { !$0.hasStrayRecords })
        #expect(try Self.replay(journal) == [1, 4])
    }

    /// A ring over a place whose machine may lose power, with two records at its head that failed as a whole, and are on the disk.
    private func strays() throws(Failure) -> (JournalWriter, FaultyJournalStorage, MemoryJournal) {
        let place = MemoryJournal()
        let storage = FaultyJournalStorage(MemoryJournalStorage(place, byteCount: Self.capacity))
        let journal = Self.journal(storage)
        try journal.turns.withLock { (turn) throws(Failure) in try journal.beginEra(at: Self.start, &turn) }
        storage.fail(.write, .after, .before)
        #expect(throws: FaultyJournalStorage.failure) { try append([2, 3], to: journal) }
        // The system writes back when it likes.
        try storage.below.synchronize()
        return (journal, storage, place)
    }

    /// What a reader finds from a position on when the power failed.
    private static func replay(_ place: MemoryJournal, from position: JournalPosition, seed: UInt64) throws(Failure) -> [UInt64] {
        var random = SeededGenerator(seed: seed)
        place.losePower(using: &random)
        var found: [UInt64] = []
        let journal = Self.journal(MemoryJournalStorage(place, byteCount: capacity))
        _ = try journal.replay(from: position) { (record, _) throws(Failure) in found.append(record.block) }
        return found
    }

    /// Nor do they come back with the loss of power behind a record that is in the map, though no flush came in between.
    @Test(arguments: 0..<6 as Range<UInt64>) func recordsThatFailedDoNotComeBack(seed: UInt64) throws {
        let (journal, _, place) = try strays()
        try append([4], to: journal)
        let committed = journal.turns.with { $0.head }
        #expect(try Self.replay(place, from: committed, seed: seed) == [], "seed \(seed)")
    }

    @Test(arguments: 0..<6 as Range<UInt64>) func recordsThatFailedDoNotComeBackWhereTheRingBeginsAnew(seed: UInt64) throws {
        let (journal, _, place) = try strays()
        try journal.turns.withLock { (turn) throws(Failure) in _ = try journal.skip(&turn) }
        #expect(try Self.replay(place, from: Self.start, seed: seed) == [], "seed \(seed)")
    }

    /// Where nobody knows whether they are gone, nothing is accepted any more.
    @Test func recordsThatMayComeBackAreTheLast() throws {
        let (journal, storage, _) = try strays()
        storage.fail(.synchronize, .after)
        #expect(throws: FaultyJournalStorage.failure) { try append([4], to: journal) }
        #expect(journal.latch.failure != nil && journal.turns.with { $0.hasStrayRecords })
        #expect(throws: Failure.self) { try append([4], to: journal) }
    }

    /// A journal that can't be read for a while does not end there.
    @Test(arguments: JournalPlace.Kind.allCases) func aReadThatFailsOnceEndsNothing(kind: JournalPlace.Kind) throws {
        let (journal, storage) = try journal(kind)
        for number in 1...5 as ClosedRange<UInt64> { try append([number], to: journal) }
        for reads in 0..<10 {
            storage.fail(.read, behind: reads)
            #expect(throws: FaultyJournalStorage.failure) { _ = try Self.replay(journal) }
            #expect(try Self.replay(journal) == [1, 2, 3, 4, 5])
        }
    }

    /// What was synced survives the loss of power, and of the rest a beginning.
    @Test(arguments: 0..<20 as Range<UInt64>) func whatIsSyncedSurvivesTheLossOfPower(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let place = MemoryJournal()
        let journal = Self.journal(MemoryJournalStorage(place, byteCount: Self.capacity))
        try journal.turns.withLock { (turn) throws(Failure) in try journal.beginEra(at: Self.start, &turn) }
        let count = UInt64.random(in: 1...40, using: &random)
        var synced: UInt64 = 0
        for number in 1...count {
            try append([number], to: journal)
            guard Int.random(in: 0..<8, using: &random) == 0 else { continue }
            try journal.synchronize(to: journal.writtenSequence)
            synced = number
        }
        place.losePower(using: &random)
        let left = try Self.replay(Self.journal(MemoryJournalStorage(place, byteCount: Self.capacity)))
        #expect(left.count >= synced && left == Array((1...count).prefix(left.count)), "seed \(seed)")
    }
}
