public import BlockModel
internal import Catalogue
internal import Hashing
public import Store
internal import Synchronization
public import System

/// A disk of a store: writes go to its journal, from there to the map; reads see both.
///
/// - A write that returned survives the death of the process: it is in the journal, in the page cache.
/// - A flush that returned survives the loss of power: the journal is on the disk, or the map is.
/// - A full journal makes writes wait for the committer. When the store is full, they fail and nothing is lost.
public final class StoreDisk: BlockDevice {
    public let isReadOnly: Bool
    private let sectors: Atomic<UInt64>
    private let committer: Committer
    private let threads: [Thread]
    private let readers: ReaderPool
    /// What a writer needs; held for the length of a write, so that a part of a block finds the rest of it in its place.
    private let writer: Monitor<Writer>
    private let journalSync: Monitor<JournalSync>
    private let isClosed = Atomic(false)
    /// Blocks with data that were staged when the disk was opened, in ascending order.
    private let leftoverBlocks: [UInt64]
    /// A flush has synced the journal since its file was filled.
    private let wasFlushed = Atomic(false)

    /// What belongs to whoever writes.
    private struct Writer: ~Copyable {
        /// Where the next record goes.
        var head: JournalPosition
        /// What an interrupted writer left is not all in the map, as there was no room: until it is, nothing follows it.
        var isBehindLeftover = false
        /// Behind the head may be whole records of a write that failed: until others take their place, nothing may be done past them.
        var hasStrayRecords = false
        /// How far the journal's file was written.
        var journalLength: UInt64 = 0
        /// For parts of blocks, and for records.
        var scratch = [UInt8](repeating: 0, count: blockSize)
        var headers = [UInt8](repeating: 0, count: Journal.headersByteCount)
        var parts = Gather(capacity: 2 * Journal.maximumEntries)
    }

    /// How far the journal is on the disk.
    private struct JournalSync {
        /// Every record up to this one is, and so many bytes of records were staged by then.
        var sequence: UInt64
        var stagedBytes: UInt64 = 0
        /// Somebody's fdatasync is at work; one of those who wait for its end begins the next, for all of them.
        var isRunning = false
        /// A failed fdatasync: the kernel may have dropped what it could not write, so no later one can be believed.
        var failure: Failure?
    }

    /// Bytes of a journal that nothing else was said about.
    public static let defaultJournalBytes: UInt64 = 64 << 20
    /// So much that no flush covers yet costs less to commit than to sync: it goes into the store anyhow. Not where the
    /// processor names fewer bytes a second than a disk takes.
    private static let commitRatherThanSync: UInt64 = 4 << 20
    private static let leastNamingRate = 100e6
    /// Bytes of a write that may be one of many with a flush behind each.
    private static let shortWrite = 32 << 10

    public var sectorCount: UInt64 { sectors.load(ordering: .relaxed) }

    /// Opens a disk and takes in what an interrupted writer left in its journal. On a full filesystem that may have to wait: it is read
    /// where it lies, and writes go on once it is in the map.
    /// - Parameters:
    ///   - readOnly: any number of readers may have it then, and no writer.
    ///   - journalBytes: how much may be on its way into the store: at least 4 MiB.
    /// - Throws: `.notFound`; `.busy` when another process has it.
    public init(_ store: Store, _ name: String, readOnly: Bool = false, journalBytes: UInt64 = defaultJournalBytes) throws(Failure) {
        let lock = try Self.lock(store, name, readOnly: readOnly)
        let record = lock.record
        guard !record.isIncomplete else { throw store.noSuchDisk(name) }
        let journal = try Journal(lock.intoJournal(), id: record.number, capacity: max(journalBytes, 4 << 20) & ~4095)
        let committer = Committer(store: store, diskName: name, journal: journal, end: record.journal)
        let readers = try ReaderPool(store, disk: name)
        var writer = Writer(head: record.journal)
        var threads: [Thread] = []
        let leftover = Generation()
        leftover.reset(end: record.journal)
        if readOnly {
            // What could not be taken in.
            try Self.replay(committer, into: leftover)
        } else {
            do throws(Failure) {
                writer.head = try Self.recover(committer, leftover)
            } catch where error.kind == .noSpace {
                writer.head = leftover.end
                writer.isBehindLeftover = true
            }
        }
        // Before what waits.
        let end = writer.isBehindLeftover || readOnly ? leftover.start : writer.head
        committer.staging.with { staging in
            staging = Staging(end: end)
            if writer.isBehindLeftover || readOnly { staging.active = leftover }
        }
        leftoverBlocks = writer.isBehindLeftover || readOnly ? leftover.sorted().filter { $0.place != Generation.discarded }.map(\.block) : []
        if !readOnly { threads = try committer.start() }
        self.committer = committer
        self.readers = readers
        self.threads = threads
        isReadOnly = readOnly
        sectors = Atomic(record.byteCount / UInt64(sectorSize))
        self.writer = Monitor(writer)
        journalSync = Monitor(JournalSync(sequence: end.sequence))
    }

    deinit { try? close() }

    /// Locks the disk. What waits in the journal is taken in first, also when the disk is only to be read, if the store can be
    /// written to.
    private static func lock(_ store: Store, _ name: String, readOnly: Bool) throws(Failure) -> DiskLock {
        guard readOnly else { return try store.lock(name) }
        let lock = try store.lock(name, exclusive: false)
        if store.isReadOnly { return lock }
        if try lock.journal.size() == 0 { return lock }
        _ = consume lock
        do throws(Failure) {
            try StoreDisk(store, name).close()
        } catch where error.kind == .noSpace {
            // Then it is read where it lies.
        }
        return try store.lock(name, exclusive: false)
    }

    /// Stages what the journal holds beyond the map.
    private static func replay(_ committer: Committer, into generation: Generation, limit: Int = .max) throws(Failure) {
        let last = try committer.journal.replay(from: generation.end, limit: limit) { (record, payload) throws(Failure) in
            generation.stage(record, payload: payload)
        }
        // A record that only says that the ring goes on elsewhere is none that anybody waits for.
        if !generation.isEmpty { generation.end = last }
    }

    /// Bytes of records that are taken in at a time where there is no room for all.
    private static let leastPiece = 2 << 20

    /// Commits what the journal holds beyond the map, and begins a new era.
    /// - Parameter generation: empty; when it fails, it has what the journal still holds.
    private static func recover(_ committer: Committer, _ generation: Generation) throws(Failure) -> JournalPosition {
        try replay(committer, into: generation)
        if !generation.isEmpty {
            do throws(Failure) {
                try committer.commit(generation)
            } catch where error.kind == .noSpace {
                try recoverInPieces(committer, generation, from: generation.start)
            }
            // Whatever fails from here on, nothing is left of it to be read in the journal.
            generation.reset(end: generation.end)
        }
        return try beginEra(committer, after: generation.end)
    }

    /// A piece at a time, each of which makes room for the next, as it need not be in the journal any more.
    private static func recoverInPieces(_ committer: Committer, _ generation: Generation, from start: JournalPosition) throws(Failure) {
        var start = start
        while true {
            generation.reset(end: start)
            try replay(committer, into: generation, limit: leastPiece)
            if generation.isEmpty { return }
            do throws(Failure) {
                try committer.commit(generation)
            } catch where error.kind == .noSpace {
                generation.reset(end: start)
                try replay(committer, into: generation)
                throw error
            }
            // Room that can't be given back is no reason to take the records for lost.
            try? committer.journal.release(from: start, to: generation.end)
            start = generation.end
        }
    }

    /// All records are in the map: those that come now cannot be taken for theirs, whatever a crash leaves of the file.
    /// - Parameter patience: how long to wait for other writers; as long as others of the process when not given.
    private static func beginEra(_ committer: Committer, after last: JournalPosition, _ patience: Patience? = nil) throws(Failure) -> JournalPosition {
        let start = JournalPosition(sequence: Journal.nextEra(after: last.sequence), offset: 0)
        try committer.store.note(start, of: committer.diskName, patience)
        try committer.journal.file.truncate(to: 0)
        // A hole: what is written within a file costs the filesystem less than what makes it longer.
        try committer.journal.file.truncate(to: committer.journal.capacity)
        return start
    }

    /// Has what an interrupted writer left committed first.
    private func followLeftover(_ writer: inout Writer) throws(Failure) {
        try drain { $0.isEmpty }
        let start = try Self.beginEra(committer, after: writer.head, committer.patience)
        committer.staging.with { state in
            state.active.reset(end: start)
            state.committed = start.sequence
        }
        journalSync.with { $0.sequence = max($0.sequence, start.sequence) }
        writer.head = start
        writer.isBehindLeftover = false
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

    /// Whether there are blocks that are not in the map yet.
    public var hasStaged: Bool { committer.staging.with { !$0.isEmpty } }

    /// The next run of blocks with data at `block` or after it, at most `limit` long: mapped ones, or such that were staged when the
    /// disk was opened. What was staged since is not looked at.
    public func nextMapped(at block: UInt64, limit: UInt64) throws(Failure) -> Range<UInt64>? {
        let mapped = try readers.with { (reader) throws(Failure) -> Range<UInt64>? in
            let found = try reader.mapped(from: block, to: .max, limit: Int(limit)).blocks
            guard let first = found.first?.block else { return nil }
            var end = first
            for mapped in found where mapped.block == end { end += 1 }
            return first..<end
        }
        guard let staged = nextLeftover(at: block, limit: limit), staged.lowerBound < mapped?.lowerBound ?? .max else { return mapped }
        return staged
    }

    private func nextLeftover(at block: UInt64, limit: UInt64) -> Range<UInt64>? {
        var low = 0, high = leftoverBlocks.count
        while low < high {
            let middle = (low + high) / 2
            if leftoverBlocks[middle] < block { low = middle + 1 } else { high = middle }
        }
        guard low < leftoverBlocks.count else { return nil }
        let first = leftoverBlocks[low]
        var end = first
        while low < leftoverBlocks.count, leftoverBlocks[low] == end, end - first < limit {
            end += 1
            low += 1
        }
        return first..<end
    }

    /// Staged blocks first, then the map: what is committed in between was seen as staged.
    private func readBlocks(_ first: UInt64, into buffer: inout MutableRawSpan) throws(Failure) {
        let wanted = readStaged(first, into: &buffer)
        if wanted.isEmpty { return }
        try readers.with { (reader) throws(Failure) in try reader.read(from: first, into: &buffer, wanted: wanted) }
    }

    /// Copies what is staged, under the lock that keeps its place from being written over.
    /// - Returns: the blocks that are not.
    private func readStaged(_ first: UInt64, into buffer: inout MutableRawSpan) -> BlockMask {
        committer.staging.with { state in
            guard !state.isEmpty else { return .all }
            var absent = BlockMask.empty
            for index in 0..<buffer.byteCount / blockSize {
                switch state.place(first &+ UInt64(index)) {
                case Generation.absent: absent.insert(index)
                case Generation.discarded: buffer.zero(at: index * blockSize, count: blockSize)
                case let place: committer.journal.copyBlock(at: place, to: &buffer, at: index * blockSize)
                }
            }
            return absent
        }
    }

    /// Blocks that one look at holes goes through.
    private static let extentBlocks: UInt64 = 4096

    /// Blocks that are mapped or staged are in use.
    public func extent(at sector: UInt64, limit: UInt64) throws(Failure) -> Extent {
        _ = try checkedRange("look at", at: sector, byteCount: sectorSize)
        let perBlock = UInt64(sectorsPerBlock)
        let first = sector / perBlock
        let last = min(sectorCount, sector &+ max(1, min(limit, sectorCount)))
        let blocks = (last + perBlock - 1) / perBlock - first
        // Staged blocks are looked at before the map, as in a read.
        var staged = blocks
        var isData: Bool?
        committer.staging.with { state in
            guard !state.isEmpty else { return }
            staged = min(blocks, Self.extentBlocks)
            let place = state.place(first)
            var count: UInt64 = 1
            // A run that is alike in what is staged; where nothing is, the map tells.
            while count < staged, Self.kind(state.place(first + count)) == Self.kind(place) { count += 1 }
            staged = count
            isData = Self.kind(place)
        }
        if isData == nil {
            let run = try readers.with { (reader) throws(Failure) in try reader.run(from: first, limit: staged) }
            staged = run.count
            isData = run.isMapped
        }
        let end = min(last, (first + staged) * perBlock)
        return Extent(isHole: isData == false, count: max(1, end - sector))
    }

    /// Data, a hole, or not staged.
    private static func kind(_ place: UInt64) -> Bool? {
        place == Generation.absent ? nil : place != Generation.discarded
    }

    // MARK: Writing

    public func write(at sector: UInt64, _ bytes: RawSpan) throws(Failure) {
        _ = try checkedRange("write", at: sector, byteCount: bytes.byteCount)
        // What is one record can be summed up while somebody else writes.
        guard let entry = Self.entry(WritePart(sector: sector, range: 0..<bytes.byteCount), of: bytes) else {
            return try writer.withLock { (writer) throws(Failure) in try writePieces(at: sector, bytes, &writer) }
        }
        try writer.withLock { (writer) throws(Failure) in try append(entry, of: bytes, &writer) }
    }

    public func write(_ parts: Span<WritePart>, of bytes: RawSpan) throws(Failure) {
        for index in parts.indices { _ = try checkedRange("write", at: parts[index].sector, byteCount: parts[index].range.count) }
        var entries = Journal.Entries(repeating: Journal.Entry(.write, 0, blocks: 0))
        var count = 0, blocks: UInt64 = 0
        for index in parts.indices {
            let part = parts[index]
            let entry = Self.entry(part, of: bytes)
            if count == entries.count || entry.map({ blocks + $0.record.blocks > Journal.maximumBlocks }) ?? true {
                try append(&entries, count: count, of: bytes)
                count = 0
                blocks = 0
            }
            guard let entry else {
                try write(at: part.sector, bytes.extracting(part.range))
                continue
            }
            entries[count] = entry
            count += 1
            blocks += entry.record.blocks
        }
        try append(&entries, count: count, of: bytes)
    }

    private func append(_ entries: inout Journal.Entries, count: Int, of bytes: RawSpan) throws(Failure) {
        guard count > 0 else { return }
        try writer.withLock { (writer) throws(Failure) in
            var span = entries.mutableSpan
            var first = span._mutatingExtracting(first: count)
            try append(&first, of: bytes, &writer)
        }
    }

    /// The record of a write, if it takes one: of whole blocks, and not too many.
    private static func entry(_ part: WritePart, of bytes: RawSpan) -> Journal.Entry? {
        guard part.sector % UInt64(sectorsPerBlock) == 0, part.range.count % blockSize == 0,
            (1...Journal.maximumBlocks * blockSize).contains(part.range.count)
        else { return nil }
        return Journal.Entry(part.sector / UInt64(sectorsPerBlock), part.range, of: bytes)
    }

    /// Writes what takes more than one record, or parts of blocks.
    private func writePieces(at sector: UInt64, _ bytes: RawSpan, _ writer: inout Writer) throws(Failure) {
        try checkWritable()
        var done = 0
        while done < bytes.byteCount {
            let at = sector &+ UInt64(done / sectorSize)
            let block = at / UInt64(sectorsPerBlock)
            let inBlock = Int(at % UInt64(sectorsPerBlock)) * sectorSize
            let left = bytes.byteCount - done
            if inBlock == 0, left >= blockSize {
                let count = min(left / blockSize, Journal.maximumBlocks) * blockSize
                try append(Journal.Entry(block, done..<done + count, of: bytes), of: bytes, &writer)
                done += count
            } else {
                let count = min(left, blockSize - inBlock)
                try merge(block, at: inBlock, bytes.extracting(done..<done + count), &writer)
                done += count
            }
        }
    }

    /// Writes part of a block: the rest of it is what it was.
    private func merge(_ block: UInt64, at offset: Int, _ part: RawSpan, _ writer: inout Writer) throws(Failure) {
        var merged: [UInt8] = []
        swap(&merged, &writer.scratch)
        defer { swap(&merged, &writer.scratch) }
        try merged.withMutableBytes { (bytes) throws(Failure) in
            try readBlocks(block, into: &bytes)
            bytes.copy(part, to: offset)
        }
        try append(Journal.Entry(block, 0..<blockSize, of: merged.rawBytes), of: merged.rawBytes, &writer)
    }

    private func checkWritable() throws(Failure) {
        guard !isReadOnly else { throw Failure(.invalidRequest, "write to disk \(committer.diskName)", "it is read-only") }
        if let failure = journalSync.with({ $0.failure }) { throw failure }
    }

    private func append(_ entry: Journal.Entry, of bytes: RawSpan, _ writer: inout Writer) throws(Failure) {
        var entries: InlineArray<1, Journal.Entry> = [entry]
        var span = entries.mutableSpan
        try append(&span, of: bytes, &writer)
    }

    /// Puts records into the journal, waiting for room, and stages them. Of several, all are `.write`.
    private func append(_ entries: inout MutableSpan<Journal.Entry>, of bytes: RawSpan, _ writer: inout Writer) throws(Failure) {
        try checkWritable()
        var payloadBytes = 0
        var blocks: UInt64 = 0
        for index in entries.indices {
            payloadBytes += entries[index].payload.count
            blocks += entries[index].record.blocks
        }
        let byteCount = UInt64(entries.count * Journal.headerSize + payloadBytes)
        if writer.isBehindLeftover { try followLeftover(&writer) }
        let isStoreFull = try makeRoom(byteCount, blocks, &writer)
        let offset = writer.head.offset
        // The last of a full filesystem is for those who make room in it.
        if isStoreFull, offset + byteCount > writer.journalLength, let failure = committer.staging.with({ $0.failure }) { throw failure }
        // Behind the front, what comes without a flush is not likely to be flushed in small parts, and nowhere is what is long.
        if offset + byteCount > writer.journalLength,
            (offset < committer.journal.frontBytes && payloadBytes <= Self.shortWrite) || wasFlushed.exchange(false, ordering: .relaxed)
        {
            committer.journal.fill(&writer.journalLength, beyond: offset + byteCount)
        }
        do throws(Failure) {
            try committer.journal.write(&entries, at: writer.head, of: bytes, headers: &writer.headers, parts: &writer.parts)
        } catch {
            // Of several, the first may be there as a whole. A crash would have it take effect, though it was told to have failed.
            if writer.parts.byteCount < Int(byteCount) {
                writer.hasStrayRecords = (try? committer.journal.invalidate(at: writer.head)) == nil
            }
            throw error
        }
        writer.hasStrayRecords = false
        writer.head = JournalPosition(sequence: writer.head.sequence &+ UInt64(entries.count), offset: offset + byteCount)
        writer.journalLength = max(writer.journalLength, (offset + byteCount + 4095) & ~4095)
        let isWorthWaking = committer.staging.with { state in
            let wasEmpty = state.active.isEmpty
            let wasFull = committer.isFull(state.active)
            var place = offset
            for index in entries.indices {
                let record = entries[index].record
                state.active.stage(record, payload: place + UInt64(Journal.headerSize))
                place += UInt64(record.byteCount)
            }
            state.stagedBytes &+= byteCount
            return wasEmpty || (!wasFull && committer.isFull(state.active))
        }
        if isWorthWaking { committer.staging.notify() }
    }

    /// Sees to it that a record fits at the head, and its blocks among the staged.
    /// - Returns: whether nothing can be committed, as the store is full.
    private func makeRoom(_ byteCount: UInt64, _ blocks: UInt64, _ writer: inout Writer) throws(Failure) -> Bool {
        let capacity = committer.journal.capacity
        let (isEmpty, used, staged, isStoreFull) = committer.staging.with { ($0.isEmpty, $0.journalBytes, $0.active.blockCount, $0.failure?.kind == .noSpace) }
        // When nothing is staged, the ring begins anew: pages that are written over again and again take less of the
        // filesystem and of its bandwidth than pages all over the ring. The record must not reach the one that says so.
        if isEmpty, writer.head.offset >= max(committer.journal.frontBytes, byteCount) { try skip(&writer) }
        let left = capacity - writer.head.offset
        let needed = byteCount <= left ? byteCount : left + byteCount
        if staged + Int(blocks) > Generation.maximumBlocks || used + needed > capacity {
            try drain { $0.journalBytes + needed <= capacity && $0.active.blockCount + Int(blocks) <= Generation.maximumBlocks }
        }
        if byteCount > left { try skip(&writer) }
        return isStoreFull
    }

    /// Goes on at the beginning of the ring.
    private func skip(_ writer: inout Writer) throws(Failure) {
        let bytes = committer.journal.capacity - writer.head.offset
        var start = JournalPosition(sequence: writer.head.sequence, offset: 0)
        // Where not even a header fits, a reader knows by itself.
        if bytes >= UInt64(Journal.headerSize) {
            start.sequence &+= 1
            var entries: InlineArray<1, Journal.Entry> = [Journal.Entry(.skip, 0, blocks: 0)]
            var span = entries.mutableSpan
            try committer.journal.write(&span, at: writer.head, of: RawSpan(), headers: &writer.headers, parts: &writer.parts)
        }
        writer.head = start
        committer.staging.with { $0.active.skip(bytes, to: start) }
        // The record that follows finds the generation begun, and leaves the committer asleep.
        committer.staging.notify()
    }

    /// Has the committer work until `condition` holds.
    /// - Throws: why it can't.
    private func drain(until condition: (Staging) -> Bool) throws(Failure) {
        committer.staging.with { $0.waiting += 1 }
        committer.staging.notify()
        defer { committer.staging.with { $0.waiting -= 1 } }
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
        try writer.withLock { (writer) throws(Failure) in try discard(range, &writer) }
    }

    private func discard(_ range: SectorRange, _ writer: inout Writer) throws(Failure) {
        try checkWritable()
        let perBlock = UInt64(sectorsPerBlock)
        let first = (range.start + perBlock - 1) / perBlock
        // The block at the disk's end may be short of sectors; with all it has, it is whole.
        let end = range.end == sectorCount ? (range.end + perBlock - 1) / perBlock : range.end / perBlock
        guard first < end else { return try zero(range.start, to: range.end, &writer) }
        do throws(Failure) {
            try discardBlocks(first, to: end, &writer)
        } catch where error.kind == .noSpace {
            // It makes room: where nothing of it is staged, the map alone has it, and to unmap takes no more than the reserve.
            guard !writer.hasStrayRecords, !isStaged(first, to: end) else { throw error }
            if try isMapped(first, to: end) { try committer.store.unmap(committer.diskName, from: first, to: end, committer.patience) }
        }
        try zero(range.start, to: first * perBlock, &writer)
        try zero(min(end * perBlock, range.end), to: range.end, &writer)
    }

    private func discardBlocks(_ first: UInt64, to end: UInt64, _ writer: inout Writer) throws(Failure) {
        if end - first <= Self.stagedDiscardBlocks {
            try append(Journal.Entry(.discard, first, blocks: end - first), of: RawSpan(), &writer)
        } else {
            try drain { $0.isEmpty }
            // Takes the place of what is stray.
            if writer.hasStrayRecords { try append(Journal.Entry(.discard, first, blocks: 1), of: RawSpan(), &writer) }
            // A guest may discard all of a large disk again and again: where nothing is, that takes no commit.
            guard try isMapped(first, to: end) else { return }
            try committer.store.unmap(committer.diskName, from: first, to: end, committer.patience)
        }
    }

    /// Whether any of these blocks waits in the journal. For whoever holds the writer, without whom none comes.
    private func isStaged(_ first: UInt64, to end: UInt64) -> Bool {
        committer.staging.with { $0.hasBlocks(first..<end) }
    }

    /// Whether the map has any of these blocks.
    private func isMapped(_ first: UInt64, to end: UInt64) throws(Failure) -> Bool {
        try readers.with { (reader) throws(Failure) in try !reader.mapped(from: first, to: end, limit: 1).blocks.isEmpty }
    }

    /// Zeros a part of a block.
    private func zero(_ start: UInt64, to end: UInt64, _ writer: inout Writer) throws(Failure) {
        guard start < end else { return }
        let zeros = [UInt8](repeating: 0, count: Int(end - start) * sectorSize)
        do throws(Failure) {
            try writePieces(at: start, zeros.rawBytes, &writer)
        } catch where error.kind == .noSpace {
            // What is zero already needs no room.
            guard try isZero(start, to: end) else { throw error }
        }
    }

    /// Whether sectors of one block are zero.
    private func isZero(_ start: UInt64, to end: UInt64) throws(Failure) -> Bool {
        var bytes = [UInt8](repeating: 0, count: Int(end - start) * sectorSize)
        try bytes.withMutableBytes { (bytes) throws(Failure) in try read(at: start, into: &bytes) }
        return Hashing.isZero(bytes.rawBytes)
    }

    // MARK: Flushing and closing

    /// One fdatasync of the journal, or a commit of what is staged, whichever costs less; nothing when all is durable.
    public func flush() throws(Failure) {
        let (synchronized, synchronizedBytes, failure) = journalSync.with { ($0.sequence, $0.stagedBytes, $0.failure) }
        if let failure { throw failure }
        // What is acknowledged is staged; a writer that waits for room need not be waited for.
        let (head, committed, staged, isCommitting) = committer.staging.with {
            (
                $0.active.end.sequence, $0.committed, min($0.recordBytes, $0.stagedBytes &- synchronizedBytes),
                $0.failure == nil && $0.namingRate >= Self.leastNamingRate
            )
        }
        if head <= max(committed, synchronized) { return }
        if staged >= Self.commitRatherThanSync, isCommitting, (try? drain(until: { $0.committed >= head })) != nil { return }
        try synchronizeJournal(to: head)
    }

    /// Has the records up to `sequence` on the disk. Those who come while an fdatasync is at work share the next.
    private func synchronizeJournal(to sequence: UInt64) throws(Failure) {
        let isMine = try journalSync.wait { (sync) throws(Failure) in
            if let failure = sync.failure { throw failure }
            if sync.sequence >= sequence { return .done(false) }
            if sync.isRunning { return .notified }
            sync.isRunning = true
            return .done(true)
        }
        guard isMine else { return }
        wasFlushed.store(true, ordering: .relaxed)
        let (head, stagedBytes) = committer.staging.with { ($0.active.end.sequence, $0.stagedBytes) }
        var failure: Failure?
        do throws(Failure) { try committer.journal.file.synchronizeData() } catch { failure = error }
        journalSync.with { sync in
            sync.isRunning = false
            if let failure {
                sync.failure = Failure(failure.kind, "disk \(committer.diskName)", "a flush failed: \(failure.why)",
                    remedy: "no write is accepted any more: see to the disk under the store, then connect again")
            } else {
                sync.sequence = max(sync.sequence, head)
                sync.stagedBytes = stagedBytes
            }
        }
        journalSync.notify()
        if let failure { throw failure }
    }

    /// Commits all that is staged. The store's lock is waited for as long as commands do, not as guests.
    /// - Throws: when it can't; then everything is safe in the journal, and goes in when the disk is opened next.
    public func close() throws(Failure) {
        guard !isClosed.exchange(true, ordering: .relaxed) else { return }
        committer.patience.shorten(limit: Self.patienceAtEnd, limitWhenStopped: committer.store.patience.limitWhenStopped)
        // With the descriptor goes the lock in any case.
        defer { try? committer.journal.file.unlock() }
        // Who finds damage says so before it goes; that it can't does not make the disk fail.
        defer { try? committer.store.recordDamage(committer.patience) }
        guard !threads.isEmpty else { return }
        committer.staging.with { $0.isClosing = true }
        committer.staging.notify()
        for thread in threads { thread.join() }
        let (isEmpty, reason) = committer.staging.with { ($0.isEmpty, $0.failure) }
        // A commit that came through at last does not mean that what was staged behind it did.
        if !isEmpty || reason != nil {
            let failure = reason ?? Failure(.system, "its committer", "it ended early")
            // Acknowledged is safe; on the disk it is safer. A failure is told by the latch, and by what is thrown here.
            try? synchronizeJournal(to: committer.staging.with { $0.active.end.sequence })
            throw Failure(failure.kind, "disk \(committer.diskName)", "its last writes wait in its journal: \(failure)", remedy: "they go in when the disk is opened again")
        }
        try committer.journal.file.truncate(to: 0)
        do throws(Failure) {
            try committer.store.trim(committer.patience)
        } catch where error.kind == .busy {
            // Whoever is at work leaves some room for the next to give back.
        }
    }

    /// Seconds for which the end waits for another process that is at work.
    private static let patienceAtEnd = 10.0

    // MARK: Size

    /// Whether the disk was resized since it was opened, or since the last look.
    public func refresh() throws(Failure) -> Bool {
        let count = try readers.with { (reader) throws(Failure) in try reader.byteCount() } / UInt64(sectorSize)
        return sectors.exchange(count, ordering: .relaxed) != count
    }

    /// Gives a disk another size. It may be in use while it grows, and whoever serves it is told by `refresh`.
    /// - Parameter discardingData: data beyond a smaller one's end is thrown away.
    /// - Throws: `.busy` when a disk that is in use should shrink; `.invalidRequest` when there is data beyond its new end.
    public static func resize(_ name: String, of store: Store, to byteCount: UInt64, discardingData: Bool = false) throws(Failure) {
        guard let record = try store.disk(name) else { throw store.noSuchDisk(name) }
        guard byteCount < record.byteCount else { return try store.resize(name, to: byteCount) }
        try Store.checkSize(byteCount, of: name)
        let disk = try StoreDisk(store, name)
        defer { try? disk.close() }
        let end = byteCount / UInt64(sectorSize)
        if let gone = SectorRange(start: end, count: disk.sectorCount - end) {
            if !discardingData, let (first, bytes) = try disk.data(in: gone) {
                throw Failure(.invalidRequest, "resize disk \(name) to \(byteCount) bytes",
                    "\(bytes) bytes of data lie beyond that end, the first of them at byte \(first)",
                    remedy: "leave the disk larger, or throw them away with --discard-data")
            }
            // What is cut off reads as zeros when the disk grows again.
            try disk.discard(gone)
        }
        try disk.drain { $0.isEmpty }
        try store.resize(name, to: byteCount, isSmaller: true)
    }

    /// How many bytes of a range, by blocks, are not holes, and where they begin; nil: all is a hole.
    private func data(in range: SectorRange) throws(Failure) -> (first: UInt64, bytes: UInt64)? {
        var first: UInt64?
        var sectors: UInt64 = 0
        var next = range.start
        while next < range.end {
            let extent = try extent(at: next, limit: range.end - next)
            // Of a block that the range begins within, the rest may be all that is not zero.
            let blockEnd = min(range.end, (next / UInt64(sectorsPerBlock) + 1) * UInt64(sectorsPerBlock))
            let isPart = next % UInt64(sectorsPerBlock) != 0
            let count = isPart ? min(extent.count, blockEnd - next) : extent.count
            var isHole = extent.isHole
            if isPart, !isHole { isHole = try isZero(next, to: next + count) }
            if !isHole {
                first = first ?? next * UInt64(sectorSize)
                sectors += count
            }
            next += count
        }
        return first.map { ($0, sectors * UInt64(sectorSize)) }
    }

    // MARK: Tests

    /// Commits wait until somebody needs them.
    func holdBack() { committer.staging.with { $0.patience = .infinity } }

    /// Where the next record goes in the journal.
    var journalEnd: UInt64 { writer.with { $0.head.offset } }

    /// Whether an fdatasync covers all that the journal has.
    var isSynchronized: Bool { writer.with { $0.head.sequence } <= journalSync.with { $0.sequence } }
}
