public import Blkif
public import BlockModel
import FrontEnd
import Serve
import TestSupport

/// What an exercise does to the process that serves, besides using the disk.
public struct ExerciseEvents: OptionSet, Sendable {
    public let rawValue: Int
    public init(rawValue: Int) { self.rawValue = rawValue }
    /// The guest closes the disk and opens it again.
    public static let reconnects = ExerciseEvents(rawValue: 1)
    /// The disk is unplugged, closed, made again and plugged in again.
    public static let reopens = ExerciseEvents(rawValue: 2)
    /// The process is killed within some call, with requests under way; the device is dropped without `close`, made
    /// again, and the guest's connection continued.
    public static let kills = ExerciseEvents(rawValue: 4)
}

/// Random operations of a guest on a disk, through front end, ring and back end, compared with an array of sectors.
///
/// `makeDevice` is called on the thread that then uses the device: first for an empty disk, which must read as zeros,
/// then, after `close` or, with `.kills`, after being dropped, for the same disk again. What was acknowledged, and
/// what was under way and got acknowledged later, must be there. Throws at the first difference, naming the seed.
public func exerciseDisk<Device: BlockDevice & SendableMetatype>(
    seed: UInt64, operations: Int, abi: ABI = .native, ringOrder: Int = 0, queueCount: Int = 1, events: ExerciseEvents = [.reconnects, .reopens],
    makeDevice: @escaping @Sendable () throws(Failure) -> Device
) throws(Failure) {
    let served = try ServedDisk(abi: abi, ringOrder: ringOrder, queueCount: queueCount)
    var exercise = Exercise(seed: seed, served: served, events: events)
    do throws(Failure) {
        try served.start(makeDevice)
        try served.frontEnd.connect()
        try exercise.begin()
        while exercise.operationCount < operations {
            try exercise.batch(makeDevice)
        }
        try exercise.compareAll()
        guard case .unplugged = try served.unplug() else { throw Failure(.damage, "unplug", "ended otherwise") }
        guard served.isLetGo, try served.remainingNodes().isEmpty else { throw Failure(.damage, "unplug", "left something") }
    } catch {
        throw Failure(error.kind, "exercise with seed \(seed), operation \(exercise.operationCount): \(error.what)", error.why,
            remedy: served.log.lines.suffix(5).joined(separator: "; "))
    }
}

private struct Exercise {
    let seed: UInt64
    let served: ServedDisk
    let events: ExerciseEvents
    var random: SeededGenerator
    /// What the disk holds.
    var model: [UInt8] = []
    var operationCount = 0

    init(seed: UInt64, served: ServedDisk, events: ExerciseEvents) {
        self.seed = seed
        self.served = served
        self.events = events
        random = SeededGenerator(seed: seed)
    }

    mutating func begin() throws(Failure) {
        guard let text = try served.frontEnd.backendValue("sectors"), let sectors = Int(text) else {
            throw Failure(.damage, "sectors", "not published")
        }
        model = Array(repeating: 0, count: sectors * sectorSize)
        try compareAll()
    }

    /// Some operations, all under way at a time, and perhaps an event.
    mutating func batch<Device: BlockDevice & SendableMetatype>(_ makeDevice: @escaping @Sendable () throws(Failure) -> Device) throws(Failure) {
        let frontEnd = served.frontEnd
        frontEnd.layout = SegmentLayout(
            firstSector: Int.random(in: 0..<8, using: &random), sectorCount: Int.random(in: 1...8, using: &random))
        if Bool.random(using: &random) { frontEnd.layout = .pages }
        frontEnd.maximumSegments = Bool.random(using: &random) ? 11 : Int.random(in: 1...32, using: &random)
        let before = model
        var operations: [DiskOperation] = []
        var expected: [[UInt8]] = []
        var queues: [Int] = []
        for _ in 0..<Int.random(in: 1...40, using: &random) {
            let operation = operation()
            // Between rings there is no order, so what meets something on another ring waits for a later batch.
            guard let queue = queue(for: operation, operations, queues) else { continue }
            expected.append(apply(operation))
            operations.append(operation)
            queues.append(queue)
        }
        if events.contains(.kills), Int.random(in: 0..<4, using: &random) == 0 {
            served.kill(afterCalls: Int.random(in: 0..<40, using: &random))
            try frontEnd.begin(operations, on: queues)
            // Sometimes all of it is answered first.
            if Bool.random(using: &random) { _ = served.guest.wait(milliseconds: 2) }
            served.kill()
            try served.joinKilled()
            try served.start(makeDevice)
            try checkRepeated(operations, try frontEnd.finish(), before)
        } else {
            try frontEnd.begin(operations, on: queues)
            try check(operations, try frontEnd.finish(), expected)
        }
        operationCount += operations.count
        try event(makeDevice)
    }

    private mutating func event<Device: BlockDevice & SendableMetatype>(_ makeDevice: @escaping @Sendable () throws(Failure) -> Device) throws(Failure) {
        switch Int.random(in: 0..<20, using: &random) {
        case 0 where events.contains(.reconnects):
            try served.frontEnd.disconnect()
            try served.frontEnd.setState(1)
            try served.frontEnd.connect()
        case 1 where events.contains(.reopens):
            guard case .unplugged = try served.unplug() else { throw Failure(.damage, "unplug", "ended otherwise") }
            try served.start(makeDevice)
            try served.frontEnd.connect()
            try compareAll()
        default:
            break
        }
    }

    /// A random operation.
    private mutating func operation() -> DiskOperation {
        let sectors = model.count / sectorSize
        // Small ranges for the most part, close together, so that operations meet.
        let longest = Int.random(in: 0..<10, using: &random) == 0 ? 400 : 20
        let sector = Bool.random(using: &random)
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
    private mutating func queue(for operation: DiskOperation, _ earlier: [DiskOperation], _ queues: [Int]) -> Int? {
        guard let range = operation.sectors else { return Int.random(in: 0..<8, using: &random) }
        let met = Set(zip(earlier, queues).filter { $0.0.sectors?.overlaps(range) == true }.map { $0.1 % served.frontEnd.queueCount })
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

    private func check(_ operations: [DiskOperation], _ completions: [Completion], _ expected: [[UInt8]]) throws(Failure) {
        for (index, completion) in completions.enumerated() {
            guard completion.status == .okay else {
                throw Failure(.damage, "\(operations[index])", "answered \(completion.status)")
            }
            try compare(completion.data, expected[index], "\(operations[index])")
        }
    }

    /// After a kill, what had no answer is done once more, so that a read may see writes that came with it, and that no
    /// guest may expect it not to see: each sector is as some of them left it, or as it was before.
    private func checkRepeated(_ operations: [DiskOperation], _ completions: [Completion], _ before: [UInt8]) throws(Failure) {
        for (index, completion) in completions.enumerated() {
            guard completion.status == .okay else {
                throw Failure(.damage, "\(operations[index])", "answered \(completion.status)")
            }
            guard case .read(let start, let count) = operations[index] else { continue }
            for offset in 0..<count {
                let sector = start + UInt64(offset)
                let data = Array(completion.data[offset * sectorSize..<(offset + 1) * sectorSize])
                let allowed = [Array(before[Int(sector) * sectorSize..<Int(sector + 1) * sectorSize])]
                    + operations.compactMap { $0.content(of: sector) }
                if !allowed.contains(data) {
                    throw Failure(.damage, "\(operations[index])", "sector \(sector) is none that was ever written there")
                }
            }
        }
    }

    func compareAll() throws(Failure) {
        for start in stride(from: 0, to: model.count, by: 1 << 20) {
            let bytes = start..<min(start + (1 << 20), model.count)
            let data = try served.frontEnd.read(UInt64(start / sectorSize), bytes.count / sectorSize)
            try compare(data, Array(model[bytes]), "read of all from sector \(start / sectorSize) on")
        }
    }

    private func compare(_ data: [UInt8], _ expected: [UInt8], _ what: @autoclosure () -> String) throws(Failure) {
        guard data != expected else { return }
        let first = zip(data, expected).enumerated().first { $0.element.0 != $0.element.1 }?.offset ?? -1
        throw Failure(.damage, what(), "differs from sector +\(first / sectorSize), byte \(first % sectorSize) on")
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
