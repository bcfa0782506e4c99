public import BlockModel
public import System

/// A disk that accepts and forgets everything, and reads as zeros: for measuring what is above it.
public final class DiscardDisk: BlockDevice {
    public let sectorCount: UInt64
    public let isReadOnly: Bool

    /// - Parameters:
    ///   - byteCount: a multiple of 512, else `.usage` is thrown.
    ///   - readOnly: it accepts nothing, and reads as zeros all the same.
    public init(byteCount: UInt64, readOnly: Bool = false) throws(Failure) {
        guard byteCount % UInt64(sectorSize) == 0 else {
            throw Failure(.usage, "disk of \(byteCount) bytes", "not a multiple of \(sectorSize)", remedy: "round the size")
        }
        sectorCount = byteCount / UInt64(sectorSize)
        isReadOnly = readOnly
    }

    public func read(at sector: UInt64, into buffer: inout MutableRawSpan) throws(Failure) {
        _ = try checkedRange("read", at: sector, byteCount: buffer.byteCount)
        buffer.zero(at: 0, count: buffer.byteCount)
    }

    public func write(at sector: UInt64, _ bytes: RawSpan) throws(Failure) {
        try checkWritable("write")
        _ = try checkedRange("write", at: sector, byteCount: bytes.byteCount)
    }

    public func discard(_ range: SectorRange) throws(Failure) { try checkDiscard(range) }

    public func extent(at sector: UInt64, limit: UInt64) throws(Failure) -> Extent {
        _ = try checkedRange("look at", at: sector, byteCount: sectorSize)
        return Extent(isHole: true, count: max(1, min(limit, sectorCount - sector)))
    }

    public func flush() throws(Failure) {}
    public func close() throws(Failure) {}
}
