public import BlockModel
internal import Synchronization
public import System

/// Copy on write over a disk that stays as it is: what is written lives in a scratch file that no path leads to,
/// and vanishes when this disk is closed, or the process dies.
///
/// The scratch file is sparse, with each sector where the disk has it. A 4 KiB block is either the base's or, as
/// soon as one of its sectors was written or discarded, the scratch file's.
public final class EphemeralDisk<Base: BlockDevice>: BlockDevice {
    public let sectorCount: UInt64
    public var isReadOnly: Bool { false }
    private let base: Base
    private let scratch: File
    /// Blocks that are the scratch file's. Held for the length of a request: a part of a block that is written has to
    /// find the rest of it in its place.
    private let changed: Mutex<BlockSet>
    private let isClosed = Atomic(false)

    /// `base` is only read from now on, and closed with this disk; best open it read-only. `scratchDirectory` needs
    /// room for all that will be written.
    public init(over base: Base, scratchDirectory: String) throws(Failure) {
        scratch = try File(temporaryIn: scratchDirectory)
        self.base = base
        sectorCount = base.sectorCount
        changed = Mutex(BlockSet(blockCount: base.sectorCount / UInt64(sectorsPerBlock) + 1))
    }

    public func read(at sector: UInt64, into buffer: inout MutableRawSpan) throws(Failure) {
        let range = try checkedRange("read", at: sector, byteCount: buffer.byteCount)
        try changed.withLock { (changed) throws(Failure) in try read(range, changed, into: &buffer) }
    }

    public func expectReads(of ranges: [SectorRange]) { base.expectReads(of: ranges) }

    private func read(_ range: SectorRange, _ changed: borrowing BlockSet, into buffer: inout MutableRawSpan) throws(Failure) {
        var start = range.start
        while start < range.end {
            // As many blocks as have one source, in one transfer.
            let isChanged = changed.contains(block(of: start))
            var end = nextBlock(after: start)
            while end < range.end, changed.contains(block(of: end)) == isChanged { end = nextBlock(after: end) }
            end = min(end, range.end)
            var part = buffer._mutatingExtracting(Int(start - range.start) * sectorSize ..< Int(end - range.start) * sectorSize)
            if isChanged {
                // What was discarded behind the last write is behind the file's end.
                let done = try scratch.read(at: start * UInt64(sectorSize), into: &part)
                part.zero(at: done, count: part.byteCount - done)
            } else {
                try base.read(at: start, into: &part)
            }
            start = end
        }
    }

    public func write(at sector: UInt64, _ bytes: RawSpan) throws(Failure) {
        let range = try checkedRange("write", at: sector, byteCount: bytes.byteCount)
        try change(range) { () throws(Failure) in try scratch.write(at: range.byteOffset, bytes) }
    }

    public func discard(_ range: SectorRange) throws(Failure) {
        try checkDiscard(range)
        try change(range) { () throws(Failure) in try scratch.zero(at: range.byteOffset, count: range.byteCount) }
    }

    /// Nothing: no write outlives the process.
    public func flush() throws(Failure) {}

    /// Holes are the base's, where nothing was changed.
    public func extent(at sector: UInt64, limit: UInt64) throws(Failure) -> Extent {
        _ = try checkedRange("look at", at: sector, byteCount: sectorSize)
        return try changed.withLock { (changed) throws(Failure) in
            let isChanged = changed.contains(block(of: sector))
            // No more blocks than that: the set is held meanwhile.
            let last = min(sectorCount, sector + max(1, min(limit, 1 << 20)))
            var end = nextBlock(after: sector)
            while end < last, changed.contains(block(of: end)) == isChanged { end = nextBlock(after: end) }
            let count = min(end, last) - sector
            return isChanged ? Extent(isHole: false, count: count) : try base.extent(at: sector, limit: count)
        }
    }

    public func close() throws(Failure) {
        guard !isClosed.exchange(true, ordering: .relaxed) else { return }
        try base.close()
    }

    /// Brings the blocks that `range` covers in part into the scratch file, changes the range there, and lets its
    /// blocks be the scratch file's. Until then they are the base's, so that a failure changes nothing else.
    private func change(_ range: SectorRange, _ body: () throws(Failure) -> Void) throws(Failure) {
        guard !range.isEmpty else { return }
        try changed.withLock { (changed) throws(Failure) in try change(range, &changed, body) }
    }

    private func change(_ range: SectorRange, _ changed: inout BlockSet, _ body: () throws(Failure) -> Void) throws(Failure) {
        let first = block(of: range.start), last = block(of: range.end - 1)
        let splitsFirst = range.start % UInt64(sectorsPerBlock) != 0
        let splitsLast = range.end % UInt64(sectorsPerBlock) != 0 && range.end != sectorCount
        if splitsFirst { try copyUp(first, changed) }
        if splitsLast, !(splitsFirst && first == last) { try copyUp(last, changed) }
        try body()
        changed.insert(first...last)
    }

    /// Copies a block of the base to the scratch file.
    private func copyUp(_ block: UInt64, _ changed: borrowing BlockSet) throws(Failure) {
        guard !changed.contains(block) else { return }
        let start = block * UInt64(sectorsPerBlock)
        var bytes = InlineArray<4096, UInt8>(repeating: 0)
        var span = bytes.mutableSpan
        // The bytes of initialised integers; the disk's last block may be short.
        var all = unsafe span.mutableBytes
        var part = all._mutatingExtracting(first: Int(min(UInt64(sectorsPerBlock), sectorCount - start)) * sectorSize)
        try base.read(at: start, into: &part)
        try scratch.write(at: start * UInt64(sectorSize), part.bytes)
    }

    private func block(of sector: UInt64) -> UInt64 { sector / UInt64(sectorsPerBlock) }
    private func nextBlock(after sector: UInt64) -> UInt64 { (block(of: sector) + 1) * UInt64(sectorsPerBlock) }
}
