public import System

/// Lends a copy of the bytes that is never freed.
public func lend(_ bytes: [UInt8]) -> LentBytes {
    let room = UnsafeMutableRawBufferPointer.allocate(byteCount: max(1, bytes.count), alignment: 16)
    unsafe room.copyBytes(from: bytes)
    return unsafe LentBytes(UnsafeRawPointer(room.baseAddress!), count: bytes.count)
}

extension [UInt8] {
    /// A copy, as `body` has changed it.
    public func withChange(_ body: (inout MutableRawSpan) -> Void) -> [UInt8] {
        [UInt8](count: count) { room in
            room.copy(self.rawBytes, to: 0)
            body(&room)
        }
    }
}
