public import BlockModel
public import System

/// What a disk should be: a plain array of bytes.
public struct ModelDisk: Sendable {
    public var bytes: [UInt8]
    public init(sectors: Int) { bytes = [UInt8](repeating: 0, count: sectors * sectorSize) }

    public mutating func write(at sector: Int, _ data: [UInt8]) {
        bytes.replaceSubrange(sector * sectorSize..<sector * sectorSize + data.count, with: data)
    }
    public mutating func discard(at sector: Int, count: Int) {
        write(at: sector, [UInt8](repeating: 0, count: count * sectorSize))
    }
    public func read(at sector: Int, count: Int) -> [UInt8] {
        Array(bytes[sector * sectorSize..<(sector + count) * sectorSize])
    }

    /// Compares what was read from sector `first` on, as far as it belongs to one of several writers: sectors whose number leaves `rest` when it is
    /// divided by `every`.
    /// - Returns: the first sector that is not as it should be.
    public func firstDifference(from found: [UInt8], at first: Int, every: Int, rest: Int) -> Int? {
        (first..<first + found.count / sectorSize).first { sector in
            sector % every == rest && Array(found[(sector - first) * sectorSize..<(sector - first + 1) * sectorSize]) != read(at: sector, count: 1)
        }
    }
}

extension BlockDevice {
    /// Sectors as an array.
    public func sectors(at sector: UInt64, count: Int) throws(Failure) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xa5, count: count * sectorSize)
        try bytes.withMutableBytes { (span) throws(Failure) in try read(at: sector, into: &span) }
        return bytes
    }

    public func write(at sector: UInt64, _ data: [UInt8]) throws(Failure) { try write(at: sector, data.rawBytes) }

    /// The whole disk.
    public func contents() throws(Failure) -> [UInt8] { try sectors(at: 0, count: Int(sectorCount)) }
}

/// A random step for a disk and its model. Data is of a small pool, so that there are duplicates and zeros, and
/// what is there is written over; ranges begin at any sector and have any length.
public struct RandomStep {
    public enum Operation { case read, write, discard, flush }
    public let operation: Operation
    public let sector: Int
    public let count: Int
    public let data: [UInt8]
    /// The parts that `data` is written in, together and in this order; none: it is written as a whole.
    public let parts: [WritePart]

    public init(_ random: inout SeededGenerator, sectors: Int, longest: Int = 300) {
        let operation: Operation = [.read, .read, .write, .write, .write, .write, .discard, .flush].randomElement(using: &random) ?? .read
        let aligned = Bool.random(using: &random)
        var sector = Int.random(in: 0..<sectors, using: &random)
        if aligned { sector &= ~7 }
        var count = min(Int.random(in: 1...longest, using: &random), sectors - sector)
        if Bool.random(using: &random) { count = min(count, 17) }
        if aligned, count > 8 { count &= ~7 }
        self.operation = operation
        self.sector = sector
        self.count = count
        var data: [UInt8] = []
        if operation == .write {
            while data.count < count * sectorSize { data += block(UInt64.random(in: 0..<24, using: &random)) }
        }
        self.data = Array(data.prefix(count * sectorSize))
        var parts: [WritePart] = []
        if operation == .write, Bool.random(using: &random) {
            // Blocks for the most part, and now and then longer than a record may be.
            let longestPart = aligned ? 8 * ([1, 1, 4, 300].randomElement(using: &random) ?? 1) : 20
            var done = 0
            while done < count {
                let part = min(count - done, aligned ? longestPart : Int.random(in: 1...longestPart, using: &random))
                parts.append(WritePart(sector: UInt64(sector + done), range: done * sectorSize..<(done + part) * sectorSize))
                done += part
            }
            parts.shuffle(using: &random)
        }
        self.parts = parts
    }

    /// Writes `data`.
    public func write(to disk: any BlockDevice) throws(Failure) {
        if parts.isEmpty { return try disk.write(at: UInt64(sector), data) }
        try disk.write(parts.span, of: data.rawBytes)
    }

    /// Does the step to the disk and to the model.
    /// - Returns: how what was read differs; nil: it does not.
    public func run(on disk: any BlockDevice, _ model: inout ModelDisk) throws(Failure) -> String? {
        switch operation {
        case .read:
            if try disk.sectors(at: UInt64(sector), count: count) != model.read(at: sector, count: count) {
                return "sectors \(sector)+\(count) differ"
            }
        case .write:
            try write(to: disk)
            model.write(at: sector, data)
        case .discard:
            guard let range = SectorRange(start: UInt64(sector), count: UInt64(count)) else { return "bad range" }
            try disk.discard(range)
            model.discard(at: sector, count: count)
        case .flush: try disk.flush()
        }
        return nil
    }
}
