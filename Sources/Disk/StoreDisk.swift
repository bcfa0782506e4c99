public import BlockModel
internal import Catalogue
public import Store
internal import Synchronization
public import System

/// A disk of a store: writes go to its journal, from there to the map; reads see both.
///
/// - A write that returned survives the death of the process: it is in the journal, in the page cache.
/// - A flush that returned survives the loss of power: the journal is on the disk, or the map is.
/// - A full journal makes writes wait for the committer. When the store is full, they fail or wait, as its owner wants, and nothing is lost.
public final class StoreDisk: BlockDevice {
    public let isReadOnly: Bool
    private let sectors: Atomic<UInt64>
    let store: Store
    public let name: String
    /// What the store has it under, whatever it is called.
    public let number: UInt64
    let journal: JournalWriter
    let staging: Monitor<Staging>
    let committer: Committer
    let readers: ReaderPool
    private let threads: [Thread]
    private let isClosed = Atomic(false)
    /// What is to end before the disk is closed.
    private let companions = Mutex<[@Sendable () -> Void]>([])
    /// Blocks with data that were staged when the disk was opened, in ascending order.
    let leftoverBlocks: [UInt64]

    /// Bytes of a journal that nothing else was said about.
    public static let defaultJournalBytes: UInt64 = 64 << 20
    /// So much that no flush covers yet costs less to commit than to sync: it goes into the store anyhow. Not where the
    /// processor names fewer bytes a second than a disk takes.
    private static let commitRatherThanSync: UInt64 = 4 << 20
    private static let leastHashingRate = 100e6

    public var sectorCount: UInt64 { sectors.load(ordering: .relaxed) }

    /// Opens a disk and takes in what an interrupted writer left in its journal. On a full filesystem that may have to wait: it is read
    /// where it lies, and writes go on once it is in the map.
    /// - Parameters:
    ///   - readOnly: any number of readers may have it then, and no writer.
    ///   - journalBytes: how much may be on its way into the store: at least 4 MiB.
    /// - Throws: `.notFound`; `.busy` when another process has it.
    public convenience init(
        _ store: Store, _ name: String, readOnly: Bool = false, journalBytes: UInt64 = defaultJournalBytes
    ) throws(Failure) {
        try self.init(store, name, readOnly: readOnly, journalBytes: journalBytes) { (file, capacity) throws(Failure) in
            try FileJournalStorage(file, byteCount: capacity)
        }
    }

    /// Opens a copy, which nobody else sees.
    public convenience init(_ store: Store, copy lock: consuming DiskLock, readOnly: Bool) throws(Failure) {
        try self.init(store, lock, readOnly: readOnly, journalBytes: Self.defaultJournalBytes) { (file, capacity) throws(Failure) in
            try FileJournalStorage(file, byteCount: capacity)
        }
    }

    /// - Parameter storage: what the journal lies in, of so many bytes, given the file that the disk's lock is on.
    convenience init(
        _ store: Store, _ name: String, readOnly: Bool = false, journalBytes: UInt64,
        storage: (consuming File, UInt64) throws(Failure) -> any JournalStorage
    ) throws(Failure) {
        let lock = try Self.lock(store, name, readOnly: readOnly)
        guard !lock.record.isIncomplete else { throw store.noSuchDisk(name) }
        try self.init(store, lock, readOnly: readOnly, journalBytes: journalBytes, storage: storage)
    }

    private init(
        _ store: Store, _ lock: consuming DiskLock, readOnly: Bool, journalBytes: UInt64,
        storage: (consuming File, UInt64) throws(Failure) -> any JournalStorage
    ) throws(Failure) {
        let record = lock.record
        let name = record.name
        guard readOnly || !record.isSnapshot else {
            throw Failure(.invalidRequest, "write to", .disk(name), "it is a snapshot, which stays as it is", remedy: "clone it, or only read it")
        }
        let capacity = max(journalBytes, 4 << 20) & ~4095
        let committer = Committer(store, record, Journal(try storage(lock.intoJournal(), capacity), id: record.number, capacity: capacity))
        let journal = committer.journal
        let readers = try ReaderPool(store, disk: name)
        let leftover = Generation(behind: record.journal)
        let isBehindLeftover = try Self.takeIn(leftover, committer, readOnly: readOnly)
        // Before what waits.
        let end = isBehindLeftover ? leftover.start : journal.turns.with { $0.head }
        committer.staging.with { staging in
            staging = Staging(end: end)
            if isBehindLeftover { staging.active = leftover }
        }
        leftoverBlocks = isBehindLeftover ? leftover.sorted().filter { $0.place != Generation.discarded }.map(\.block) : []
        threads = readOnly ? [] : try committer.start()
        if !readOnly { journal.noteOpened() }
        self.store = store
        self.name = name
        number = record.number
        self.journal = journal
        staging = committer.staging
        self.committer = committer
        self.readers = readers
        isReadOnly = readOnly
        sectors = Atomic(record.byteCount / UInt64(sectorSize))
    }

    deinit {
        // Nobody is there to be told: what could not be committed is in the journal.
        try? close()
    }

    /// Takes in what an interrupted writer left.
    /// - Returns: whether it is still in the journal, and in the generation, as a reader takes nothing in, or there was no room.
    private static func takeIn(_ leftover: Generation, _ committer: Committer, readOnly: Bool) throws(Failure) -> Bool {
        let recovery = Recovery(committer: committer)
        do throws(Failure) {
            if readOnly { try recovery.replay(into: leftover) } else { try recovery.run(leftover) }
            guard readOnly else {
                committer.noteSuccess()
                return false
            }
            if leftover.isEmpty { committer.noteNoLeftover() } else { committer.noteLeftover() }
        } catch where error.kind == .noSpace && !readOnly {
            // There may be no room but for what all of it is followed by.
            if !leftover.isEmpty { committer.noteLeftover(error) }
        }
        committer.journal.turns.with { committer.journal.follow(leftover, &$0) }
        return true
    }

    /// Locks the disk. What waits in the journal is taken in first, also when the disk is only to be read, if the store can be
    /// written to.
    static func lock(_ store: Store, _ name: String, readOnly: Bool) throws(Failure) -> DiskLock {
        guard readOnly else { return try store.lock(name) }
        let lock = try store.lock(name, exclusive: false)
        if store.isReadOnly { return lock }
        if try lock.journal.size() == 0 { return lock }
        _ = consume lock
        try takeIn(store, store.lock(name))
        return try store.lock(name, exclusive: false)
    }

    /// Takes in what waits in a journal, as far as there is room, and lets go of the disk. What stays is told by who reads it.
    private static func takeIn(_ store: Store, _ lock: consuming DiskLock) throws(Failure) {
        let record = lock.record
        guard !record.isIncomplete else { return }
        let storage = try FileJournalStorage(lock.intoJournal(), byteCount: defaultJournalBytes)
        let committer = Committer(store, record, Journal(storage, id: record.number, capacity: defaultJournalBytes))
        // With the descriptor goes the lock in any case.
        defer { try? committer.journal.unlock() }
        do throws(Failure) {
            try Recovery(committer: committer).run(Generation(behind: record.journal))
            committer.noteSuccess()
            try committer.journal.removeAll()
            // Room that can't be given back now is later.
            try? store.trim()
        } catch where error.kind == .noSpace {
            // Then it is read where it lies.
        }
    }

    // MARK: Reading

    public func read(at sector: UInt64, into buffer: inout MutableRawSpan) throws(Failure) {
        _ = try checkedRange("read", at: sector, byteCount: buffer.byteCount)
        var done = 0
        while done < buffer.byteCount {
            let at = sector &+ UInt64(done / sectorSize)
            let inBlock = Int(at % UInt64(sectorsPerBlock)) * sectorSize
            let left = buffer.byteCount - done
            if inBlock == 0, left >= blockSize {
                let whole = min(left / blockSize, BlockMask.capacity) * blockSize
                var part = buffer._mutatingExtracting(done..<done + whole)
                try readBlocks(at / UInt64(sectorsPerBlock), into: &part)
                done += whole
            } else {
                let count = min(left, blockSize - inBlock)
                var block = InlineArray<4096, UInt8>(repeating: 0)
                var span = block.mutableSpan
                // The bytes of initialised integers.
                var bytes = unsafe span.mutableBytes
                try readBlocks(at / UInt64(sectorsPerBlock), into: &bytes)
                buffer.copy(bytes.bytes.extracting(inBlock..<inBlock + count), to: done)
                done += count
            }
        }
    }

    public func expectReads(of ranges: [SectorRange]) {
        // One is not waited for any shorter.
        guard ranges.count > 1 else { return }
        // What can't be read is told when it is read.
        try? readers.with { (reader) throws(Failure) in try reader.prefetch(ranges) }
    }

    /// Staged blocks first, then the map: what is committed in between was seen as staged.
    func readBlocks(_ first: UInt64, into buffer: inout MutableRawSpan) throws(Failure) {
        let wanted = readStaged(first, into: &buffer)
        if wanted.isEmpty { return }
        try readers.with { (reader) throws(Failure) in try reader.read(from: first, into: &buffer, wanted: wanted) }
    }

    /// Copies what is staged, under the lock that keeps its place from being written over.
    /// - Returns: the blocks that are not.
    private func readStaged(_ first: UInt64, into buffer: inout MutableRawSpan) -> BlockMask {
        staging.with { state in
            guard !state.isEmpty else { return .all }
            var absent = BlockMask.empty
            for index in 0..<buffer.byteCount / blockSize {
                switch state.place(first &+ UInt64(index)) {
                case Generation.absent: absent.insert(index)
                case Generation.discarded: buffer.zero(at: index * blockSize, count: blockSize)
                case let place: journal.copyBlock(at: place, to: &buffer, at: index * blockSize)
                }
            }
            return absent
        }
    }

    // MARK: Flushing and closing

    /// One fdatasync of the journal, or a commit of what is staged, whichever costs less; nothing when all is durable.
    public func flush() throws(Failure) {
        try journal.latch.check()
        // What is acknowledged is written; a writer that waits for room need not be waited for.
        let head = journal.writtenSequence
        let (synchronized, bytesSince) = journal.synchronized
        let (committed, staged, isCommitting) = staging.with {
            ($0.committed, min($0.recordBytes, bytesSince), $0.failure == nil && $0.hashingRate >= Self.leastHashingRate)
        }
        if head <= max(committed, synchronized) { return }
        // Where it can't be committed, the journal has it.
        if staged >= Self.commitRatherThanSync, isCommitting, (try? committer.drain(until: { $0.committed >= head })) != nil { return }
        try journal.synchronize(to: head)
    }

    /// Commits all that is staged; what failed before is tried once more. The store's lock is waited for as long as commands do, not as guests.
    /// - Throws: when it can't; then everything is safe in the journal, and goes in when the disk is opened next.
    public func close() throws(Failure) {
        guard !isClosed.exchange(true, ordering: .relaxed) else { return }
        committer.patience.shorten(limit: Self.patienceAtEnd, limitWhenStopped: store.patience.limitWhenStopped)
        for end in companions.withLock({ companions in
            defer { companions = [] }
            return companions
        }) { end() }
        // With the descriptor goes the lock in any case.
        defer { try? journal.unlock() }
        // Who finds damage says so before it goes; that it can't does not make the disk fail.
        defer { try? store.recordDamage(committer.patience) }
        guard !threads.isEmpty else { return }
        staging.with { $0.isClosing = true }
        staging.notify()
        for thread in threads { thread.join() }
        let (isEmpty, reason) = staging.with { ($0.isEmpty, $0.failure) }
        // A commit that came through at last does not mean that what was staged behind it did.
        if !isEmpty || reason != nil {
            let failure = reason ?? Failure(.system, "its committer", "it ended early")
            // Acknowledged is safe; on the disk it is safer. A failure is told by the latch, and by what is thrown here.
            try? journal.synchronize(to: journal.writtenSequence)
            throw Failure(failure.kind, .disk(name), "its last writes wait in its journal", cause: failure, remedy: "they go in when the disk is opened again")
        }
        try journal.removeAll()
        do throws(Failure) {
            try store.trim(committer.patience)
        } catch where error.kind == .busy {
            // Whoever is at work leaves some room for the next to give back.
        }
    }

    /// Has something end before the disk is closed, which uses it.
    public func beforeClosing(_ end: @escaping @Sendable () -> Void) { companions.withLock { $0.append(end) } }

    /// Seconds for which the end waits for another process that is at work.
    private static let patienceAtEnd = 10.0

    // MARK: Size

    /// Whether the disk was resized since it was opened, or since the last look.
    public func refresh() throws(Failure) -> Bool {
        let count = try readers.with { (reader) throws(Failure) in try reader.byteCount() } / UInt64(sectorSize)
        return sectors.exchange(count, ordering: .relaxed) != count
    }

    // MARK: Tests

    /// Commits wait until somebody needs them.
    func holdBack() { staging.with { $0.patience = .infinity } }

    /// Where the next record goes in the journal.
    var journalEnd: UInt64 { journal.turns.with { $0.head.offset } }

    /// Whether an fdatasync covers all that the journal has.
    var isSynchronized: Bool { journal.writtenSequence <= journal.synchronized.sequence }
}
