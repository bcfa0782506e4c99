public import System

/// A SHA-256 digest, the name of a block's content: 32 bytes in four words, most significant byte first, so
/// that words compare as the bytes do.
public struct Digest: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let word0, word1, word2, word3: UInt64

    @inlinable
    public init(_ word0: UInt64, _ word1: UInt64, _ word2: UInt64, _ word3: UInt64) {
        self.word0 = word0
        self.word1 = word1
        self.word2 = word2
        self.word3 = word3
    }

    /// Reads 32 bytes at `offset`.
    @inlinable
    public init(_ bytes: RawSpan, at offset: Int = 0) {
        self.init(
            UInt64(bigEndian: bytes.load(at: offset)), UInt64(bigEndian: bytes.load(at: offset + 8)),
            UInt64(bigEndian: bytes.load(at: offset + 16)), UInt64(bigEndian: bytes.load(at: offset + 24)))
    }

    /// Writes 32 bytes at `offset`.
    @inlinable
    public func store(into bytes: inout MutableRawSpan, at offset: Int = 0) {
        bytes.store(word0.bigEndian, at: offset)
        bytes.store(word1.bigEndian, at: offset + 8)
        bytes.store(word2.bigEndian, at: offset + 16)
        bytes.store(word3.bigEndian, at: offset + 24)
    }

    /// The first 8 bytes already are as good as random: they spread a hash table by themselves.
    @inlinable
    public func hash(into hasher: inout Hasher) { hasher.combine(word0) }

    @inlinable
    public static func < (a: Digest, b: Digest) -> Bool {
        if a.word0 != b.word0 { return a.word0 < b.word0 }
        if a.word1 != b.word1 { return a.word1 < b.word1 }
        if a.word2 != b.word2 { return a.word2 < b.word2 }
        return a.word3 < b.word3
    }

    /// 64 lower-case hexadecimal digits.
    public var description: String {
        var text = ""
        text.reserveCapacity(64)
        for word in [word0, word1, word2, word3] {
            let digits = String(word, radix: 16)
            text += String(repeating: "0", count: 16 - digits.count) + digits
        }
        return text
    }
}
