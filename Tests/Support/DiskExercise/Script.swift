/// Bytes that decide what happens: a fuzzer's, or a generator's. Behind their end, all are zero.
public struct Script {
    private let bytes: [UInt8]
    private var next = 0

    public init(_ bytes: [UInt8]) { self.bytes = bytes }

    /// One that a generator made.
    public init(count: Int, using generator: inout some RandomNumberGenerator) {
        bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
    }

    public var isAtEnd: Bool { next >= bytes.count }

    public mutating func byte() -> UInt8 {
        guard next < bytes.count else { return 0 }
        defer { next += 1 }
        return bytes[next]
    }

    /// 0..<bound.
    public mutating func number(below bound: Int) -> Int { Int(byte()) % max(1, bound) }

    /// Bits that are likely to mean something: near zero, near the end, or any.
    public mutating func word() -> UInt64 {
        switch byte() % 4 {
        case 0: UInt64(byte())
        case 1: UInt64.max - UInt64(byte())
        case 2: (1 << UInt64(byte() % 64)) &+ UInt64(byte()) &- 128
        default: (0..<8).reduce(0) { word, _ in word << 8 | UInt64(byte()) }
        }
    }

    /// Some of the bytes to come.
    public mutating func run(atMost limit: Int) -> [UInt8] {
        let count = min(Int(byte()) << Int(byte() % 5), limit, max(0, bytes.count - next))
        defer { next += count }
        return Array(bytes[next..<next + count])
    }
}
