import BlockModel
import Glibc

extension BlockDevice {
    /// Refuses a change to a read-only disk.
    func checkWritable(_ operation: StaticString) throws(Failure) {
        guard !isReadOnly else { throw Failure(.invalidRequest, "\(operation)", "the disk is read-only") }
    }

    /// Refuses a discard that reaches beyond the disk, or changes a read-only one.
    func checkDiscard(_ range: SectorRange) throws(Failure) {
        try checkWritable("discard")
        guard range.fits(in: sectorCount) else {
            throw Failure(.invalidRequest, "discard of \(range.count) sectors at sector \(range.start)",
                "outside the disk's \(sectorCount) sectors")
        }
    }
}

extension SectorRange {
    /// Where the range starts, and how long it is, in bytes. It lies within a disk, whose size in bytes fits in 64 bits.
    var byteOffset: UInt64 { start &* UInt64(sectorSize) }
    var byteCount: UInt64 { count &* UInt64(sectorSize) }
}

extension MutableRawSpan {
    /// Zeroes all bytes from `offset` on.
    mutating func zero(from offset: Int) {
        unsafe withUnsafeMutableBytes { bytes in
            // `offset` is within the span, so that what is cleared is, too.
            guard let base = bytes.baseAddress, offset < bytes.count, offset >= 0 else { return }
            unsafe _ = memset(base + offset, 0, bytes.count - offset)
        }
    }
}
