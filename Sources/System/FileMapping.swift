internal import Glibc

/// The beginning of a file as memory, to be read: mmap(2), shared, so that it shows what is written. What lies behind the
/// file's end must not be touched.
@safe
public struct FileMapping: ~Copyable, @unchecked Sendable {
    private let base: UnsafeRawPointer
    public let byteCount: Int

    init(descriptor: CInt, byteCount: Int, path: String) throws(Failure) {
        let address = unsafe mmap(nil, byteCount, PROT_READ, MAP_SHARED, descriptor, 0)
        guard let address = unsafe address, unsafe address != MAP_FAILED else { throw Failure(systemCall: "map", .file(path), errno: errno) }
        unsafe base = UnsafeRawPointer(address)
        self.byteCount = byteCount
    }

    deinit { unsafe munmap(UnsafeMutableRawPointer(mutating: base), byteCount) }

    /// `count` bytes at `offset`, within the mapping and the file.
    @_lifetime(borrow self)
    public func bytes(at offset: Int, count: Int) -> RawSpan {
        precondition(offset >= 0 && count >= 0 && offset <= byteCount - count, "outside a mapping")
        return unsafe _overrideLifetime(RawSpan(_unsafeStart: base + offset, byteCount: count), borrowing: self)
    }

    /// Whether the system has all of these bytes in memory, at most 1 MiB.
    public func isResident(at offset: Int, count: Int) -> Bool { bytes(at: offset, count: count).residentByteCount == count }

    /// Where these bytes are, for as long as the mapping is.
    @unsafe public func address(at offset: Int, count: Int) -> UnsafeRawPointer {
        precondition(offset >= 0 && count >= 0 && offset <= byteCount - count, "outside a mapping")
        return unsafe base + offset
    }
}

extension File {
    /// Maps the first `byteCount` bytes, which the file may not have yet.
    public func map(byteCount: Int) throws(Failure) -> FileMapping {
        try withDescriptor { (descriptor) throws(Failure) in try FileMapping(descriptor: descriptor, byteCount: byteCount, path: path) }
    }
}
