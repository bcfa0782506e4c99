public import BlockModel
public import Store

/// A disk of a store: writes go to its journal, from there to the map; reads see both.
///
/// - A write that returned survives the death of the process: it is in the journal, in the page cache.
/// - A flush that returned survives the loss of power: the journal is on the disk, or the map is.
/// - A full journal makes writes wait for the committer. When the store is full, they fail and nothing is lost.
public final class StoreDisk: BlockDevice, @unchecked Sendable {
    public let sectorCount: UInt64
    public let isReadOnly: Bool
    private let committer: Committer
    private let thread: Thread?
    private var reader: BlockReader
    /// Where the next record goes.
    private var head: JournalPosition
    /// Records that no fdatasync covers yet.
    private var isUnsynchronized = false
    /// A failed fdatasync: the kernel may have dropped what it could not write, so no later one can be believed.
    private var failure: Failure?
    private var isClosed = false
    /// What is staged for the blocks of the read at work.
    private var places: [UInt64] = []
    /// For parts of blocks.
    private var scratch = [UInt8](repeating: 0, count: blockSize)

    /// Bytes of a journal that nothing else was said about.
    public static let defaultJournalBytes: UInt64 = 64 << 20

    /// Opens a disk and takes in what an interrupted writer left in its journal.
    /// - Parameters:
    ///   - readOnly: any number of readers may have it then, and no writer.
    ///   - journalBytes: how much may be on its way into the store: at least 4 MiB.
    /// - Throws: `.notFound`; `.busy` when another process has it.
    public init(_ store: Store, _ name: String, readOnly: Bool = false, journalBytes: UInt64 = defaultJournalBytes) throws(Failure) {
        let lock = try Self.lock(store, name, readOnly: readOnly)
        let record = lock.record
        guard !record.isIncomplete else { throw store.noSuchDisk(name) }
        let journal = Journal(lock.intoJournal(), id: record.number, capacity: max(journalBytes, 4 << 20))
        committer = Committer(store: store, diskName: name, journal: journal, end: record.journal)
        reader = try BlockReader(store)
        sectorCount = record.byteCount / UInt64(sectorSize)
        isReadOnly = readOnly
        guard !readOnly else {
            head = record.journal
            thread = nil
            return
        }
        head = try Self.recover(committer, from: record.journal)
        let end = head
        try committer.staging.withLock { $0 = Staging(end: end) }
        thread = try Thread { [committer] in committer.run() }
    }

    deinit { try? close() }

    /// Locks the disk. What waits in the journal is taken in first, also when the disk is only to be read.
    private static func lock(_ store: Store, _ name: String, readOnly: Bool) throws(Failure) -> DiskLock {
        guard readOnly else { return try store.lock(name) }
        let lock = try store.lock(name, exclusive: false)
        if try lock.journal.size() == 0 { return lock }
        _ = consume lock
        try StoreDisk(store, name).close()
        return try store.lock(name, exclusive: false)
    }

    /// Commits what the journal holds beyond the map, and begins a new era.
    private static func recover(_ committer: Committer, from position: JournalPosition) throws(Failure) -> JournalPosition {
        var generation = Generation(end: position)
        var last = position
        last = try committer.journal.replay(from: position) { (record, payload) throws(Failure) in
            generation.stage(record, payload: payload)
        }
        if !generation.isEmpty {
            generation.end = last
            try committer.commit(generation)
        }
        let start = JournalPosition(sequence: Journal.nextEra(after: last.sequence), offset: 0)
        try committer.store.note(start, of: committer.diskName)
        try committer.journal.file.truncate(to: 0)
        return start
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
                let whole = left / blockSize * blockSize
                var part = buffer._mutatingExtracting(done..<done + whole)
                try readBlocks(at / UInt64(sectorsPerBlock), into: &part)
                done += whole
            } else {
                let count = min(left, blockSize - inBlock)
                try fetchScratch(at / UInt64(sectorsPerBlock))
                buffer.copy(scratch.rawBytes.extracting(inBlock..<inBlock + count), to: done)
                done += count
            }
        }
    }

    /// The next run of mapped blocks at `block` or after it, at most `limit` long; staged blocks are not looked at.
    public func nextMapped(at block: UInt64, limit: UInt64) throws(Failure) -> Range<UInt64>? {
        let found = try reader.mapped(disk: committer.diskName, from: block, to: .max, limit: Int(limit)).blocks
        guard let first = found.first?.block else { return nil }
        var end = first
        for mapped in found where mapped.block == end { end += 1 }
        return first..<end
    }

    /// Reads one block into the scratch buffer.
    private func fetchScratch(_ block: UInt64) throws(Failure) {
        var room = [UInt8]()
        swap(&room, &scratch)
        defer { swap(&room, &scratch) }
        try room.withMutableBytes { (bytes) throws(Failure) in try readBlocks(block, into: &bytes) }
    }

    /// Staged blocks first, then the map. Only this thread writes to the journal, so what is staged stays where
    /// it is until the read is done, committed or not.
    private func readBlocks(_ first: UInt64, into buffer: inout MutableRawSpan) throws(Failure) {
        let count = buffer.byteCount / blockSize
        places.removeAll(keepingCapacity: true)
        try committer.staging.withLock { state in
            guard !state.isEmpty else { return }
            for index in 0..<count { places.append(state.place(first &+ UInt64(index))) }
        }
        guard !places.isEmpty else { return try reader.read(disk: committer.diskName, from: first, into: &buffer) }
        var isAnyAbsent = false
        for index in 0..<count {
            if places[index] == Generation.absent {
                isAnyAbsent = true
            } else if places[index] == Generation.discarded {
                buffer.zero(at: index * blockSize, count: blockSize)
            } else {
                var block = buffer._mutatingExtracting(index * blockSize..<(index + 1) * blockSize)
                guard try committer.journal.file.read(at: places[index], into: &block) == blockSize else {
                    throw Failure(.damage, "read \(committer.journal.file.path)", "it was cut short while in use")
                }
            }
        }
        if isAnyAbsent {
            let places = places
            try reader.read(disk: committer.diskName, from: first, into: &buffer) { places[$0] == Generation.absent }
        }
    }

    // MARK: Writing

    public func write(at sector: UInt64, _ bytes: RawSpan) throws(Failure) {
        _ = try checkedRange("write", at: sector, byteCount: bytes.byteCount)
        try checkWritable()
        var done = 0
        while done < bytes.byteCount {
            let at = sector &+ UInt64(done / sectorSize)
            let block = at / UInt64(sectorsPerBlock)
            let inBlock = Int(at % UInt64(sectorsPerBlock)) * sectorSize
            let left = bytes.byteCount - done
            if inBlock == 0, left >= blockSize {
                let blocks = min(left / blockSize, Journal.maximumBlocks)
                try append(.write, block, blocks: UInt64(blocks), bytes.extracting(done..<done + blocks * blockSize))
                done += blocks * blockSize
            } else {
                let count = min(left, blockSize - inBlock)
                try merge(block, at: inBlock, bytes.extracting(done..<done + count))
                done += count
            }
        }
    }

    /// Writes part of a block: the rest of it is what it was.
    private func merge(_ block: UInt64, at offset: Int, _ part: RawSpan) throws(Failure) {
        try fetchScratch(block)
        try scratch.withMutableBytes { (bytes) throws(Failure) in bytes.copy(part, to: offset) }
        let merged = scratch
        try append(.write, block, blocks: 1, merged.rawBytes)
    }

    private func checkWritable() throws(Failure) {
        guard !isReadOnly else { throw Failure(.invalidRequest, "write to disk \(committer.diskName)", "it is read-only") }
        if let failure { throw failure }
    }

    /// Puts a record into the journal, waiting for room, and stages it.
    private func append(_ kind: Journal.Kind, _ block: UInt64, blocks: UInt64, _ payload: RawSpan) throws(Failure) {
        try returnToStart()
        let byteCount = Journal.headerSize + payload.byteCount
        let (offset, skipped) = committer.journal.place(byteCount, head: head.offset)
        try waitForRoom(skipped + UInt64(byteCount))
        if skipped > 0 { try skip(skipped) }
        let record = Journal.Record(kind: kind, sequence: head.sequence &+ 1, block: block, blocks: blocks)
        try committer.journal.write(record, at: offset, payload)
        isUnsynchronized = true
        head = JournalPosition(sequence: record.sequence, offset: offset + UInt64(record.byteCount))
        let isWorthWaking = try committer.staging.withLock { state in
            let wasEmpty = state.active.isEmpty
            let wasFull = committer.isFull(state.active)
            state.active.stage(record, payload: offset + UInt64(Journal.headerSize))
            return wasEmpty || (!wasFull && committer.isFull(state.active))
        }
        if isWorthWaking { committer.staging.notify() }
    }

    /// When nothing is staged, the ring begins anew: pages that are written over again and again take less of the
    /// filesystem and of its bandwidth than pages all over the ring.
    private func returnToStart() throws(Failure) {
        let capacity = committer.journal.capacity
        guard head.offset >= capacity / 8, try committer.staging.withLock({ $0.isEmpty }) else { return }
        try skip(capacity - head.offset)
    }

    /// Goes on at the beginning of the ring.
    private func skip(_ bytes: UInt64) throws(Failure) {
        var start = JournalPosition(sequence: head.sequence, offset: 0)
        // Where not even a header fits, a reader knows by itself.
        if bytes >= UInt64(Journal.headerSize) {
            start.sequence &+= 1
            try committer.journal.write(Journal.Record(kind: .skip, sequence: start.sequence, block: 0, blocks: 0), at: head.offset, RawSpan())
        }
        head = start
        try committer.staging.withLock { $0.active.skip(bytes, to: start) }
        // The record that follows finds the generation begun, and leaves the committer asleep.
        committer.staging.notify()
    }

    private func waitForRoom(_ bytes: UInt64) throws(Failure) {
        let capacity = committer.journal.capacity
        let hasRoom = try committer.staging.withLock { $0.journalBytes + bytes <= capacity }
        if !hasRoom { try drain { $0.journalBytes + bytes <= capacity } }
    }

    /// Has the committer work until `condition` holds.
    /// - Throws: why it can't.
    private func drain(until condition: (Staging) -> Bool) throws(Failure) {
        try committer.staging.withLock { $0.isWanted = true }
        committer.staging.notify()
        try committer.staging.wait { (state) throws(Failure) in
            if condition(state) { return .done(()) }
            if let failure = state.failure { throw failure }
            return .notified
        }
    }

    // MARK: Discarding

    /// Blocks of a discard that goes through the journal; a larger one goes to the map at once.
    private static let stagedDiscardBlocks: UInt64 = 4096

    public func discard(_ range: SectorRange) throws(Failure) {
        guard range.fits(in: sectorCount) else {
            throw Failure(.invalidRequest, "discard of \(range.count) sectors at \(range.start)", "outside the disk's \(sectorCount) sectors")
        }
        try checkWritable()
        let perBlock = UInt64(sectorsPerBlock)
        let first = (range.start + perBlock - 1) / perBlock
        // The block at the disk's end may be short of sectors; with all it has, it is whole.
        let end = range.end == sectorCount ? (range.end + perBlock - 1) / perBlock : range.end / perBlock
        guard first < end else { return try zero(range.start, to: range.end) }
        try zero(range.start, to: first * perBlock)
        try zero(min(end * perBlock, range.end), to: range.end)
        if end - first <= Self.stagedDiscardBlocks {
            try append(.discard, first, blocks: end - first, RawSpan())
        } else {
            try drain { $0.isEmpty }
            try committer.store.unmap(committer.diskName, from: first, to: end)
        }
    }

    /// Zeros a part of a block.
    private func zero(_ start: UInt64, to end: UInt64) throws(Failure) {
        guard start < end else { return }
        let zeros = [UInt8](repeating: 0, count: Int(end - start) * sectorSize)
        try write(at: start, zeros.rawBytes)
    }

    // MARK: Flushing and closing

    public func flush() throws(Failure) {
        if let failure { throw failure }
        guard isUnsynchronized else { return }
        // What the committer has taken in is durable already.
        if try !committer.staging.withLock({ $0.isEmpty }) {
            do throws(Failure) {
                try committer.journal.file.synchronizeData()
            } catch {
                failure = Failure(error.kind, "disk \(committer.diskName)", "a flush failed: \(error.why)",
                    remedy: "no write is accepted any more: see to the disk under the store, then connect again")
                throw error
            }
        }
        isUnsynchronized = false
    }

    /// Commits all that is staged.
    /// - Throws: when it can't; then everything is safe in the journal, and goes in when the disk is opened next.
    public func close() throws(Failure) {
        guard !isClosed else { return }
        isClosed = true
        defer { try? committer.journal.file.unlock() }
        // Who finds damage says so before it goes; that it can't does not make the disk fail.
        defer { try? committer.store.recordDamage() }
        guard let thread else { return }
        try committer.staging.withLock { $0.isClosing = true }
        committer.staging.notify()
        thread.join()
        if let failure = try committer.staging.withLock({ $0.failure }) {
            throw Failure(failure.kind, "disk \(committer.diskName)", "its last writes wait in its journal: \(failure)", remedy: "they go in when the disk is opened again")
        }
        try committer.journal.file.truncate(to: 0)
        try committer.store.trim()
    }
}
