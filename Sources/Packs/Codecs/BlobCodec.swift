internal import BlockModel

/// How the bytes of a blob are stored: the one list of codecs. A number says which, in a pack's directory (4 bits) as in the
/// superblock; a store that has blobs of one has its feature bit, which a program that does not know it refuses.
///
/// A new one takes a case here, its class beside this file, and a line in `coder`.
public enum BlobCodec: UInt8, Sendable, CaseIterable {
    /// The block itself, 4096 bytes.
    case raw = 0
    /// LZ4's block format.
    case lz4 = 1
    /// Zstandard's frame format.
    case zstd = 2

    /// Its name on the command line.
    public var name: String {
        switch self {
        case .raw: "none"
        case .lz4: "lz4"
        case .zstd: "zstd"
        }
    }

    /// The bit that says that a store may have blobs of this codec (`FormatHeader.incompatibleFeatures`, bits 0–15).
    public var feature: UInt64 { self == .raw ? 0 : 1 << UInt64(rawValue) }

    /// The bits of all that are known.
    public static var knownFeatures: UInt64 { allCases.reduce(0) { $0 | $1.feature } }

    /// What compresses and decompresses. Nil: nothing does, blobs are blocks.
    func coder() -> (any BlobCoder)? {
        switch self {
        case .raw: nil
        case .lz4: LZ4Coder()
        case .zstd: ZstandardCoder()
        }
    }
}

/// Compresses single blocks, and gives them back. Belongs to one thread.
protocol BlobCoder: AnyObject {
    /// Compresses `block` into `room`.
    /// - Returns: the length, or nil when that would be more than `room` has.
    @unsafe func compress(_ block: UnsafeRawBufferPointer, into room: UnsafeMutableRawBufferPointer) -> Int?
    /// Writes the block that `stored` stands for to `block`, and not a byte more, whatever `stored` is.
    /// - Returns: false when it stands for none.
    @unsafe func decompress(_ stored: UnsafeRawBufferPointer, into block: UnsafeMutableRawBufferPointer) -> Bool
}

/// Blobs that gain less than an eighth stay as they are: the longest compressed form that is worth it, in bytes.
let longestCompressed = blockSize - blockSize / 8
