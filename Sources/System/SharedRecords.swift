internal import Glibc

/// The beginning of a file as memory that many processes read and write: mmap(2), shared. It is not synced: what is in it is for
/// processes, not for after a crash.
@safe
public struct SharedRecords: ~Copyable, @unchecked Sendable {
    private let base: UnsafeMutableRawPointer
    public let byteCount: Int

    /// Maps the first `byteCount` bytes of a file that is open to be written. Nil: it does not have all of their blocks, and a page without
    /// one would be a bus error on a full filesystem; or there is no map to be had.
    public init?(_ file: borrowing File, byteCount: Int) {
        // What can't be mapped is read and written by calls.
        guard let size = try? file.size(), size >= UInt64(byteCount), let allocated = try? file.allocatedBytes(), allocated >= UInt64(byteCount) else {
            return nil
        }
        let address = unsafe file.withNumber { unsafe mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_SHARED, $0, 0) }
        guard let address = unsafe address, unsafe address != MAP_FAILED else { return nil }
        unsafe base = address
        self.byteCount = byteCount
    }

    deinit { unsafe munmap(base, byteCount) }

    /// A copy of some bytes, which others may be writing.
    public func bytes(at offset: Int, count: Int) -> [UInt8] {
        precondition(offset >= 0 && count >= 0 && offset <= byteCount - count, "outside a mapping")
        return unsafe [UInt8](UnsafeRawBufferPointer(start: base + offset, count: count))
    }

    /// Sees to it that these bytes are there: they are written where they are not.
    public func put(_ bytes: [UInt8], at offset: Int) {
        precondition(offset >= 0 && offset <= byteCount - bytes.count, "outside a mapping")
        unsafe bytes.withUnsafeBytes { new in
            guard let from = new.baseAddress, unsafe memcmp(base + offset, from, new.count) != 0 else { return }
            unsafe memcpy(base + offset, from, new.count)
        }
    }

    /// Writes a number at a multiple of 8, as one.
    public func put(_ value: UInt64, at offset: Int) {
        precondition(offset >= 0 && offset % 8 == 0 && offset <= byteCount - 8, "outside a mapping")
        unsafe base.storeBytes(of: value, toByteOffset: offset, as: UInt64.self)
    }
}
