public import System

/// A disk: what a ring, a socket or a test reads and writes. All addresses are in 512-byte sectors.
///
/// Any thread may call: several queues of a ring and several connections of a client share one disk. Requests at work at
/// the same time have no order, and each sector that two of them write is one's or the other's. A request outside the disk
/// throws `.invalidRequest`; a failed request leaves every sector outside its range as it was, and each sector inside it
/// either old or new.
public protocol BlockDevice: AnyObject, Sendable {
    /// Size in sectors. Only `refresh` changes it.
    var sectorCount: UInt64 { get }
    /// Whether `write` and `discard` are refused with `.invalidRequest`.
    var isReadOnly: Bool { get }
    /// Fills `buffer`, a multiple of 512 bytes long, with the sectors from `sector` on.
    func read(at sector: UInt64, into buffer: inout MutableRawSpan) throws(Failure)
    /// The memory that has this range of the disk, when it costs less to take it from there than to `read` it; else nil.
    func lend(_ range: SectorRange) -> LentMemory?
    /// Says what will be read next, in this order. It changes nothing that is read: a disk may use it to wait for the memory
    /// of all of it at once.
    func expectReads(of ranges: [SectorRange])
    /// Stores `bytes`, a multiple of 512 long, from `sector` on. Once it returns, the data survives the death of
    /// the process; once a later `flush` returns, the loss of power.
    func write(at sector: UInt64, _ bytes: RawSpan) throws(Failure)
    /// Stores parts of `bytes`, one after the other, as so many calls of `write` would: a disk may do together what came
    /// together. When it throws, each sector of any part is either old or new.
    func write(_ parts: Span<WritePart>, of bytes: RawSpan) throws(Failure)
    /// Forgets the range: it reads as zeros from now on, and the space it took may be given back.
    func discard(_ range: SectorRange) throws(Failure)
    /// The longest run from `sector` on, which lies within the disk, that is known to be alike: in use, or a hole that
    /// reads as zeros. It may end early: at `limit` sectors at the latest, and it has at least one sector.
    func extent(at sector: UInt64, limit: UInt64) throws(Failure) -> Extent
    /// Returns once all that was written before survives the loss of power.
    func flush() throws(Failure)
    /// Looks whether the size was changed elsewhere, by another process for one; true when it was, and is `sectorCount` now.
    func refresh() throws(Failure) -> Bool
    /// Whether writes and discards that find no room may wait for it, where whoever owns the disk wants that. At first they may not, and throw
    /// `.noSpace`. Once they may no more, those that wait throw `.interrupted`, and so do others that would.
    func allowWaiting(_ isAllowed: Bool)
    /// Writes out what is pending and lets go of the disk, when no other call is at work. None may follow; a second
    /// `close` does nothing.
    func close() throws(Failure)
}

/// Bytes of some memory that are to be written to a disk.
public struct WritePart: Sendable {
    /// The first sector they go to.
    public let sector: UInt64
    /// Where in the memory they are, a multiple of 512 of them.
    public let range: Range<Int>
    @inlinable
    public init(sector: UInt64, range: Range<Int>) {
        self.sector = sector
        self.range = range
    }
}

/// A run of sectors that are alike.
public struct Extent: Sendable, Equatable {
    /// Nothing is stored for it, and it reads as zeros.
    public let isHole: Bool
    /// Sectors, 1 or more.
    public let count: UInt64
    public init(isHole: Bool, count: UInt64) {
        self.isHole = isHole
        self.count = count
    }
}

extension BlockDevice {
    /// Nothing to lend.
    public func lend(_ range: SectorRange) -> LentMemory? { nil }

    /// Nothing to prepare.
    public func expectReads(of ranges: [SectorRange]) {}

    /// One by one.
    public func write(_ parts: Span<WritePart>, of bytes: RawSpan) throws(Failure) {
        for index in parts.indices { try write(at: parts[index].sector, bytes.extracting(parts[index].range)) }
    }

    /// A size that nobody changes.
    public func refresh() throws(Failure) -> Bool { false }

    /// None waits.
    public func allowWaiting(_ isAllowed: Bool) {}

    /// All in use, as far as is known.
    public func extent(at sector: UInt64, limit: UInt64) throws(Failure) -> Extent {
        _ = try checkedRange("look at", at: sector, byteCount: sectorSize)
        return Extent(isHole: false, count: max(1, min(limit, sectorCount - sector)))
    }

    /// Size in bytes.
    public var byteCount: UInt64 { sectorCount &* UInt64(sectorSize) }

    /// The range that a transfer of `byteCount` bytes at `sector` covers, or why there is none.
    @inline(__always)
    public func checkedRange(_ operation: StaticString, at sector: UInt64, byteCount: Int) throws(Failure) -> SectorRange {
        guard byteCount % sectorSize == 0, byteCount >= 0,
            let range = SectorRange(start: sector, count: UInt64(byteCount / sectorSize)),
            range.fits(in: sectorCount)
        else {
            throw Failure(
                .invalidRequest, .init(operation), .bytes(UInt64(max(0, byteCount)), at: sector),
                "outside the disk's \(sectorCount) sectors, or not whole sectors")
        }
        return range
    }
}
