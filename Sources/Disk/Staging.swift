internal import BlockModel
internal import Store

/// Blocks that are in the journal and not in the map yet.
struct Generation {
    /// What is staged for a block: the offset of its 4096 bytes in the journal, or `discarded`.
    private(set) var places: [UInt64: UInt64] = [:]
    /// Bytes of the journal that it takes.
    private(set) var journalBytes: UInt64 = 0
    /// The journal's position behind it.
    var end: JournalPosition
    /// When its first record came.
    private(set) var began = 0.0

    /// No offset in a journal, all of which are small.
    static let discarded = UInt64.max
    /// Not staged here.
    static let absent = UInt64.max - 1

    init(end: JournalPosition) { self.end = end }

    var isEmpty: Bool { journalBytes == 0 }

    /// Takes in the unused end of the ring, which frees up with the records before it.
    mutating func skip(_ bytes: UInt64, to start: JournalPosition) {
        if isEmpty { began = monotonicSeconds() }
        journalBytes += bytes
        end = start
    }

    /// Takes in a record whose payload is at `payload`. The last writer of a block wins.
    mutating func stage(_ record: Journal.Record, payload: UInt64) {
        if isEmpty { began = monotonicSeconds() }
        for index in 0..<record.blocks {
            places[record.block &+ index] = record.kind == .write ? payload + index * UInt64(blockSize) : Self.discarded
        }
        journalBytes += UInt64(record.byteCount)
        end = JournalPosition(sequence: record.sequence, offset: payload + UInt64(record.payloadBytes))
    }
}

/// Staged blocks, and how far the committer is with them.
struct Staging {
    /// Being filled by the disk's thread.
    var active: Generation
    /// Being committed; empty when nothing is.
    var frozen: Generation
    /// Bytes of the journal in use.
    var journalBytes: UInt64 { active.journalBytes + frozen.journalBytes }
    var isEmpty: Bool { active.isEmpty && frozen.isEmpty }
    /// Somebody waits for room, or for an empty staging.
    var isWanted = false
    var isClosing = false
    /// Why the last commit failed; it is tried again.
    var failure: Failure?

    init(end: JournalPosition) {
        active = Generation(end: end)
        frozen = Generation(end: end)
    }

    /// What is staged for `block`, or `Generation.absent`.
    func place(_ block: UInt64) -> UInt64 { active.places[block] ?? frozen.places[block] ?? Generation.absent }
}
