public import BlockModel

/// A disk that is an array, which can be told to fail. For one thread at a time.
public final class MemoryDisk: BlockDevice, @unchecked Sendable {
    public var bytes: [UInt8]
    public let isReadOnly: Bool
    /// Sectors that can't be read or written.
    public var badSectors: Range<UInt64> = 0..<0
    public var failsFlush = false
    /// Largest transfer seen, in bytes, and number of transfers.
    public private(set) var largestTransfer = 0
    public private(set) var transfers = 0
    public private(set) var flushes = 0

    public init(sectorCount: Int, isReadOnly: Bool = false) {
        bytes = Array(repeating: 0, count: sectorCount * sectorSize)
        self.isReadOnly = isReadOnly
    }

    public var sectorCount: UInt64 { UInt64(bytes.count / sectorSize) }

    public func read(at sector: UInt64, into buffer: inout MutableRawSpan) throws(Failure) {
        let start = try begin("read", sector, buffer.byteCount)
        let count = buffer.byteCount
        unsafe buffer.withUnsafeMutableBytes { target in
            unsafe bytes.withUnsafeBytes { unsafe target.copyBytes(from: $0[start..<start + count]) }
        }
    }

    public func write(at sector: UInt64, _ data: RawSpan) throws(Failure) {
        let start = try begin("write", sector, data.byteCount)
        unsafe data.withUnsafeBytes { source in
            unsafe bytes.withUnsafeMutableBytes { unsafe $0[start...].copyBytes(from: source) }
        }
    }

    public func discard(_ range: SectorRange) throws(Failure) {
        guard range.fits(in: sectorCount) else { throw Failure(.invalidRequest, "discard", "outside") }
        let start = Int(range.start) * sectorSize
        bytes.replaceSubrange(start..<start + Int(range.count) * sectorSize, with: repeatElement(0, count: Int(range.count) * sectorSize))
    }

    public func flush() throws(Failure) {
        flushes += 1
        if failsFlush { throw Failure(.system, "flush", "told to fail") }
    }

    public func close() throws(Failure) {}

    private func begin(_ operation: StaticString, _ sector: UInt64, _ byteCount: Int) throws(Failure) -> Int {
        let range = try checkedRange(operation, at: sector, byteCount: byteCount)
        if range.start < badSectors.upperBound && badSectors.lowerBound < range.end {
            throw Failure(.damage, "\(operation)", "told to fail")
        }
        transfers += 1
        largestTransfer = max(largestTransfer, byteCount)
        return Int(range.start) * sectorSize
    }
}
