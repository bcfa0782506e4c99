public import BlockModel
import Synchronization
public import System

/// A disk that is an array, which can be told to fail.
public final class MemoryDisk: BlockDevice {
    public let isReadOnly: Bool
    private let state: Mutex<State>

    private struct State {
        var bytes: [UInt8]
        var badSectors: Range<UInt64> = 0..<0
        var failsFlush = false
        var largestTransfer = 0
        var transfers = 0
        var flushes = 0
        var expected: [[SectorRange]] = []
        var writtenTogether: [Int] = []
        /// What the size is to be after the next `refresh`.
        var wantedSectorCount: Int?

        mutating func begin(_ operation: StaticString, _ range: SectorRange) throws(Failure) -> Range<Int> {
            guard !(range.start < badSectors.upperBound && badSectors.lowerBound < range.end) else {
                throw Failure(.damage, "\(operation)", "told to fail")
            }
            guard range.fits(in: UInt64(bytes.count / sectorSize)) else { throw Failure(.invalidRequest, "\(operation)", "outside") }
            let start = Int(range.start) * sectorSize, byteCount = Int(range.count) * sectorSize
            transfers += 1
            largestTransfer = max(largestTransfer, byteCount)
            return start..<start + byteCount
        }
    }

    public init(sectorCount: Int, isReadOnly: Bool = false) {
        state = Mutex(State(bytes: Array(repeating: 0, count: sectorCount * sectorSize)))
        self.isReadOnly = isReadOnly
    }

    public var bytes: [UInt8] { state.withLock { $0.bytes } }
    /// Sectors that can't be read or written.
    public var badSectors: Range<UInt64> {
        get { state.withLock { $0.badSectors } }
        set { state.withLock { $0.badSectors = newValue } }
    }
    public var failsFlush: Bool {
        get { state.withLock { $0.failsFlush } }
        set { state.withLock { $0.failsFlush = newValue } }
    }
    /// Largest transfer seen, in bytes, and number of transfers.
    public var largestTransfer: Int { state.withLock { $0.largestTransfer } }
    public var transfers: Int { state.withLock { $0.transfers } }
    /// The reads that it was told of.
    public var expected: [[SectorRange]] { state.withLock { $0.expected } }
    /// How many parts it was given at once, each time.
    public var writtenTogether: [Int] { state.withLock { $0.writtenTogether } }
    public var flushes: Int { state.withLock { $0.flushes } }

    public var sectorCount: UInt64 { state.withLock { UInt64($0.bytes.count / sectorSize) } }

    /// Changes the size, as another process would: it shows after `refresh`.
    public func resize(sectorCount: Int) { state.withLock { $0.wantedSectorCount = sectorCount } }

    public func refresh() throws(Failure) -> Bool {
        state.withLock { state in
            guard let wanted = state.wantedSectorCount.map({ $0 * sectorSize }) else { return false }
            state.wantedSectorCount = nil
            state.bytes.removeLast(max(0, state.bytes.count - wanted))
            state.bytes += repeatElement(0, count: wanted - state.bytes.count)
            return true
        }
    }

    public func expectReads(of ranges: [SectorRange]) { state.withLock { $0.expected.append(ranges) } }

    public func read(at sector: UInt64, into buffer: inout MutableRawSpan) throws(Failure) {
        let range = try checkedRange("read", at: sector, byteCount: buffer.byteCount)
        try state.withLock { (state) throws(Failure) in
            let bytes = try state.begin("read", range)
            buffer.copy(state.bytes.rawBytes.extracting(bytes), to: 0)
        }
    }

    public func write(at sector: UInt64, _ data: RawSpan) throws(Failure) {
        let range = try checkedRange("write", at: sector, byteCount: data.byteCount)
        try state.withLock { (state) throws(Failure) in
            let bytes = try state.begin("write", range)
            try state.bytes.withMutableBytes { (target) throws(Failure) in target.copy(data, to: bytes.lowerBound) }
        }
    }

    public func write(_ parts: Span<WritePart>, of bytes: RawSpan) throws(Failure) {
        state.withLock { $0.writtenTogether.append(parts.count) }
        for index in parts.indices { try write(at: parts[index].sector, bytes.extracting(parts[index].range)) }
    }

    public func discard(_ range: SectorRange) throws(Failure) {
        try state.withLock { (state) throws(Failure) in
            let bytes = try state.begin("discard", range)
            try state.bytes.withMutableBytes { (target) throws(Failure) in target.zero(at: bytes.lowerBound, count: bytes.count) }
        }
    }

    /// A sector of zeros is a hole.
    public func extent(at sector: UInt64, limit: UInt64) throws(Failure) -> Extent {
        let range = try checkedRange("look at", at: sector, byteCount: sectorSize)
        return try state.withLock { (state) throws(Failure) in
            _ = try state.begin("look at", range)
            func isHole(_ sector: Int) -> Bool { state.bytes[sector * sectorSize..<(sector + 1) * sectorSize].allSatisfy { $0 == 0 } }
            let first = Int(sector), last = min(state.bytes.count / sectorSize, first + Int(clamping: limit))
            let end = (first + 1..<max(first + 1, last)).first { isHole($0) != isHole(first) } ?? max(first + 1, last)
            return Extent(isHole: isHole(first), count: UInt64(end - first))
        }
    }

    public func flush() throws(Failure) {
        let fails = state.withLock { state in
            state.flushes += 1
            return state.failsFlush
        }
        if fails { throw Failure(.system, "flush", "told to fail") }
    }

    public func close() throws(Failure) {}
}
