internal import BlockModel
internal import CLZ4
internal import CZstd
internal import Hashing

/// How a store compresses the blobs that it takes in. Blobs that gain less than an eighth stay as they are.
public enum Compression: UInt32, Sendable, CaseIterable {
    case none = 0, lz4, zstd

    /// Its name on the command line.
    public var name: String {
        switch self {
        case .none: "none"
        case .lz4: "lz4"
        case .zstd: "zstd"
        }
    }

    var codec: Codec {
        switch self {
        case .none: .raw
        case .lz4: .lz4
        case .zstd: .zstd
        }
    }
}

/// Compresses single blocks: lz4.h `LZ4_compress_fast_continue` on a stream that is reset for each (which costs less than a
/// fresh one, whose 16 KiB are cleared), zstd.h `ZSTD_compressCCtx`. Belongs to one thread.
@safe
struct Compressor: ~Copyable {
    /// Zstandard's level: the fastest of its ordinary ones. A block of 4 KiB gives the others little to find.
    private static let level: CInt = 1
    /// Longest result that is worth it.
    static let largestGain = blockSize - blockSize / 8
    /// LZ4's acceleration: 1 is none. More would save time, and a sixth more bytes of programs and texts would be left.
    private static let acceleration: CInt = 1
    private let compression: Compression
    private let context: OpaquePointer?
    private let stream: UnsafeMutablePointer<LZ4_stream_t>?

    init(_ compression: Compression) {
        self.compression = compression
        unsafe context = compression == .zstd ? ZSTD_createCCtx() : nil
        unsafe stream = compression == .lz4 ? LZ4_createStream() : nil
    }

    deinit {
        if let context = unsafe context { unsafe ZSTD_freeCCtx(context) }
        if let stream = unsafe stream { unsafe LZ4_freeStream(stream) }
    }

    /// Compresses `block` into `room`, which has space for `largestGain` bytes.
    /// - Returns: the length, or nil when the block is better left as it is.
    @unsafe func compress(_ block: RawSpan, into room: UnsafeMutableRawPointer) -> Int? {
        let limit = Self.largestGain
        switch compression {
        case .none: return nil
        case .lz4:
            guard let stream = unsafe stream else { return nil }
            unsafe LZ4_resetStream_fast(stream)
            let length = unsafe block.withUnsafeBytes { block in
                unsafe LZ4_compress_fast_continue(
                    stream, block.baseAddress?.assumingMemoryBound(to: CChar.self), room.assumingMemoryBound(to: CChar.self),
                    CInt(block.count), CInt(limit), Self.acceleration)
            }
            return length > 0 ? Int(length) : nil
        case .zstd:
            guard let context = unsafe context else { return nil }
            let length = unsafe block.withUnsafeBytes { block in
                unsafe ZSTD_compressCCtx(context, room, limit, block.baseAddress, block.count, Self.level)
            }
            return ZSTD_isError(length) == 0 ? length : nil
        }
    }
}

/// Gives blocks back from what is stored. Whatever the stored bytes are, it writes no more than a block. Belongs to one
/// thread.
@safe
final class Decompressor {
    private var context: OpaquePointer?

    init() { unsafe context = nil }

    deinit { if let context = unsafe context { unsafe ZSTD_freeDCtx(context) } }

    /// Writes the block that `stored` stands for to `destination` at `offset`.
    /// - Returns: false when it stands for none: an unknown codec, malformed bytes, another length than a block's.
    func decode(_ stored: RawSpan, _ codec: UInt8, to destination: inout MutableRawSpan, at offset: Int) -> Bool {
        switch Codec(rawValue: codec) {
        case .raw:
            guard stored.byteCount == blockSize else { return false }
            destination.copy(stored, to: offset)
            return true
        case .lz4:
            return unsafe Self.into(&destination, offset, stored) { from, to in
                unsafe Int(LZ4_decompress_safe(
                    from.baseAddress?.assumingMemoryBound(to: CChar.self), to.assumingMemoryBound(to: CChar.self), CInt(from.count), CInt(blockSize)))
            }
        case .zstd:
            if unsafe context == nil { unsafe context = ZSTD_createDCtx() }
            guard let context = unsafe context else { return false }
            return unsafe Self.into(&destination, offset, stored) { from, to in
                let length = unsafe ZSTD_decompressDCtx(context, to, blockSize, from.baseAddress, from.count)
                return ZSTD_isError(length) == 0 ? length : -1
            }
        case .collected, nil: return false
        }
    }

    @unsafe private static func into(
        _ destination: inout MutableRawSpan, _ offset: Int, _ stored: RawSpan, _ body: (UnsafeRawBufferPointer, UnsafeMutableRawPointer) -> Int
    ) -> Bool {
        precondition(offset >= 0 && offset <= destination.byteCount - blockSize, "a block outside its buffer")
        return unsafe destination.withUnsafeMutableBytes { to in
            unsafe stored.withUnsafeBytes { from in
                guard let base = to.baseAddress else { return false }
                return unsafe body(from, base + offset) == blockSize
            }
        }
    }
}

/// Room for the compressed forms of some blocks, made on several threads.
@safe
final class CompressedBlocks: @unchecked Sendable {
    /// Blocks that it has room for.
    static let capacity = 1024
    private static let pieceLength = 32
    private let compression: Compression
    private let room: UnsafeMutableRawPointer
    /// Of each block: length, 0 when it is better left as it is, and check word.
    private let lengths: UnsafeMutablePointer<(length: Int, check: UInt64)>
    private let hasher: SHA256

    init(_ compression: Compression) throws(Failure) {
        self.compression = compression
        hasher = try SHA256()
        unsafe room = .allocate(byteCount: Self.capacity * Compressor.largestGain, alignment: 64)
        unsafe lengths = .allocate(capacity: Self.capacity)
    }

    deinit {
        unsafe room.deallocate()
        unsafe lengths.deallocate()
    }

    /// Compresses changes of a batch, at most `capacity`.
    /// - Throws: `.damage` when a block is not what was hashed.
    func compress(_ changes: ArraySlice<Int>, of batch: Batch) throws(Failure) {
        let first = changes.startIndex
        try HashPool.shared.forEach((changes.count + Self.pieceLength - 1) / Self.pieceLength, hasher) { (piece, _) throws(Failure) in
            let compressor = Compressor(self.compression)
            let start = piece * Self.pieceLength
            for index in start..<min(changes.count, start + Self.pieceLength) {
                try self.compress(batch[changes[first + index]], index, compressor)
            }
        }
    }

    private func compress(_ change: Batch.Change, _ index: Int, _ compressor: borrowing Compressor) throws(Failure) {
        unsafe lengths[index] = (0, 0)
        guard let source = change.source else { return }
        guard PackFormat.check(source.bytes, change.digest) == change.check else {
            throw Failure(.damage, "compress a block", "it changed after it was hashed", remedy: "check the memory and the disk of this machine")
        }
        let target = unsafe room + index * Compressor.largestGain
        guard let length = unsafe compressor.compress(source.bytes, into: target) else { return }
        unsafe lengths[index] = (length, PackFormat.check(RawSpan(_unsafeStart: target, byteCount: length), change.digest))
    }

    /// The compressed form of a block, or nil when it has none. It is lent until the next `compress`.
    func result(_ index: Int) -> (codec: Codec, check: UInt64, stored: LentBytes)? {
        let (length, check) = unsafe lengths[index]
        guard length > 0 else { return nil }
        return (compression.codec, check, unsafe LentBytes(room + index * Compressor.largestGain, count: length))
    }
}
