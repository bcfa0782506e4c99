public import BlockModel
internal import Synchronization
public import System

/// A disk that is a raw image file or a block device: sector n is at byte 512·n.
///
/// It is locked for as long as it is open, for one writer or for many readers; QEMU's image locks are respected. A device that is
/// written is opened with O_EXCL, so that nothing mounts it meanwhile.
public final class RawFileDisk: BlockDevice {
    public let isReadOnly: Bool
    private let sectors: Atomic<UInt64>
    private let holder: FileHolder
    private let window = FileWindow()
    /// Whether the filesystem can tell holes from data: a device's can't.
    private let hasHoles: Bool
    private let latch = SyncLatch()
    /// How many flushes there were. They take turns, as the system reports a failure to only one of those at work at the same time.
    private let flushes = Mutex<UInt64>(0)
    private let flushesBegun = Atomic<UInt64>(0)
    private let isClosed = Atomic(false)

    public var sectorCount: UInt64 { sectors.load(ordering: .relaxed) }

    /// What the bytes seem to be, where that is no raw image. A disk may have such bytes, and is served all the same.
    public let foreignFormat: ImageFormat?

    /// Opens what is at `path`. Throws `.notFound`; `.busy` when another process writes to it, or reads it and
    /// `readOnly` is false, or a device or file is mounted, or another device is made of it, in a way that does not go with this;
    /// `.usage` when it is no file or block device, or its size no positive multiple of 512.
    /// - Parameter isForced: all the same.
    public init(path: String, readOnly: Bool, isForced: Bool = false) throws(Failure) {
        let (holder, status) = try SharedFile.open(path, "serve", writing: !readOnly, isForced: isForced)
        let byteCount = try holder.file.size()
        guard byteCount > 0, byteCount % UInt64(sectorSize) == 0 else {
            throw Failure(
                .usage, "serve", .image(path), "its size, \(byteCount) bytes, is not a positive multiple of \(sectorSize)",
                remedy: "enlarge it: truncate --size=%\(sectorSize) \(path)")
        }
        sectors = Atomic(byteCount / UInt64(sectorSize))
        isReadOnly = readOnly
        hasHoles = status.kind == .regular
        foreignFormat = try ImageFormat(of: holder.file, byteCount: byteCount)
        self.holder = holder
    }

    public func read(at sector: UInt64, into buffer: inout MutableRawSpan) throws(Failure) {
        let range = try checkedRange("read", at: sector, byteCount: buffer.byteCount)
        let wanted = buffer.byteCount
        guard try holder.file.read(at: range.byteOffset, into: &buffer) == wanted else {
            throw Failure(.system, .read, .file(holder.file.path), "it has become shorter than the disk")
        }
    }

    /// From the page cache. A file that was made shorter than the disk fails where no page is left; in its last page, what was
    /// cut off reads as zeros until `refresh`.
    public func lend(_ range: SectorRange) -> LentMemory? {
        guard range.fits(in: sectorCount), let count = Int(exactly: range.byteCount) else { return nil }
        return window.lend(holder.file, at: range.byteOffset, count: count, size: byteCount)
    }

    public func write(at sector: UInt64, _ bytes: RawSpan) throws(Failure) {
        try checkWritable("write")
        let range = try checkedRange("write", at: sector, byteCount: bytes.byteCount)
        try latch.check()
        try holder.file.write(at: range.byteOffset, bytes)
    }

    public func discard(_ range: SectorRange) throws(Failure) {
        try checkDiscard(range)
        try latch.check()
        try holder.file.zero(at: range.byteOffset, count: range.byteCount)
    }

    public func flush() throws(Failure) {
        try latch.check()
        guard !isReadOnly else { return }
        let begun = flushesBegun.load(ordering: .sequentiallyConsistent)
        try flushes.withLock { (count) throws(Failure) in
            // A flush that began since covers this one's writes, too.
            if count > begun { return try latch.check() }
            count += 1
            flushesBegun.store(count, ordering: .sequentiallyConsistent)
            try latch.run { () throws(Failure) in try holder.file.synchronizeData() }
        }
    }

    /// As the filesystem keeps it (lseek(2)); a device is all in use.
    public func extent(at sector: UInt64, limit: UInt64) throws(Failure) -> Extent {
        let range = try checkedRange("look at", at: sector, byteCount: sectorSize)
        // The disk may become shorter meanwhile.
        let limit = max(1, min(limit, max(sectorCount, range.end) - sector))
        guard hasHoles else { return Extent(isHole: false, count: limit) }
        guard let data = try holder.file.nextData(at: range.byteOffset) else { return Extent(isHole: true, count: limit) }
        // Whole sectors: a hole ends where data begins, data where a sector has none of it.
        let start = data.lowerBound / UInt64(sectorSize)
        guard start <= sector else { return Extent(isHole: true, count: min(limit, start - sector)) }
        let end = (data.upperBound + UInt64(sectorSize) - 1) / UInt64(sectorSize)
        return Extent(isHole: false, count: max(1, min(limit, end - sector)))
    }

    /// The file's size is the disk's, down to whole sectors.
    public func refresh() throws(Failure) -> Bool {
        let count = try holder.file.size() / UInt64(sectorSize)
        return sectors.exchange(count, ordering: .relaxed) != count
    }

    public func close() throws(Failure) {
        guard !isClosed.exchange(true, ordering: .relaxed) else { return }
        // The lock has to go all the same, and the failure is the one to tell.
        defer { try? holder.unlock() }
        try flush()
    }
}
