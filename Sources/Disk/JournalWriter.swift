internal import BlockModel
internal import Catalogue
internal import Store
internal import Synchronization
internal import System

/// A disk's journal as those who write to it, sync it and take records out of it have it: where the next record goes, what of the ring
/// is in use, and how far it is on the disk.
///
/// What it keeps records in is behind `JournalStorage`: a file of this machine is one. A journal of another kind than a ring would have to
/// offer what the others call here:
/// - `append`: records survive this process when it returns. By whoever has the turn, as are `skip`, which only a ring needs, and `beginEra`;
/// - `synchronize`: records survive the loss of power, or of the machine, when it returns. Once it has failed, it fails for ever;
/// - `replay`: the records behind a position, in their order;
/// - `release`: the oldest records are in the map, and nobody asks for them any more;
/// - `copyBlock` and `address`: a block of a record that is not released yet. Reads of staged blocks and their hashing need it, so that
///   what lies far away needs a copy here.
///
/// Positions are the journal's own: all that the others do with them is to compare sequences, and to have the map remember one.
final class JournalWriter: Sendable {
    private let journal: Journal
    private let diskName: String
    /// What a writer needs; held for the length of a write, so that a part of a block finds the rest of it in its place.
    let turns: Monitor<Turn>
    /// The last record that was written, and bytes of all records that ever were. Only whoever has the turn changes it.
    private let lastWritten: Atomic<UInt64>
    private let recordBytes = Atomic<UInt64>(0)
    /// Bytes of the ring that were ever taken, and those of them that are free again.
    private let takenBytes = Atomic<UInt64>(0)
    private let releasedBytes = Atomic<UInt64>(0)
    private let syncing: Monitor<Syncing>
    /// A failed sync: what could not be written may have been dropped, so no later one can be believed.
    let latch = SyncLatch()
    private let syncFailure: Condition
    /// A flush has synced the journal since room was made for it.
    private let wasFlushed = Atomic(false)

    /// What belongs to whoever writes.
    struct Turn: ~Copyable {
        /// Where the next record goes.
        fileprivate(set) var head: JournalPosition
        /// What an interrupted writer left is not all in the map, as there was no room: until it is, nothing follows it.
        fileprivate(set) var isBehindLeftover = false
        /// Behind the head may be whole records of a write that failed: until these are gone, nothing may be done past them.
        var hasStrayRecords: Bool { !strays.isEmpty }
        /// Where these begin.
        fileprivate var strays: [UInt64] = []
        /// How far there is room that was written to since the journal was opened.
        fileprivate var length: UInt64 = 0
        /// For parts of blocks, and for records.
        var scratch = [UInt8](repeating: 0, count: blockSize)
        fileprivate var headers = [UInt8](repeating: 0, count: Journal.headersByteCount)
        fileprivate var parts = Gather(capacity: 2 * Journal.maximumEntries)

        fileprivate init(head: JournalPosition) { self.head = head }
    }

    /// How far the journal is on the disk.
    private struct Syncing {
        /// Every record up to this one is, and so many bytes of records were written by then.
        var sequence: UInt64
        var recordBytes: UInt64 = 0
        /// Somebody's sync is at work; one of those who wait for its end begins the next, for all of them.
        var isRunning = false
    }

    /// Bytes of a write that may be one of many with a flush behind each.
    private static let shortWrite: UInt64 = 32 << 10

    /// - Parameters:
    ///   - head: where the map says that the next record is.
    ///   - reporter: of the disk.
    init(_ journal: consuming Journal, of diskName: String, head: JournalPosition, _ reporter: Reporter = .silent) {
        self.journal = journal
        syncFailure = reporter.condition(.syncFailure)
        self.diskName = diskName
        turns = Monitor(Turn(head: head))
        lastWritten = Atomic(head.sequence)
        syncing = Monitor(Syncing(sequence: head.sequence))
    }

    /// Bytes of the ring.
    var capacity: UInt64 { journal.capacity }
    /// Bytes of the ring that no record may take: those of records that are not released, and of the ring's ends that were skipped behind them.
    var usedBytes: UInt64 { takenBytes.load(ordering: .relaxed) &- releasedBytes.load(ordering: .acquiring) }

    // MARK: Reading back

    /// Copies a block of a record that is not released to `buffer` at `offset`. `place`: where in the journal the block is.
    @inline(__always)
    func copyBlock(at place: UInt64, to buffer: inout MutableRawSpan, at offset: Int) { journal.copyBlock(at: place, to: &buffer, at: offset) }

    /// Where that block is in memory, until it is released.
    @unsafe func address(ofBlockAt place: UInt64) -> UnsafeRawPointer { unsafe journal.address(ofBlockAt: place) }

    // MARK: Appending

    /// Where the last record ends that was written, as a sequence: all that is acknowledged is up to there.
    var writtenSequence: UInt64 { lastWritten.load(ordering: .acquiring) }

    /// Bytes of the ring that records of `byteCount` bytes take at the head: the ring's end, too, where they don't fit there.
    func bytesNeeded(_ byteCount: UInt64, _ turn: borrowing Turn) -> UInt64 {
        fitsAtHead(byteCount, turn) ? byteCount : capacity - turn.head.offset + byteCount
    }

    func fitsAtHead(_ byteCount: UInt64, _ turn: borrowing Turn) -> Bool { byteCount <= capacity - turn.head.offset }

    /// Whether the ring should begin anew before these records. When nothing is staged, it does: pages that are written over again and
    /// again take less of the filesystem and of its bandwidth than pages all over the ring. The record must not reach the one that
    /// says so.
    func shouldBeginAnew(before byteCount: UInt64, _ turn: borrowing Turn) -> Bool {
        usedBytes == 0 && turn.head.offset >= max(journal.frontBytes, byteCount)
    }

    /// Whether records of so many bytes take room that the journal did not have before.
    func takesRoom(_ byteCount: UInt64, _ turn: borrowing Turn) -> Bool { turn.head.offset + byteCount > turn.length }

    /// Writes records at the head, where they fit, one behind the other. When it throws, none of them takes effect, but for stray ones.
    /// - Parameters:
    ///   - entries: at most `Journal.maximumEntries`; they get their numbers.
    ///   - byteCount: of all records, headers included.
    ///   - bytes: what has their payloads.
    /// - Returns: the offset of the first.
    func append(
        _ entries: inout MutableSpan<Journal.Entry>, _ byteCount: UInt64, of bytes: RawSpan, _ turn: inout Turn
    ) throws(Failure) -> UInt64 {
        try removeStrays(&turn)
        let offset = turn.head.offset
        // Room is made ahead where small flushes are likely: for short writes in the front of the ring, and for any write when a flush came
        // since room was made last. All else is synced in large pieces, which gain nothing by it.
        if takesRoom(byteCount, turn),
            (offset < journal.frontBytes && byteCount - UInt64(entries.count * Journal.headerSize) <= Self.shortWrite)
                || wasFlushed.exchange(false, ordering: .relaxed)
        {
            journal.allocate(&turn.length, beyond: offset + byteCount)
        }
        do throws(Failure) {
            try journal.write(&entries, at: turn.head, of: bytes, headers: &turn.headers, parts: &turn.parts)
        } catch {
            // Some may be there as a whole. A crash would have them take effect, though they were told to have failed.
            noteStrays(entries, written: byteCount - UInt64(turn.parts.byteCount), &turn)
            // What is left is tried again before anything follows.
            try? removeStrays(&turn)
            throw error
        }
        turn.length = max(turn.length, (offset + byteCount + 4095) & ~4095)
        advance(&turn, to: JournalPosition(sequence: turn.head.sequence &+ UInt64(entries.count), offset: offset + byteCount), taking: byteCount)
        recordBytes.add(byteCount, ordering: .releasing)
        return offset
    }

    /// Notes which records at the head begin within so many bytes. Each could follow one that takes the place of those before it.
    private func noteStrays(_ entries: borrowing MutableSpan<Journal.Entry>, written: UInt64, _ turn: inout Turn) {
        var place: UInt64 = 0
        for index in entries.indices where place < written {
            turn.strays.append(turn.head.offset + place)
            place += UInt64(entries[index].record.byteCount)
        }
    }

    /// Sees to it that nothing is left of records that failed, nor comes back with the loss of power: they may be on the disk already, where
    /// nothing but a sync is sure to put zeros over them.
    func removeStrays(_ turn: inout Turn) throws(Failure) {
        guard turn.hasStrayRecords else { return }
        for offset in turn.strays.reversed() { try journal.invalidate(at: offset) }
        try synchronizeStorage()
        turn.strays.removeAll()
    }

    /// Goes on at the beginning of the ring.
    /// - Returns: bytes of its end, which are in use with the records before them.
    func skip(_ turn: inout Turn) throws(Failure) -> UInt64 {
        try removeStrays(&turn)
        let bytes = capacity - turn.head.offset
        var start = JournalPosition(sequence: turn.head.sequence, offset: 0)
        // Where not even a header fits, a reader knows by itself.
        if bytes >= UInt64(Journal.headerSize) {
            start.sequence &+= 1
            var entries: InlineArray<1, Journal.Entry> = [Journal.Entry(.skip, 0, blocks: 0)]
            var span = entries.mutableSpan
            try journal.write(&span, at: turn.head, of: RawSpan(), headers: &turn.headers, parts: &turn.parts)
        }
        advance(&turn, to: start, taking: bytes)
        return bytes
    }

    private func advance(_ turn: inout Turn, to head: JournalPosition, taking byteCount: UInt64) {
        turn.head = head
        takenBytes.add(byteCount, ordering: .relaxed)
        lastWritten.store(head.sequence, ordering: .releasing)
    }

    // MARK: Syncing

    /// How far the journal is on the disk: the last record, and bytes of records that were written since.
    var synchronized: (sequence: UInt64, bytesSince: UInt64) {
        let (sequence, bytes) = syncing.with { ($0.sequence, $0.recordBytes) }
        return (sequence, recordBytes.load(ordering: .acquiring) &- bytes)
    }

    /// Has the records up to `sequence` on the disk. Those who come while a sync is at work share the next.
    func synchronize(to sequence: UInt64) throws(Failure) {
        let isMine = try syncing.wait { (sync) throws(Failure) in
            try latch.check()
            if sync.sequence >= sequence { return .done(false) }
            if sync.isRunning { return .notified }
            sync.isRunning = true
            return .done(true)
        }
        guard isMine else { return }
        wasFlushed.store(true, ordering: .relaxed)
        // In this order, so that what counts as synced is no more than what is.
        let bytes = recordBytes.load(ordering: .acquiring)
        let written = writtenSequence
        var failure: Failure?
        do throws(Failure) { try synchronizeStorage() } catch { failure = error }
        syncing.with { sync in
            sync.isRunning = false
            guard failure == nil else { return }
            sync.sequence = max(sync.sequence, written)
            sync.recordBytes = bytes
        }
        syncing.notify()
        if let failure { throw failure }
    }

    /// Has all that was written on the disk. Once that failed, it fails for ever.
    private func synchronizeStorage() throws(Failure) {
        try latch.check()
        do throws(Failure) {
            try journal.storage.synchronize()
        } catch {
            latch.set(
                Failure(
                    error.kind, .disk(diskName), "a flush failed: \(error.why)",
                    remedy: "no write is accepted any more: see to the disk under the store, then connect again"))
            syncFailure.met("its journal can't be made durable, and it takes no more writes", because: error)
            throw error
        }
        // One that was at work at the same time may have been told of what this one should have written.
        try latch.check()
    }

    // MARK: Releasing

    /// The oldest records, which take so many bytes of the ring, are in the map: others may take their place. Nobody reads them then.
    func release(_ byteCount: UInt64) { releasedBytes.add(byteCount, ordering: .releasing) }

    /// Gives back the room of the records between two positions, which are in the map.
    func giveBack(from start: JournalPosition, to end: JournalPosition) throws(Failure) { try journal.giveBack(from: start, to: end) }

    /// Begins a new era at `start`: there are no records but those that follow.
    func beginEra(at start: JournalPosition, _ turn: inout Turn) throws(Failure) {
        try journal.storage.reset(to: capacity)
        turn.length = 0
        turn.strays.removeAll()
        advance(&turn, to: start, taking: 0)
        turn.isBehindLeftover = false
        syncing.with { $0.sequence = max($0.sequence, start.sequence) }
    }

    /// The journal is no longer needed, as it is empty.
    func removeAll() throws(Failure) { try journal.storage.reset(to: 0) }

    /// The disk was opened, and takes writes.
    func noteOpened() { syncFailure.over("it was opened again, and takes writes") }

    /// Lets go of the disk's lock.
    func unlock() throws(Failure) { try journal.storage.unlock() }

    // MARK: What an interrupted writer left

    /// Calls `body` with each valid record from `position` on, and the offset of its payload: see `Journal.replay`.
    func replay(
        from position: JournalPosition, limit: Int = .max, _ body: (Journal.Record, UInt64) throws(Failure) -> Void
    ) throws(Failure) -> JournalPosition {
        try journal.replay(from: position, limit: limit, body)
    }

    /// What is left is staged where it lies. The head is behind it, and nothing of it counts as synced.
    func follow(_ leftover: Generation, _ turn: inout Turn) {
        syncing.with { $0.sequence = leftover.start.sequence }
        turn.isBehindLeftover = true
        advance(&turn, to: leftover.end, taking: leftover.journalBytes)
    }
}
