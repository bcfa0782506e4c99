import BlockModel
import Glibc
import Synchronization
import System
import TestSupport

/// A disk in memory for any number of threads, which keeps apart what would survive the loss of power, and can be told to fail
/// or to wait.
final class SharedDisk: BlockDevice {
    struct State {
        var live: [UInt8]
        var durable: [UInt8]
        var badSectors: Range<UInt64> = 0..<0
        var failsFlush = false
        var largestTransfer = 0
        var transfers = 0
        var flushes = 0
        /// The reads that it was told of.
        var expected: [[SectorRange]] = []
        /// How many parts were given at once, each time.
        var writtenTogether: [Int] = []
        /// Which signals that ask to stop the thread of the last call does not take.
        var blockedSignals: [Int32] = []
        var isClosed = false
    }

    let isReadOnly: Bool
    let sectorCount: UInt64
    let state: Mutex<State>
    /// While it is set, writes wait.
    let isHeld = Atomic(false)
    /// Writes that wait.
    let waiting = Atomic(0)

    init(sectorCount: Int, isReadOnly: Bool = false, fill: UInt8 = 0) {
        let bytes = [UInt8](repeating: fill, count: sectorCount * sectorSize)
        self.sectorCount = UInt64(sectorCount)
        self.isReadOnly = isReadOnly
        state = Mutex(State(live: bytes, durable: bytes))
    }

    var live: [UInt8] { state.withLock { $0.live } }
    var durable: [UInt8] { state.withLock { $0.durable } }

    func expectReads(of ranges: [SectorRange]) { state.withLock { $0.expected.append(ranges) } }

    func read(at sector: UInt64, into buffer: inout MutableRawSpan) throws(Failure) {
        let bytes = try state.withLock { (state) throws(Failure) in
            let start = try begin("read", &state, sector, buffer.byteCount)
            return Array(state.live[start..<start + buffer.byteCount])
        }
        buffer.copy(bytes.rawBytes, to: 0)
    }

    func write(at sector: UInt64, _ data: RawSpan) throws(Failure) {
        waiting.add(1, ordering: .relaxed)
        while isHeld.load(ordering: .relaxed) { usleep(500) }
        waiting.subtract(1, ordering: .relaxed)
        try state.withLock { (state) throws(Failure) in
            let start = try begin("write", &state, sector, data.byteCount)
            try state.live.withMutableBytes { (bytes) throws(Failure) in bytes.copy(data, to: start) }
        }
    }

    func write(_ parts: Span<WritePart>, of bytes: RawSpan) throws(Failure) {
        state.withLock { $0.writtenTogether.append(parts.count) }
        for index in parts.indices { try write(at: parts[index].sector, bytes.extracting(parts[index].range)) }
    }

    func discard(_ range: SectorRange) throws(Failure) {
        try state.withLock { (state) throws(Failure) in
            let count = Int(range.count) * sectorSize
            let start = try begin("discard", &state, range.start, count)
            try state.live.withMutableBytes { (bytes) throws(Failure) in bytes.zero(at: start, count: count) }
        }
    }

    /// A sector that is all zeros is a hole.
    func extent(at sector: UInt64, limit: UInt64) throws(Failure) -> Extent {
        try state.withLock { (state) throws(Failure) in
            _ = try begin("look at", &state, sector, sectorSize)
            func isHole(_ sector: UInt64) -> Bool { state.live[Int(sector) * sectorSize..<Int(sector + 1) * sectorSize].allSatisfy { $0 == 0 } }
            let first = isHole(sector)
            var end = sector + 1
            // Shorter than it could be, now and then.
            while end < sectorCount, end < sector + limit, end % 64 != 0, isHole(end) == first { end += 1 }
            return Extent(isHole: first, count: end - sector)
        }
    }

    func flush() throws(Failure) {
        try state.withLock { (state) throws(Failure) in
            state.flushes += 1
            if state.failsFlush { throw Failure(.system, "flush", "told to fail") }
            state.durable = state.live
        }
    }

    func close() throws(Failure) { state.withLock { $0.isClosed = true } }

    private func begin(_ operation: StaticString, _ state: inout State, _ sector: UInt64, _ byteCount: Int) throws(Failure) -> Int {
        if state.isClosed { throw Failure(.system, "\(operation)", "the disk is closed") }
        let range = try checkedRange(operation, at: sector, byteCount: byteCount)
        if range.start < state.badSectors.upperBound && state.badSectors.lowerBound < range.end {
            throw Failure(.damage, "\(operation)", "told to fail")
        }
        state.blockedSignals = blocked([SIGINT, SIGTERM, SIGHUP])
        state.transfers += 1
        state.largestTransfer = max(state.largestTransfer, byteCount)
        return Int(range.start) * sectorSize
    }
}
