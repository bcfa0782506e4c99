public import BlockModel
import Glibc
public import System

/// Disks whose sectors each have one number, in all of their 64 words. So what a disk holds is an array of numbers, and a sector is recognised that is
/// half of one write and half of another. The number 0 is a sector of zeros.
public enum SectorValues {
    /// Stands for a sector whose words are not all alike: no write leaves one.
    public static let torn = UInt64.max

    public static func bytes(_ values: [UInt64]) -> [UInt8] {
        [UInt8](count: values.count * sectorSize) { bytes in
            for (index, value) in values.enumerated() where value != 0 {
                for word in 0..<sectorSize / 8 { bytes.store(value, at: index * sectorSize + word * 8) }
            }
        }
    }

    /// The number of each sector, or `torn`.
    public static func values(_ bytes: [UInt8]) -> [UInt64] {
        unsafe bytes.withUnsafeBytes { bytes in
            var values = [UInt64](repeating: 0, count: bytes.count / sectorSize)
            guard let start = bytes.baseAddress else { return values }
            for index in values.indices {
                let sector = unsafe start + index * sectorSize
                // All words are alike when each is like the next.
                let isWhole = unsafe memcmp(sector, sector + 8, sectorSize - 8) == 0
                values[index] = isWhole ? unsafe sector.loadUnaligned(as: UInt64.self) : torn
            }
            return values
        }
    }
}

/// One step of a `SectorLoad`.
public struct SectorStep: Sendable {
    public enum Operation: Sendable { case write, discard, flush }
    public let operation: Operation
    /// Which of the disks.
    public let disk: Int
    public let sector, count: Int
    private let content: Content

    fileprivate enum Content {
        case zeros
        /// Blocks of a pool that other steps write as well: `count` different ones, from `first` on.
        case pool(first: UInt64, count: UInt64)
        case unique(UInt64)
    }

    fileprivate init(_ operation: Operation, disk: Int, sector: Int = 0, count: Int = 0, _ content: Content = .zeros) {
        (self.operation, self.disk, self.sector, self.count, self.content) = (operation, disk, sector, count, content)
    }

    /// A flush of the first disk.
    public static let flush = SectorStep(.flush, disk: 0)

    /// A write to the first disk, of sectors that no other number gives.
    public init(writing range: Range<Int>, as number: UInt64) {
        self.init(.write, disk: 0, sector: range.lowerBound, count: range.count, .unique(number))
    }

    /// The sectors that it changes.
    public var range: Range<Int> { sector..<sector + count }

    /// What it leaves in one of them.
    public func value(at sector: Int) -> UInt64 {
        let place = UInt64(sector)
        switch content {
        case .zeros: return 0
        case .pool(let first, let count): return (first + place / 8 % count) * 8 + place % 8 + 1
        case .unique(let number): return number &+ place
        }
    }

    public func run(on disk: any BlockDevice) throws(Failure) {
        switch operation {
        case .write: try disk.write(at: UInt64(sector), SectorValues.bytes(range.map { value(at: $0) }))
        case .discard: if let range = SectorRange(start: UInt64(sector), count: UInt64(count)) { try disk.discard(range) }
        case .flush: try disk.flush()
        }
    }
}

/// What one writer does to one disk or several, step by step: random, and the same for the same seed. To several disks it also writes entries of a log:
/// each to the first disk and, when that is answered, to the others, one after the other.
public struct SectorLoad: Sendable {
    private var random: SeededGenerator
    /// Size of each disk.
    private let sectors: [Int]
    /// Writes of the entry at work that are still to be done, the next one last.
    private var mirrors: [SectorStep] = []
    private var entries: UInt64 = 0

    /// - Parameter sectors: how many each of the disks has.
    public init(seed: UInt64, sectors: [Int]) {
        random = SeededGenerator(seed: seed)
        self.sectors = sectors
    }

    public mutating func next() -> SectorStep {
        if let mirror = mirrors.popLast() { return mirror }
        if sectors.count > 1, Bool.random(using: &random) {
            entries += 1
            let sector = Int.random(in: 0..<min(64, sectors.min() ?? 1), using: &random)
            let content = SectorStep.Content.unique(1 << 62 | entries << 20)
            mirrors = sectors.indices.dropFirst().reversed().map { SectorStep(.write, disk: $0, sector: sector, count: 1, content) }
            return SectorStep(.write, disk: 0, sector: sector, count: 1, content)
        }
        let disk = Int.random(in: sectors.indices, using: &random)
        switch Int.random(in: 0..<24, using: &random) {
        case 0: return SectorStep(.flush, disk: disk)
        case 1..<4:
            let (sector, count) = range(of: disk, longest: 600)
            return SectorStep(.discard, disk: disk, sector: sector, count: count)
        case 4 where Int.random(in: 0..<8, using: &random) == 0: return SectorStep(.discard, disk: disk, sector: 0, count: sectors[disk])
        default:
            let (sector, count) = range(of: disk, longest: 120)
            return SectorStep(.write, disk: disk, sector: sector, count: count, content())
        }
    }

    private mutating func content() -> SectorStep.Content {
        switch Int.random(in: 0..<10, using: &random) {
        case 0: .zeros
        case 1..<6:
            .pool(first: UInt64.random(in: 0..<60, using: &random), count: [1, 8, 64].randomElement(using: &random) ?? 1)
        default: .unique(1 << 63 | UInt64.random(in: 0..<1 << 40, using: &random) << 20)
        }
    }

    /// Half of the ranges are close to the beginning, where they meet, and half are of whole blocks.
    private mutating func range(of disk: Int, longest: Int) -> (sector: Int, count: Int) {
        let end = sectors[disk]
        let longest = Int.random(in: 0..<6, using: &random) == 0 ? longest : 20
        var sector = Int.random(in: 0..<(Bool.random(using: &random) ? min(end, 256) : end), using: &random)
        var count = Int.random(in: 1...longest, using: &random)
        if Bool.random(using: &random) {
            sector &= ~7
            count = (count + 7) & ~7
        }
        return (sector, min(count, end - sector))
    }
}

/// When the steps of a load began and ended: a file that a process writes as it goes, and that survives it.
public final class StepLog: Sendable {
    private let file: File
    private let offset = Monitor<UInt64>(0)
    private static let recordSize = 16

    public init(_ path: String) throws(Failure) { file = try File(path: path, options: [.write, .create], mode: 0o600) }

    /// Notes the time.
    /// - Parameter hasEnded: the step at work was answered; else the next step begins.
    public func note(hasEnded: Bool) throws(Failure) {
        let record = [UInt8](count: Self.recordSize) { bytes in
            bytes.store(monotonicSeconds().bitPattern, at: 0)
            bytes.store(hasEnded ? 1 : 0 as UInt64, at: 8)
        }
        try offset.withLock { (offset) throws(Failure) in
            try file.write(at: offset, record.rawBytes)
            offset += UInt64(Self.recordSize)
        }
    }

    /// When each step began, and when each that was answered was; seconds, as `monotonicSeconds` counts them.
    public static func times(_ path: String) throws(Failure) -> (begun: [Double], ended: [Double]) {
        var times: (begun: [Double], ended: [Double]) = ([], [])
        let bytes: [UInt8]
        do throws(Failure) { bytes = try Files.bytes(path) } catch where error.kind == .notFound { return times }
        let span = bytes.rawBytes
        for offset in stride(from: 0, to: bytes.count / recordSize * recordSize, by: recordSize) {
            let time = Double(bitPattern: span.load(at: offset))
            if span.load(at: offset + 8, as: UInt64.self) == 1 { times.ended.append(time) } else { times.begun.append(time) }
        }
        return times
    }
}
