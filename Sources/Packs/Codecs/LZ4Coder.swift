internal import CLZ4

/// lz4.h: `LZ4_compress_fast_continue` on a stream that is reset for each block, which costs less than a fresh one, whose 16 KiB are
/// cleared; `LZ4_decompress_safe`.
@safe
final class LZ4Coder: BlobCoder {
    /// 1 is none. More would save time, and a sixth more bytes of programs and texts would be left.
    private static let acceleration: CInt = 1
    private let stream: UnsafeMutablePointer<LZ4_stream_t>?

    init() { unsafe stream = LZ4_createStream() }

    deinit { if let stream = unsafe stream { unsafe LZ4_freeStream(stream) } }

    @unsafe func compress(_ block: UnsafeRawBufferPointer, into room: UnsafeMutableRawBufferPointer) -> Int? {
        guard let stream = unsafe stream else { return nil }
        unsafe LZ4_resetStream_fast(stream)
        let length = unsafe LZ4_compress_fast_continue(
            stream, block.baseAddress?.assumingMemoryBound(to: CChar.self), room.baseAddress?.assumingMemoryBound(to: CChar.self),
            CInt(block.count), CInt(room.count), Self.acceleration)
        return length > 0 ? Int(length) : nil
    }

    @unsafe func decompress(_ stored: UnsafeRawBufferPointer, into block: UnsafeMutableRawBufferPointer) -> Bool {
        let length = unsafe LZ4_decompress_safe(
            stored.baseAddress?.assumingMemoryBound(to: CChar.self), block.baseAddress?.assumingMemoryBound(to: CChar.self),
            CInt(stored.count), CInt(block.count))
        return Int(length) == block.count
    }
}
