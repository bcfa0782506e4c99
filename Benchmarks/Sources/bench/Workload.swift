import BlockModel
import Histogram
import Synchronization
import System
import TestSupport

/// How a disk is gone over once, in requests of one size.
struct Shape: Sendable {
    enum Order: String, CaseIterable, Codable, Sendable { case sequential, random }
    /// Blocks of the disk that are gone over, from its beginning.
    var blocks: Int
    /// Blocks in a request: a divisor of `BlockSource.span`.
    var requestBlocks: Int
    /// Distance between the beginnings of neighbouring requests, in their lengths: 1, one begins where the other ends.
    var spacing = 1
    var order = Order.sequential
    /// Threads that have a request under way each: a `BlockDevice` answers when it is done.
    var threads = 1
    /// Requests that come together, as those on a ring or in a socket do: a thread takes so many at once, gives the disk the writes
    /// together, and announces the reads.
    var together = 1

    /// Requests at most: those that come first in their order.
    var limit = Int.max

    var requests: Int { min(blocks / (requestBlocks * spacing), limit) }
    var byteCount: Int { requests * requestBlocks * blockSize }

    /// What is under way at a time.
    var depthText: String { together > 1 ? "\(together) together" : threads > 1 ? "\(threads) threads" : "one at a time" }

    /// The sectors of the request from `block` on.
    func range(from block: UInt64) -> SectorRange? {
        SectorRange(start: block * UInt64(sectorsPerBlock), count: UInt64(requestBlocks * sectorsPerBlock))
    }

    /// First block of each request.
    func starts() -> [UInt64] {
        let step = requestBlocks * spacing
        var starts = (0..<blocks / step).map { UInt64($0 * step) }
        if order == .random {
            var generator = SeededGenerator(seed: 7)
            starts.shuffle(using: &generator)
        }
        return Array(starts.prefix(requests))
    }
}

/// What is done to a disk.
enum Action: Sendable {
    /// The blocks of a generation: block n of it is never the same as block m, nor as block n of another.
    case write(generation: UInt64)
    /// Writes of blocks that were written before, as blocks of `generation` with `BlockSource.Kind.spread`: each is one of the first `among` at a
    /// multiple of `every`, drawn at random.
    case writeAgain(generation: UInt64, among: Int, every: Int)
    case zero
    /// Reads, which are compared with what was written.
    case read(generation: UInt64)
    /// Seven reads, then three writes.
    case mixed(reading: UInt64, writing: UInt64)
}

/// What a measurement took, as a whole and for each request.
struct Run {
    var seconds: Double
    var byteCount: Int
    var latencies: Histogram<UInt64>

    /// Bytes a second.
    var rate: Double { Double(byteCount) / seconds }
    var operationsPerSecond: Double { Double(latencies.totalCount) / seconds }
}

extension Histogram<UInt64> {
    /// Of nanoseconds, a thread's.
    static func ofLatencies() -> Histogram<UInt64> { Histogram(highestTrackableValue: 100_000_000_000, numberOfSignificantValueDigits: .two) }
}

/// Does something to a disk. The time of writes includes closing the disk, so that nothing is left staged; a
/// disk that is only read, or flushed after each write, stays open.
func run<Device: BlockDevice>(
    _ action: Action, on device: Device, _ shape: Shape, kind: BlockSource.Kind = .noise, flushing: Bool = false, closing: Bool = true
) throws -> Run {
    try Meter.counting { try runUncounted(action, on: device, shape, kind: kind, flushing: flushing, closing: closing) }
}

private func runUncounted<Device: BlockDevice>(
    _ action: Action, on device: Device, _ shape: Shape, kind: BlockSource.Kind, flushing: Bool, closing: Bool
) throws -> Run {
    let starts = shape.starts()
    let next = NextIndex()
    let begin = seconds()
    let latencies = try onThreads(shape.threads) { thread in
        var worker = Worker(device, action, requestBlocks: shape.requestBlocks, kind: kind, thread: thread)
        while let taken = next.take(shape.together, below: starts.count) {
            let start = nanoseconds()
            if taken.count > 1, case .read = action { device.expectReads(of: taken.compactMap { shape.range(from: starts[$0]) }) }
            for index in taken {
                try worker.perform(index, at: starts[index], isAlone: taken.count == 1)
                if flushing { try device.flush() }
            }
            try worker.writeGathered()
            // Requests that came together are all answered when the last is done.
            let latency = nanoseconds() - start
            for _ in taken { worker.latencies.record(latency) }
        }
        return worker.latencies
    }
    if action.isWriting, closing, !flushing { try device.close() }
    let end = seconds()
    var all = Histogram<UInt64>.ofLatencies()
    for one in latencies { all.add(one) }
    return Run(seconds: end - begin, byteCount: shape.byteCount, latencies: all)
}

extension Action {
    var isWriting: Bool { if case .read = self { false } else { true } }
}

/// Hands out 0, 1, 2, ... to threads.
final class NextIndex: Sendable {
    private let next = Atomic(0)
    /// The next `count` numbers, or fewer at the end.
    func take(_ count: Int = 1, below limit: Int) -> Range<Int>? {
        let index = next.add(count, ordering: .relaxed).oldValue
        return index < limit ? index..<min(index + count, limit) : nil
    }
}

/// A thread's part in a run.
private struct Worker<Device: BlockDevice> {
    let device: Device
    let action: Action
    let requestBlocks: Int
    var source: BlockSource
    var target: [UInt8]
    var latencies = Histogram<UInt64>.ofLatencies()
    var generator: SeededGenerator
    /// Writes that are to be given to the disk together, and their data.
    var parts: [WritePart] = []
    var gathered: [UInt8] = []

    init(_ device: Device, _ action: Action, requestBlocks: Int, kind: BlockSource.Kind, thread: Int) {
        self.device = device
        self.action = action
        self.requestBlocks = requestBlocks
        if case .zero = action { source = BlockSource(.zeros) } else { source = BlockSource(kind) }
        target = [UInt8](repeating: 1, count: requestBlocks * blockSize)
        generator = SeededGenerator(seed: UInt64(thread))
    }

    /// - Parameter isAlone: no other request came with it.
    mutating func perform(_ index: Int, at block: UInt64, isAlone: Bool) throws {
        switch action {
        case .write(let generation): try write(block, as: number(block, generation), isAlone)
        case .writeAgain(let generation, let count, let every): try writeAgain(block, generation, count, every)
        case .zero: try write(block, as: block, isAlone)
        case .read(let generation): try read(block, generation, or: generation)
        case .mixed(let old, let new):
            if index % 10 < 7 { try read(block, old, or: new) } else { try write(block, as: number(block, new), isAlone) }
        }
    }

    mutating func writeGathered() throws {
        guard !parts.isEmpty else { return }
        try device.write(parts.span, of: gathered.rawBytes)
        parts.removeAll(keepingCapacity: true)
        gathered.removeAll(keepingCapacity: true)
    }

    private func number(_ block: UInt64, _ generation: UInt64) -> UInt64 { generation << 40 | block }

    private mutating func write(_ block: UInt64, as first: UInt64, _ isAlone: Bool) throws {
        let range = source.prepare(first, count: requestBlocks)
        let sector = block * UInt64(sectorsPerBlock)
        if isAlone { return try device.write(at: sector, source.bytes.rawBytes.extracting(range)) }
        // Gathered in one memory, as they come from a guest or a socket.
        parts.append(WritePart(sector: sector, range: gathered.count..<gathered.count + range.count))
        gathered.append(contentsOf: source.bytes[range])
    }

    private mutating func writeAgain(_ block: UInt64, _ generation: UInt64, _ count: Int, _ every: Int) throws {
        let first = Int(block) % BlockSource.span
        for index in 0..<requestBlocks {
            let chosen = Int.random(in: 0..<count / every, using: &generator) * every
            source.mark(first + index, as: number(UInt64(chosen), generation))
        }
        let range = first * blockSize..<(first + requestBlocks) * blockSize
        try device.write(at: block * UInt64(sectorsPerBlock), source.bytes.rawBytes.extracting(range))
    }

    private mutating func read(_ block: UInt64, _ generation: UInt64, or other: UInt64) throws {
        try target.withMutableBytes { (bytes) throws(Failure) in
            try device.read(at: block * UInt64(sectorsPerBlock), into: &bytes)
        }
        let bytes = target.rawBytes
        for index in 0..<requestBlocks {
            let word = bytes.load(at: index * blockSize, as: UInt64.self)
            let block = block + UInt64(index)
            guard word == BlockSource.word(number(block, generation)) || word == BlockSource.word(number(block, other)) else {
                throw Failure(.damage, "read of block \(block)", "it is not what was written")
            }
        }
    }
}
