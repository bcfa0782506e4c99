internal import System

/// Replies, written into a buffer that has room for them.
///
///     simple   0 magic 32   4 error 32   8 cookie 64                          then the data of a read
///     chunk    0 magic 32   4 flags 16   6 kind 16   8 cookie 64   16 length 32   then so many bytes
public enum Reply {
    public static let simpleByteCount = 16
    public static let chunkHeaderByteCount = 20
    /// A chunk of data without the data: the header and the offset.
    public static let dataHeaderByteCount = 28
    public static let errorChunkByteCount = 26
    public static let errorOffsetChunkByteCount = 34
    /// A chunk of extents without the extents: the header and the context.
    public static let statusHeaderByteCount = 24
    public static let extentByteCount = 8

    /// What a chunk has in it (`NBD_REPLY_TYPE_*`).
    public enum Kind: UInt16, Sendable {
        case none = 0
        case offsetData = 1
        case blockStatus = 5
        case error = 0x8001
        case errorOffset = 0x8002
    }

    /// A simple reply, 16 bytes; of a read that was done, the data follows.
    /// - Parameter error: nil: the request was done.
    public static func simple(_ cookie: UInt64, _ error: ErrorCode?, into bytes: inout MutableRawSpan) {
        bytes.store(Magic.simpleReply.bigEndian, at: 0)
        bytes.store((error?.rawValue ?? 0).bigEndian, at: 4)
        bytes.store(cookie.bigEndian, at: 8)
    }

    /// The header of a chunk with `byteCount` bytes; `isLast`: none follows for this cookie.
    public static func chunk(_ kind: Kind, _ cookie: UInt64, byteCount: Int, isLast: Bool, into bytes: inout MutableRawSpan) {
        bytes.store(Magic.chunk.bigEndian, at: 0)
        bytes.store((isLast ? 1 : 0 as UInt16).bigEndian, at: 4)
        bytes.store(kind.rawValue.bigEndian, at: 6)
        bytes.store(cookie.bigEndian, at: 8)
        bytes.store(UInt32(truncatingIfNeeded: byteCount).bigEndian, at: 16)
    }

    /// What precedes the data of a read: `byteCount` bytes, which are at byte `offset` of the disk.
    public static func dataHeader(
        _ cookie: UInt64, offset: UInt64, byteCount: Int, isLast: Bool, into bytes: inout MutableRawSpan
    ) {
        chunk(.offsetData, cookie, byteCount: byteCount + 8, isLast: isLast, into: &bytes)
        bytes.store(offset.bigEndian, at: 20)
    }

    /// The last chunk: the request failed.
    public static func error(_ cookie: UInt64, _ error: ErrorCode, into bytes: inout MutableRawSpan) {
        chunk(.error, cookie, byteCount: 6, isLast: true, into: &bytes)
        bytes.store(error.rawValue.bigEndian, at: 20)
        // No message.
        bytes.store(0 as UInt16, at: 24)
    }

    /// The last chunk: the request failed, and the data that was sent for byte `offset` of the disk and all behind it is wrong.
    public static func error(_ cookie: UInt64, _ error: ErrorCode, at offset: UInt64, into bytes: inout MutableRawSpan) {
        chunk(.errorOffset, cookie, byteCount: 14, isLast: true, into: &bytes)
        bytes.store(error.rawValue.bigEndian, at: 20)
        bytes.store(0 as UInt16, at: 24)
        bytes.store(offset.bigEndian, at: 26)
    }

    /// What precedes `extentCount` extents.
    public static func statusHeader(_ cookie: UInt64, extentCount: Int, into bytes: inout MutableRawSpan) {
        chunk(.blockStatus, cookie, byteCount: 4 + extentCount * extentByteCount, isLast: true, into: &bytes)
        bytes.store(allocationContextID.bigEndian, at: 20)
    }

    /// One extent: a hole that reads as zeros, or not.
    public static func extent(byteCount: UInt32, isHole: Bool, into bytes: inout MutableRawSpan) {
        bytes.store(byteCount.bigEndian, at: 0)
        // NBD_STATE_HOLE and NBD_STATE_ZERO.
        bytes.store((isHole ? 3 : 0 as UInt32).bigEndian, at: 4)
    }
}
