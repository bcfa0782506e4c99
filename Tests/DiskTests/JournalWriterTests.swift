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

    private func journal(_ path: String, head: JournalPosition = JournalPosition(sequence: 1 << 32, offset: 0)) throws(Failure) -> JournalWriter {
        let file = try File(path: path, options: [.write, .create])
        if path != "/dev/zero" { try file.truncate(to: Self.capacity) }
        return JournalWriter(try Journal(file, id: 7, capacity: Self.capacity), of: "d", head: head)
    }

    /// Appends a record of some blocks with that content, where it fits at the head.
    private func append(_ number: UInt64, blocks: Int, to journal: JournalWriter, _ turn: inout JournalWriter.Turn) throws(Failure) -> UInt64 {
        let bytes = [[UInt8]](repeating: block(number), count: blocks).flatMap { $0 }
        var entries: InlineArray<1, Journal.Entry> = [Journal.Entry(number, 0..<bytes.count, of: bytes.rawBytes)]
        var span = entries.mutableSpan
        return try journal.append(&span, UInt64(Journal.headerSize + bytes.count), of: bytes.rawBytes, &turn)
    }

    /// What is appended and not released is what is replayed, and nothing else, however often the ring wraps.
    @Test(arguments: 0..<12 as Range<UInt64>) func whatIsNotReleasedIsReplayed(seed: UInt64) throws {
        struct Kept {
            let number: UInt64
            let place: UInt64
            /// Bytes of the ring that go with it.
            let byteCount: UInt64
            let end: JournalPosition
        }
        var random = SeededGenerator(seed: seed)
        var start = JournalPosition(sequence: 1 << 32, offset: 0)
        let journal = try journal(scratch.path + "/ring", head: start)
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

    @Test func aSyncCoversWhatWasWritten() throws {
        let journal = try journal(scratch.path + "/ring")
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
        let journal = try journal("/dev/zero")
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
}
