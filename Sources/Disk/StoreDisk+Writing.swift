public import BlockModel
internal import Hashing
internal import Store
public import System

/// Writes and discards: records in the journal, staged until the committer has taken them into the map.
extension StoreDisk {
    public func write(at sector: UInt64, _ bytes: RawSpan) throws(Failure) {
        _ = try checkedRange("write", at: sector, byteCount: bytes.byteCount)
        // What is one record can be summed up while somebody else writes.
        guard let entry = Self.entry(WritePart(sector: sector, range: 0..<bytes.byteCount), of: bytes) else {
            return try inTurn { (turn) throws(Failure) in try writePieces(at: sector, bytes, &turn) }
        }
        try inTurn { (turn) throws(Failure) in try append(entry, of: bytes, &turn) }
    }

    /// Calls `body` with the writer's turn. Where it finds no room, and is to wait for it, it is done again, from its beginning: what it changed
    /// before may be old or new, as nobody was told of it. Nobody has the turn meanwhile, as what makes room may need it.
    private func inTurn(_ body: (inout JournalWriter.Turn) throws(Failure) -> Void) throws(Failure) {
        var hasWaited = false
        while true {
            do throws(Failure) {
                try journal.turns.withLock(body)
                if hasWaited { committer.noteRoom() }
                return
            } catch where error.kind == .noSpace {
                guard try committer.waitsForRoom() else { throw error }
                hasWaited = true
                try committer.waitForRoom(error)
            }
        }
    }

    public func allowWaiting(_ isAllowed: Bool) {
        staging.with { state in
            if isAllowed || state.mayWaitForRoom != nil { state.mayWaitForRoom = isAllowed }
        }
        staging.notify()
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
        try inTurn { (turn) throws(Failure) in
            var span = entries.mutableSpan
            var first = span._mutatingExtracting(first: count)
            try append(&first, of: bytes, &turn)
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
    private func writePieces(at sector: UInt64, _ bytes: RawSpan, _ turn: inout JournalWriter.Turn) throws(Failure) {
        try checkWritable()
        var done = 0
        while done < bytes.byteCount {
            let at = sector &+ UInt64(done / sectorSize)
            let block = at / UInt64(sectorsPerBlock)
            let inBlock = Int(at % UInt64(sectorsPerBlock)) * sectorSize
            let left = bytes.byteCount - done
            if inBlock == 0, left >= blockSize {
                let count = min(left / blockSize, Journal.maximumBlocks) * blockSize
                try append(Journal.Entry(block, done..<done + count, of: bytes), of: bytes, &turn)
                done += count
            } else {
                let count = min(left, blockSize - inBlock)
                try readModifyWrite(block, at: inBlock, bytes.extracting(done..<done + count), &turn)
                done += count
            }
        }
    }

    /// Writes part of a block: the rest of it is what it was.
    private func readModifyWrite(_ block: UInt64, at offset: Int, _ part: RawSpan, _ turn: inout JournalWriter.Turn) throws(Failure) {
        var whole: [UInt8] = []
        swap(&whole, &turn.scratch)
        defer { swap(&whole, &turn.scratch) }
        try whole.withMutableBytes { (bytes) throws(Failure) in
            try readBlocks(block, into: &bytes)
            bytes.copy(part, to: offset)
        }
        try append(Journal.Entry(block, 0..<blockSize, of: whole.rawBytes), of: whole.rawBytes, &turn)
    }

    private func checkWritable() throws(Failure) {
        guard !isReadOnly else { throw Failure(.invalidRequest, "write to", .disk(name), "it is read-only") }
        try journal.latch.check()
    }

    private func append(_ entry: Journal.Entry, of bytes: RawSpan, _ turn: inout JournalWriter.Turn) throws(Failure) {
        var entries: InlineArray<1, Journal.Entry> = [entry]
        var span = entries.mutableSpan
        try append(&span, of: bytes, &turn)
    }

    /// Puts records into the journal, waiting for room, and stages them. Of several, all are `.write`.
    private func append(_ entries: inout MutableSpan<Journal.Entry>, of bytes: RawSpan, _ turn: inout JournalWriter.Turn) throws(Failure) {
        try checkWritable()
        var byteCount = UInt64(entries.count * Journal.headerSize)
        var blocks: UInt64 = 0
        for index in entries.indices {
            byteCount += UInt64(entries[index].payload.count)
            blocks += entries[index].record.blocks
        }
        if turn.isBehindLeftover { try Recovery(committer: committer).finish(&turn) }
        let isStoreFull = try makeRoom(byteCount, blocks, &turn)
        // The last of a full filesystem is for those who make room in it.
        if isStoreFull, journal.takesRoom(byteCount, turn), let failure = staging.with({ $0.failure }) { throw failure }
        let offset = try journal.append(&entries, byteCount, of: bytes, &turn)
        stage(entries, at: offset)
    }

    /// Stages records that are in the journal from `offset` on.
    private func stage(_ entries: borrowing MutableSpan<Journal.Entry>, at offset: UInt64) {
        let isWorthWaking = staging.with { state in
            let wasEmpty = state.active.isEmpty
            let wasFull = committer.isFull(state.active)
            var place = offset
            for index in entries.indices {
                let record = entries[index].record
                state.active.stage(record, payload: place + UInt64(Journal.headerSize))
                place += UInt64(record.byteCount)
            }
            return wasEmpty || (!wasFull && committer.isFull(state.active))
        }
        if isWorthWaking { staging.notify() }
    }

    /// Sees to it that a record fits at the head, and its blocks among the staged.
    /// - Returns: whether nothing can be committed, as the store is full.
    private func makeRoom(_ byteCount: UInt64, _ blocks: UInt64, _ turn: inout JournalWriter.Turn) throws(Failure) -> Bool {
        let (staged, isStoreFull) = staging.with { ($0.active.blockCount, $0.failure?.kind == .noSpace) }
        if journal.shouldBeginAnew(before: byteCount, turn) { try skip(&turn) }
        let needed = journal.bytesNeeded(byteCount, turn)
        if staged + Int(blocks) > Generation.maximumBlocks || journal.usedBytes + needed > journal.capacity {
            try committer.drain {
                journal.usedBytes + needed <= journal.capacity && $0.active.blockCount + Int(blocks) <= Generation.maximumBlocks
            }
        }
        if !journal.fitsAtHead(byteCount, turn) { try skip(&turn) }
        return isStoreFull
    }

    /// Goes on at the beginning of the ring.
    private func skip(_ turn: inout JournalWriter.Turn) throws(Failure) {
        let bytes = try journal.skip(&turn)
        staging.with { $0.active.skip(bytes, to: turn.head) }
        // The record that follows finds the generation begun, and leaves the committer asleep.
        staging.notify()
    }

    // MARK: Discarding

    /// Blocks of a discard that goes through the journal; a larger one goes to the map at once.
    private static let stagedDiscardBlocks: UInt64 = 4096

    public func discard(_ range: SectorRange) throws(Failure) {
        guard range.fits(in: sectorCount) else {
            throw Failure(.invalidRequest, "discard", .bytes(range.byteCount, at: range.start), "outside the disk's \(sectorCount) sectors")
        }
        try inTurn { (turn) throws(Failure) in try discard(range, &turn) }
    }

    private func discard(_ range: SectorRange, _ turn: inout JournalWriter.Turn) throws(Failure) {
        try checkWritable()
        let perBlock = UInt64(sectorsPerBlock)
        let first = (range.start + perBlock - 1) / perBlock
        // The block at the disk's end may be short of sectors; with all it has, it is whole.
        let end = range.end == sectorCount ? (range.end + perBlock - 1) / perBlock : range.end / perBlock
        guard first < end else { return try zero(range.start, to: range.end, &turn) }
        do throws(Failure) {
            try discardBlocks(first, to: end, &turn)
        } catch where error.kind == .noSpace {
            // It makes room: where nothing of it is staged, the map alone has it, and to unmap takes no more than the reserve.
            guard !turn.hasStrayRecords, !isStaged(first, to: end) else { throw error }
            if try isMapped(first, to: end) { try store.unmap(name, from: first, to: end, committer.patience) }
        }
        try zero(range.start, to: first * perBlock, &turn)
        try zero(min(end * perBlock, range.end), to: range.end, &turn)
    }

    private func discardBlocks(_ first: UInt64, to end: UInt64, _ turn: inout JournalWriter.Turn) throws(Failure) {
        if end - first <= Self.stagedDiscardBlocks {
            try append(Journal.Entry(.discard, first, blocks: end - first), of: RawSpan(), &turn)
        } else {
            try committer.drain { $0.isEmpty }
            try journal.removeStrays(&turn)
            // A guest may discard all of a large disk again and again: where nothing is, that takes no commit.
            guard try isMapped(first, to: end) else { return }
            try store.unmap(name, from: first, to: end, committer.patience)
        }
    }

    /// Whether any of these blocks waits in the journal. For whoever holds the writer, without whom none comes.
    private func isStaged(_ first: UInt64, to end: UInt64) -> Bool {
        staging.with { $0.hasBlocks(first..<end) }
    }

    /// Whether the map has any of these blocks.
    private func isMapped(_ first: UInt64, to end: UInt64) throws(Failure) -> Bool {
        let run = try readers.with { (reader) throws(Failure) in try reader.nextMapped(from: first, to: end, limit: 1) }
        return run != nil
    }

    /// Zeros a part of a block.
    private func zero(_ start: UInt64, to end: UInt64, _ turn: inout JournalWriter.Turn) throws(Failure) {
        guard start < end else { return }
        let zeros = [UInt8](repeating: 0, count: Int(end - start) * sectorSize)
        do throws(Failure) {
            try writePieces(at: start, zeros.rawBytes, &turn)
        } catch where error.kind == .noSpace {
            // What is zero already needs no room.
            guard !turn.hasStrayRecords, try isZero(start, to: end) else { throw error }
        }
    }

    /// Whether sectors of one block are zero.
    func isZero(_ start: UInt64, to end: UInt64) throws(Failure) -> Bool {
        var bytes = [UInt8](repeating: 0, count: Int(end - start) * sectorSize)
        try bytes.withMutableBytes { (bytes) throws(Failure) in try read(at: start, into: &bytes) }
        return Hashing.isZero(bytes.rawBytes)
    }
}
