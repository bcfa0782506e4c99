internal import BlockModel
public import FrontEnd
public import System
public import TestSupport

/// Random operations of a guest, and what its disk holds because of them: an array of sectors.
public struct RandomLoad {
    public var random: SeededGenerator
    /// What the disk holds.
    public private(set) var model: [UInt8] = []

    /// Operations that are under way at the same time, and the ring of each.
    public struct Batch {
        public private(set) var operations: [DiskOperation] = []
        public private(set) var queues: [Int] = []
        /// What each is to read.
        fileprivate var expected: [[UInt8]] = []
        /// What the disk held before.
        fileprivate let before: [UInt8]

        fileprivate init(before: [UInt8]) { self.before = before }

        fileprivate mutating func append(_ operation: DiskOperation, on queue: Int, expecting data: [UInt8]) {
            operations.append(operation)
            queues.append(queue)
            expected.append(data)
        }
    }

    public init(seed: UInt64) { random = SeededGenerator(seed: seed) }

    /// Learns the size of a disk, which must read as zeros.
    public mutating func begin(_ frontEnd: SimulatedFrontEnd) throws(Failure) {
        guard let text = try frontEnd.backendValue("sectors"), let sectors = Int(text) else {
            throw Failure(.damage, "sectors", "not published")
        }
        model = Array(repeating: 0, count: sectors * sectorSize)
        try compareAll(frontEnd)
    }

    /// Up to `count` operations, and a layout for their data.
    public mutating func batch(_ count: Int, for frontEnd: SimulatedFrontEnd) -> Batch {
        frontEnd.layout = SegmentLayout(
            firstSector: Int.random(in: 0..<8, using: &random), sectorCount: Int.random(in: 1...8, using: &random))
        if Bool.random(using: &random) { frontEnd.layout = .pages }
        frontEnd.maximumSegments = Bool.random(using: &random) ? 11 : Int.random(in: 1...32, using: &random)
        var batch = Batch(before: model)
        for _ in 0..<count {
            let operation = operation()
            // Between rings there is no order, so what meets something on another ring waits for a later batch.
            guard let queue = queue(for: operation, batch, frontEnd.queueCount) else { continue }
            batch.append(operation, on: queue, expecting: apply(operation))
        }
        return batch
    }

    /// A random operation.
    private mutating func operation() -> DiskOperation {
        let sectors = model.count / sectorSize
        // Small ranges for the most part, close together, so that operations meet.
        let longest = Int.random(in: 0..<10, using: &random) == 0 ? 400 : 20
        let sector =
            Bool.random(using: &random)
            ? Int.random(in: 0..<min(sectors, 128), using: &random) : Int.random(in: 0..<sectors, using: &random)
        let count = min(Int.random(in: 1...longest, using: &random), sectors - sector)
        return switch Int.random(in: 0..<20, using: &random) {
        case 0..<8: .read(sector: UInt64(sector), count: count)
        case 8..<16: .write(sector: UInt64(sector), content(count))
        case 16: .barrier(sector: UInt64(sector), content(count))
        case 17: .discard(sector: UInt64(sector), count: UInt64(count))
        default: .flush
        }
    }

    /// A ring for the operation: that of the earlier ones that it meets. Nil when these are on more than one.
    private mutating func queue(for operation: DiskOperation, _ earlier: Batch, _ queueCount: Int) -> Int? {
        guard let range = operation.sectors else { return Int.random(in: 0..<8, using: &random) }
        let met = Set(zip(earlier.operations, earlier.queues).filter { $0.0.sectors?.overlaps(range) == true }.map { $0.1 % queueCount })
        guard met.count < 2 else { return nil }
        return met.first ?? Int.random(in: 0..<8, using: &random)
    }

    /// Does an operation to the model, and returns what it reads.
    private mutating func apply(_ operation: DiskOperation) -> [UInt8] {
        guard let range = operation.sectors else { return [] }
        let bytes = Int(range.lowerBound) * sectorSize..<Int(range.upperBound) * sectorSize
        switch operation {
        case .read: return Array(model[bytes])
        case .write(_, let data), .barrier(_, let data): model.replaceSubrange(bytes, with: data)
        case .discard: model.replaceSubrange(bytes, with: repeatElement(0, count: bytes.count))
        case .flush: break
        }
        return []
    }

    /// Sectors of zeros, of few patterns that come again, or of noise.
    private mutating func content(_ sectors: Int) -> [UInt8] {
        var data: [UInt8] = []
        data.reserveCapacity(sectors * sectorSize)
        let kind = Int.random(in: 0..<3, using: &random)
        let pattern = UInt8.random(in: 1...4, using: &random)
        for sector in 0..<sectors {
            switch kind {
            case 0: data += repeatElement(0, count: sectorSize)
            case 1: data += repeatElement(pattern &+ UInt8(sector % 8) << 4, count: sectorSize)
            default: data += (0..<sectorSize / 8).flatMap { _ in unsafe withUnsafeBytes(of: random.next()) { unsafe Array($0) } }
            }
        }
        return data
    }

    /// Checks how the operations of a batch ended.
    public func check(_ batch: Batch, _ completions: [Completion]) throws(Failure) {
        for (index, completion) in completions.enumerated() {
            try checkStatus(batch, index, completion)
            try compare(completion.data, batch.expected[index], "\(batch.operations[index])")
        }
    }

    private func checkStatus(_ batch: Batch, _ index: Int, _ completion: Completion) throws(Failure) {
        guard completion.status == .okay else {
            throw Failure(.damage, "\(batch.operations[index])", "answered \(completion.status)")
        }
    }

    /// After a kill, what had no answer is done once more, so that a read may see writes that came with it, and that no
    /// guest may expect it not to see: each sector is as some of them left it, or as it was before.
    public func checkRepeated(_ batch: Batch, _ completions: [Completion]) throws(Failure) {
        for (index, completion) in completions.enumerated() {
            try checkStatus(batch, index, completion)
            guard case .read(let start, let count) = batch.operations[index] else { continue }
            for offset in 0..<count {
                let sector = start + UInt64(offset)
                let data = Array(completion.data[offset * sectorSize..<(offset + 1) * sectorSize])
                let allowed =
                    [Array(batch.before[Int(sector) * sectorSize..<Int(sector + 1) * sectorSize])]
                    + batch.operations.compactMap { $0.content(of: sector) }
                if !allowed.contains(data) {
                    throw Failure(.damage, "\(batch.operations[index])", "sector \(sector) is none that was ever written there")
                }
            }
        }
    }

    /// Reads the whole disk.
    public func compareAll(_ frontEnd: SimulatedFrontEnd) throws(Failure) {
        for start in stride(from: 0, to: model.count, by: 1 << 20) {
            let bytes = start..<min(start + (1 << 20), model.count)
            let data = try frontEnd.read(UInt64(start / sectorSize), bytes.count / sectorSize)
            try compare(data, Array(model[bytes]), "read of all from sector \(start / sectorSize) on")
        }
    }

    private func compare(_ data: [UInt8], _ expected: [UInt8], _ what: @autoclosure () -> String) throws(Failure) {
        guard data != expected else { return }
        let first = zip(data, expected).enumerated().first { $0.element.0 != $0.element.1 }?.offset ?? -1
        throw Failure(.damage, .named(what()), "differs from sector +\(first / sectorSize), byte \(first % sectorSize) on")
    }
}

extension DiskOperation {
    /// What it is about; nil for a flush.
    fileprivate var sectors: Range<UInt64>? {
        switch self {
        case .read(let start, let count): start..<start + UInt64(count)
        case .write(let start, let bytes), .barrier(let start, let bytes): start..<start + UInt64(bytes.count / sectorSize)
        case .discard(let start, let count): start..<start + count
        case .flush: nil
        }
    }

    /// What a sector holds after this operation; nil when it leaves the sector alone.
    fileprivate func content(of sector: UInt64) -> [UInt8]? {
        switch self {
        case .write(let start, let bytes), .barrier(let start, let bytes):
            guard sector >= start, sector < start + UInt64(bytes.count / sectorSize) else { return nil }
            return Array(bytes[Int(sector - start) * sectorSize..<Int(sector - start + 1) * sectorSize])
        case .discard(let start, let count):
            return sector >= start && sector < start + count ? Array(repeating: 0, count: sectorSize) : nil
        case .read, .flush:
            return nil
        }
    }
}
