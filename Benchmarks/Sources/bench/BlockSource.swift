import BlockModel
import System
import TestSupport

/// Contents of blocks by number, for a few nanoseconds a block: a mebibyte of noise that stays as it is, but for four
/// words in each block that depend on the number. Belongs to one thread.
///
/// Blocks of different numbers differ; the same number at the same place is the same block, and so it is at any place
/// where `spread` has noise. None is zero.
struct BlockSource {
    enum Kind: Sendable, Equatable {
        /// As good as random: no codec makes it smaller.
        case noise
        /// Zeros, but for the four words: a codec makes it some fifty bytes.
        case compressible
        /// Parts of this program: what a codec has work with.
        case code
        /// Zeros, whatever the number.
        case zeros
        /// The same noise at each place that is a multiple of `every`, and compressible blocks between them.
        case spread(every: Int)
    }

    /// Blocks in the buffer, the most that `prepare` gives at once.
    static let span = 256
    let kind: Kind
    /// What `prepare` returns a part of.
    private(set) var bytes: [UInt8]

    init(_ kind: Kind = .noise) {
        self.kind = kind
        if kind == .noise {
            bytes = Self.noise
            return
        }
        var generator = SeededGenerator(seed: 1)
        bytes = [UInt8](count: Self.span * blockSize) { _ in }
        if case .spread(let every) = kind {
            let noise = [UInt8](count: blockSize) { bytes in
                for offset in stride(from: 0, to: blockSize, by: 8) { bytes.store(generator.next(), at: offset) }
            }
            for place in stride(from: 0, to: Self.span, by: every) { bytes.replaceSubrange(place * blockSize..<(place + 1) * blockSize, with: noise) }
        }
        guard kind == .code, let program = try? File(path: "/proc/self/exe") else { return }
        // Well behind its headers and tables.
        _ = try? bytes.withMutableBytes { (bytes) throws(Failure) in try program.read(at: 1 << 18, into: &bytes) }
    }

    /// Made once, as every thread of a measurement wants it within its time.
    private static let noise = {
        var generator = SeededGenerator(seed: 1)
        return [UInt8](count: span * blockSize) { bytes in
            for offset in stride(from: 0, to: span * blockSize, by: 8) { bytes.store(generator.next(), at: offset) }
        }
    }()

    /// Makes the blocks `first`, `first + 1`, ... and says where in `bytes` they are. They must not cross a multiple of
    /// `span`.
    mutating func prepare(_ first: UInt64, count: Int) -> Range<Int> {
        let start = Int(first % UInt64(Self.span))
        precondition(start + count <= Self.span, "a request across the buffer's end")
        if kind != .zeros {
            for index in 0..<count { mark(start + index, as: first &+ UInt64(index)) }
        }
        return start * blockSize..<(start + count) * blockSize
    }

    /// Puts the block of any number at a place of the buffer.
    mutating func mark(_ place: Int, as number: UInt64) {
        bytes.withUnsafeMutableBytes { bytes in
            if let start = bytes.baseAddress { Self.mark(start + place * blockSize, as: number) }
        }
    }

    /// Makes what is in 4096 bytes the block of a number.
    static func mark(_ block: UnsafeMutableRawPointer, as number: UInt64) {
        let word = word(number)
        block.storeBytes(of: word, as: UInt64.self)
        block.storeBytes(of: word &* 0xbf58_476d_1ce4_e5b9, toByteOffset: 8, as: UInt64.self)
        block.storeBytes(of: word ^ word >> 31, toByteOffset: 2040, as: UInt64.self)
        block.storeBytes(of: ~word, toByteOffset: 4088, as: UInt64.self)
    }

    /// The first eight bytes of a block; never zero for numbers below 2^63.
    static func word(_ number: UInt64) -> UInt64 { (number &+ 1) &* 0x9e37_79b9_7f4a_7c15 }
}
