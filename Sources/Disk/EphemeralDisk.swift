public import BlockModel
internal import Synchronization
public import System

/// Copy on write over a disk that stays as it is: what is written lives in a scratch file that no path leads to,
/// and vanishes when this disk is closed, or the process dies.
///
/// The scratch file is sparse, with each sector where the disk has it. A 4 KiB block is either the base's or, as
/// soon as one of its sectors was written or discarded, the scratch file's.
///
/// The base is read without a lock, as it does not change: what is read of a block is what the block was before any change of it here.
/// The scratch file has one writer, or any number of readers.
public final class EphemeralDisk<Base: BlockDevice>: ForwardingDisk {
    public let next: Base
    private let sectors: Atomic<UInt64>
    private let scratch: File
    private let overlay: Monitor<Overlay>

    private struct Overlay: ~Copyable {
        /// Blocks that are the scratch file's, which has all of their sectors.
        var changed: BlockSet
        /// Reads of the scratch file that are at work.
        var readers = 0
        /// Somebody changes the scratch file, or waits for the last reader to leave it.
        var hasWriter = false
    }

    public var sectorCount: UInt64 { sectors.load(ordering: .relaxed) }
    public var isReadOnly: Bool { false }

    /// `base` is only read from now on, and closed with this disk; best open it read-only. `scratchDirectory` needs
    /// room for all that will be written.
    public init(over base: Base, scratchDirectory: String) throws(Failure) {
        scratch = try File(temporaryIn: scratchDirectory)
        next = base
        let count = base.sectorCount
        sectors = Atomic(count)
        overlay = Monitor(Overlay(changed: BlockSet(blockCount: Self.blockCount(count))))
    }

    // MARK: Reading

    public func read(at sector: UInt64, into buffer: inout MutableRawSpan) throws(Failure) {
        let range = try checkedRange("read", at: sector, byteCount: buffer.byteCount)
        var start = range.start
        while start < range.end {
            // In one transfer, as many blocks as come from the same file.
            let (isChanged, end) = beginReading(start, to: range.end)
            var part = buffer._mutatingExtracting(Int(start - range.start) * sectorSize..<Int(end - range.start) * sectorSize)
            if isChanged {
                defer { endReading() }
                // The file may end before that, as discards don't make it longer.
                let done = try scratch.read(at: start * UInt64(sectorSize), into: &part)
                part.zero(at: done, count: part.byteCount - done)
            } else {
                try next.read(at: start, into: &part)
            }
            start = end
        }
    }

    /// What the base lends, where nothing was changed.
    public func lend(_ range: SectorRange) -> LentMemory? {
        guard !range.isEmpty, range.fits(in: sectorCount) else { return nil }
        let (isChanged, end) = overlay.with { Self.run($0.changed, range.start, to: range.end) }
        return isChanged || end < range.end ? nil : next.lend(range)
    }

    /// Holes are the base's, where nothing was changed.
    public func extent(at sector: UInt64, limit: UInt64) throws(Failure) -> Extent {
        let range = try checkedRange("look at", at: sector, byteCount: sectorSize)
        // The disk may become shorter meanwhile. The limit bounds how long the set is locked.
        let last = max(range.end, min(sectorCount, sector + max(1, min(limit, 1 << 20))))
        let (isChanged, end) = overlay.with { Self.run($0.changed, sector, to: last) }
        return isChanged ? Extent(isHole: false, count: end - sector) : try next.extent(at: sector, limit: end - sector)
    }

    /// The run of sectors from `start` to `end` at most that have one source, and whether that is the scratch file.
    private static func run(_ changed: borrowing BlockSet, _ start: UInt64, to end: UInt64) -> (isChanged: Bool, end: UInt64) {
        let isChanged = changed.contains(block(of: start))
        var next = nextBlock(after: start)
        while next < end, changed.contains(block(of: next)) == isChanged { next = nextBlock(after: next) }
        return (isChanged, min(next, end))
    }

    /// The first run of a range. If it is the scratch file's, nobody writes there until `endReading`.
    private func beginReading(_ start: UInt64, to end: UInt64) -> (isChanged: Bool, end: UInt64) {
        overlay.wait { overlay in
            let run = Self.run(overlay.changed, start, to: end)
            if run.isChanged {
                if overlay.hasWriter { return .notified }
                overlay.readers += 1
            }
            return .done(run)
        }
    }

    private func endReading() {
        let isAwaited = overlay.with { overlay in
            overlay.readers -= 1
            return overlay.hasWriter && overlay.readers == 0
        }
        if isAwaited { overlay.notify() }
    }

    // MARK: Changing

    public func write(at sector: UInt64, _ bytes: RawSpan) throws(Failure) {
        let range = try checkedRange("write", at: sector, byteCount: bytes.byteCount)
        try change(range) { () throws(Failure) in try scratch.write(at: range.byteOffset, bytes) }
    }

    public func write(_ parts: Span<WritePart>, of bytes: RawSpan) throws(Failure) {
        for index in parts.indices { _ = try checkedRange("write", at: parts[index].sector, byteCount: parts[index].range.count) }
        var index = 0
        while index < parts.count {
            // Whole blocks need nothing of the base, and go together.
            var end = index
            while end < parts.count, Self.isWhole(parts[end]) { end += 1 }
            if end > index {
                try writeBlocks(parts.extracting(index..<end), of: bytes)
                index = end
            } else {
                try write(at: parts[index].sector, bytes.extracting(parts[index].range))
                index += 1
            }
        }
    }

    public func discard(_ range: SectorRange) throws(Failure) {
        try checkDiscard(range)
        try change(range) { () throws(Failure) in try scratch.zero(at: range.byteOffset, count: range.byteCount) }
    }

    /// Nothing: no write outlives the process.
    public func flush() throws(Failure) {}

    private static func isWhole(_ part: WritePart) -> Bool {
        part.sector % UInt64(sectorsPerBlock) == 0 && part.range.count % blockSize == 0 && !part.range.isEmpty
    }

    private func writeBlocks(_ parts: Span<WritePart>, of bytes: RawSpan) throws(Failure) {
        try exclusively { () throws(Failure) in
            for index in parts.indices {
                let range = try checkedRange("write", at: parts[index].sector, byteCount: parts[index].range.count)
                try scratch.write(at: range.byteOffset, bytes.extracting(parts[index].range))
                overlay.with { $0.changed.insert(Self.block(of: range.start)...Self.block(of: range.end - 1)) }
            }
        }
    }

    /// Brings the blocks that `range` covers in part into the scratch file, changes the range there, and lets its
    /// blocks be the scratch file's. Until then they are the base's, so that a failure changes nothing else.
    private func change(_ range: SectorRange, _ body: () throws(Failure) -> Void) throws(Failure) {
        guard !range.isEmpty else { return }
        let first = Self.block(of: range.start), last = Self.block(of: range.end - 1)
        let splitsFirst = range.start % UInt64(sectorsPerBlock) != 0
        let splitsLast = range.end % UInt64(sectorsPerBlock) != 0 && !(splitsFirst && first == last)
        while true {
            let count = sectorCount
            guard range.fits(in: count) else { throw Failure(.invalidRequest, "change", "the disk has become shorter") }
            // What the rest of these blocks is. Read before anybody has to wait for it.
            let head = splitsFirst ? try original(first, of: count) : nil
            let tail = splitsLast ? try original(last, of: count) : nil
            let isDone = try exclusively { () throws(Failure) in
                // When the size has changed meanwhile, so has the part of the last block that lies within the disk: begin again.
                guard sectorCount == count else { return false }
                if let head { try copyUp(head) }
                if let tail { try copyUp(tail) }
                try body()
                overlay.with { $0.changed.insert(first...last) }
                return true
            }
            if isDone { return }
        }
    }

    /// A block as the base has it.
    private struct Original {
        let block: UInt64
        /// The disk's last block may be short.
        let byteCount: Int
        var bytes = InlineArray<4096, UInt8>(repeating: 0)
    }

    /// Nil: the block is the scratch file's already.
    private func original(_ block: UInt64, of sectorCount: UInt64) throws(Failure) -> Original? {
        if overlay.with({ $0.changed.contains(block) }) { return nil }
        let start = block * UInt64(sectorsPerBlock)
        var original = Original(block: block, byteCount: Int(min(UInt64(sectorsPerBlock), sectorCount - start)) * sectorSize)
        var span = original.bytes.mutableSpan
        // The bytes of initialised integers.
        var all = unsafe span.mutableBytes
        var part = all._mutatingExtracting(first: original.byteCount)
        try next.read(at: start, into: &part)
        return original
    }

    /// For whoever has the scratch file to write: another may have had the block changed since it was read.
    private func copyUp(_ original: Original) throws(Failure) {
        if overlay.with({ $0.changed.contains(original.block) }) { return }
        // The bytes of initialised integers.
        let bytes = unsafe original.bytes.span.bytes
        try scratch.write(at: original.block * UInt64(blockSize), bytes.extracting(first: original.byteCount))
    }

    /// Does something while nobody else reads or writes the scratch file, or changes the size.
    private func exclusively<Result>(_ body: () throws(Failure) -> Result) throws(Failure) -> Result {
        overlay.wait { (overlay) -> Wait<Void> in
            if overlay.hasWriter { return .notified }
            overlay.hasWriter = true
            return .done(())
        }
        defer {
            overlay.with { $0.hasWriter = false }
            overlay.notify()
        }
        overlay.wait { (overlay) -> Wait<Void> in overlay.readers == 0 ? .done(()) : .notified }
        return try body()
    }

    // MARK: Size

    /// The base's size is the disk's. What was written behind the end of one that has become shorter is forgotten.
    public func refresh() throws(Failure) -> Bool {
        _ = try next.refresh()
        // The base's answer is not asked for: it may have been given to an earlier call, which failed afterwards.
        guard next.sectorCount != sectorCount else { return false }
        return try exclusively { () throws(Failure) in
            let old = sectorCount, new = next.sectorCount
            if new == old { return false }
            try fillLastBlock(old, new)
            overlay.with { $0.changed.resize(blockCount: Self.blockCount(new)) }
            sectors.store(new, ordering: .relaxed)
            return true
        }
    }

    /// When the disk's last block was short and is the scratch file's, the rest of it comes there, too: the scratch file has all of its blocks.
    private func fillLastBlock(_ old: UInt64, _ new: UInt64) throws(Failure) {
        let end = min(new, Self.blockCount(old) * UInt64(sectorsPerBlock))
        guard old < end, overlay.with({ $0.changed.contains(Self.block(of: old)) }) else { return }
        var bytes = [UInt8](repeating: 0, count: Int(end - old) * sectorSize)
        try bytes.withMutableBytes { (bytes) throws(Failure) in try next.read(at: old, into: &bytes) }
        try scratch.write(at: old * UInt64(sectorSize), bytes.rawBytes)
    }

    private static func block(of sector: UInt64) -> UInt64 { sector / UInt64(sectorsPerBlock) }
    private static func nextBlock(after sector: UInt64) -> UInt64 { (block(of: sector) + 1) * UInt64(sectorsPerBlock) }
    /// Blocks of a disk, rounded up.
    private static func blockCount(_ sectors: UInt64) -> UInt64 { (sectors + UInt64(sectorsPerBlock) - 1) / UInt64(sectorsPerBlock) }
}
