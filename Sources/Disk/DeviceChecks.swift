import BlockModel
import System

extension BlockDevice {
    /// Refuses a change to a read-only disk.
    func checkWritable(_ operation: StaticString) throws(Failure) {
        guard !isReadOnly else { throw Failure(.invalidRequest, .init(operation), "the disk", "it is read-only") }
    }

    /// Refuses a discard that reaches beyond the disk, or changes a read-only one.
    func checkDiscard(_ range: SectorRange) throws(Failure) {
        try checkWritable("discard")
        guard range.fits(in: sectorCount) else {
            throw Failure(
                .invalidRequest, "discard", .bytes(range.byteCount, at: range.start),
                "outside the disk's \(sectorCount) sectors")
        }
    }
}

extension SectorRange {
    /// Where the range starts, and how long it is, in bytes. It lies within a disk, whose size in bytes fits in 64 bits.
    var byteOffset: UInt64 { start &* UInt64(sectorSize) }
    var byteCount: UInt64 { count &* UInt64(sectorSize) }
}
