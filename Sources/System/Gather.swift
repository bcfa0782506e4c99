internal import Glibc

/// Parts of memory that one call writes to a file, one behind the other.
@safe
public struct Gather: ~Copyable {
    private var parts: [iovec] = unsafe []
    /// Those that are written already.
    private var first = 0
    /// Bytes of all parts.
    public private(set) var byteCount = 0

    /// - Parameter capacity: parts that it has room for at once.
    public init(capacity: Int) { unsafe parts.reserveCapacity(capacity) }

    /// The memory has to stay as it is until it was written, or the part removed.
    @unsafe public mutating func append(_ bytes: RawSpan) {
        guard bytes.byteCount > 0 else { return }
        // Nothing writes through the address, which an iovec has for readers, too.
        unsafe bytes.withUnsafeBytes { unsafe parts.append(iovec(iov_base: UnsafeMutableRawPointer(mutating: $0.baseAddress), iov_len: $0.count)) }
        byteCount += bytes.byteCount
    }

    public mutating func removeAll() {
        unsafe parts.removeAll(keepingCapacity: true)
        first = 0
        byteCount = 0
    }

    /// Copies from the first parts, as much as there is room for, and takes that out.
    /// - Returns: bytes that were copied.
    public mutating func take(into room: inout MutableRawSpan) -> Int {
        var done = 0
        for index in unsafe first..<parts.count {
            let part = unsafe parts[index]
            let count = unsafe min(part.iov_len, room.byteCount - done)
            room.copy(unsafe RawSpan(_unsafeStart: part.iov_base, byteCount: count), to: done)
            done += count
        }
        removeFirst(done)
        return done
    }

    /// pwritev(2), of as many parts as it takes.
    func pwritev(to descriptor: Int32, at offset: off_t) -> Int {
        unsafe parts.withUnsafeBufferPointer { parts in
            guard let base = parts.baseAddress else { return 0 }
            return unsafe Glibc.pwritev(descriptor, base + first, Int32(min(parts.count - first, Self.mostParts)), offset)
        }
    }

    /// IOV_MAX of Linux.
    private static let mostParts = 1024

    mutating func removeFirst(_ count: Int) {
        guard count < byteCount else { return removeAll() }
        var left = count
        while left > 0 {
            let taken = min(left, unsafe parts[first].iov_len)
            unsafe parts[first].iov_base += taken
            unsafe parts[first].iov_len -= taken
            if unsafe parts[first].iov_len == 0 { first += 1 }
            left -= taken
        }
        byteCount -= count
    }
}
