/// Bytes in a sector, the unit of every address on the wire: blkif counts in 512-byte units whatever the
/// `sector-size` a disk announces (xen/io/blkif.h, "sector_number").
public let sectorSize = 512
/// Bytes in a block, the unit of deduplication.
public let blockSize = 4096
/// Sectors in a block.
public let sectorsPerBlock = 8

/// A run of 512-byte sectors. `end` never overflows: the initialiser refuses a run that would.
public struct SectorRange: Equatable, Hashable, Sendable {
    /// First sector.
    public let start: UInt64
    /// Number of sectors.
    public let count: UInt64
    /// First sector after the run.
    @inlinable
    public var end: UInt64 { start &+ count }
    @inlinable
    public var isEmpty: Bool { count == 0 }

    /// Nil when `start + count` does not fit in 64 bits.
    @inlinable
    public init?(start: UInt64, count: UInt64) {
        guard !start.addingReportingOverflow(count).overflow else { return nil }
        self.start = start
        self.count = count
    }

    /// Whether the run lies within a disk of `sectorCount` sectors.
    @inlinable
    public func fits(in sectorCount: UInt64) -> Bool { end <= sectorCount }
}
