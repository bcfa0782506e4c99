internal import CZstd

/// zstd.h: `ZSTD_compressCCtx`, `ZSTD_decompressDCtx`. Each context is made with its first use.
@safe
final class ZstandardCoder: BlobCoder {
    /// The fastest of its ordinary levels. A block of 4 KiB gives the others little to find.
    private static let level: CInt = 1
    private var compressing: OpaquePointer?
    private var decompressing: OpaquePointer?

    init() {
        unsafe compressing = nil
        unsafe decompressing = nil
    }

    deinit {
        if let context = unsafe compressing { unsafe ZSTD_freeCCtx(context) }
        if let context = unsafe decompressing { unsafe ZSTD_freeDCtx(context) }
    }

    @unsafe func compress(_ block: UnsafeRawBufferPointer, into room: UnsafeMutableRawBufferPointer) -> Int? {
        if unsafe compressing == nil { unsafe compressing = ZSTD_createCCtx() }
        guard let context = unsafe compressing else { return nil }
        let length = unsafe ZSTD_compressCCtx(context, room.baseAddress, room.count, block.baseAddress, block.count, Self.level)
        return ZSTD_isError(length) == 0 ? length : nil
    }

    @unsafe func decompress(_ stored: UnsafeRawBufferPointer, into block: UnsafeMutableRawBufferPointer) -> Bool {
        if unsafe decompressing == nil { unsafe decompressing = ZSTD_createDCtx() }
        guard let context = unsafe decompressing else { return false }
        let length = unsafe ZSTD_decompressDCtx(context, block.baseAddress, block.count, stored.baseAddress, stored.count)
        return ZSTD_isError(length) == 0 && length == block.count
    }
}
