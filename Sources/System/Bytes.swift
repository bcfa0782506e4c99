internal import CLinux

/// Fixed-width fields in byte buffers. Bounds are checked; no field needs to be aligned.
///
/// Inlinable, as other modules would otherwise call an unspecialised generic function for every field.
extension RawSpan {
    /// The integer at `offset`, in the machine's byte order.
    @inlinable @inline(__always)
    public func load<Integer: FixedWidthInteger & BitwiseCopyable>(at offset: Int, as type: Integer.Type = Integer.self) -> Integer {
        precondition(offset >= 0 && offset <= byteCount - MemoryLayout<Integer>.size, "field outside its buffer")
        // Integers have no invalid bit patterns, and the bounds were checked.
        return unsafe unsafeLoadUnaligned(fromUncheckedByteOffset: offset, as: Integer.self)
    }
}

extension MutableRawSpan {
    /// The integer at `offset`, in the machine's byte order.
    @inlinable @inline(__always)
    public func load<Integer: FixedWidthInteger & BitwiseCopyable>(at offset: Int, as type: Integer.Type = Integer.self) -> Integer {
        bytes.load(at: offset)
    }

    /// Stores `value` at `offset`, in the machine's byte order.
    @inlinable @inline(__always)
    public mutating func store<Integer: FixedWidthInteger & BitwiseCopyable>(_ value: Integer, at offset: Int) {
        precondition(offset >= 0 && offset <= byteCount - MemoryLayout<Integer>.size, "field outside its buffer")
        storeBytes(of: value, toByteOffset: offset, as: Integer.self)
    }
}

extension MutableRawSpan {
    /// Copies all of `source` to `offset`.
    @inlinable @inline(__always)
    public mutating func copy(_ source: RawSpan, to offset: Int) {
        precondition(offset >= 0 && offset <= byteCount - source.byteCount, "copy outside its buffer")
        unsafe withUnsafeMutableBytes { destination in
            unsafe source.withUnsafeBytes { source in
                // An empty buffer may have no address; the bounds were checked.
                if let from = source.baseAddress, let to = destination.baseAddress {
                    // For fields and the like a call would be too much.
                    if source.count < 1024 {
                        unsafe (to + offset).copyMemory(from: from, byteCount: source.count)
                    } else {
                        unsafe copyLong(from, source.count, to: to + offset)
                    }
                }
            }
        }
    }

    /// Zeros `count` bytes at `offset`.
    @inlinable @inline(__always)
    public mutating func zero(at offset: Int, count: Int) {
        precondition(offset >= 0 && count >= 0 && offset <= byteCount - count, "zeros outside their buffer")
        unsafe withUnsafeMutableBytes { bytes in
            if let start = bytes.baseAddress { unsafe (start + offset).initializeMemory(as: UInt8.self, repeating: 0, count: count) }
        }
    }
}

@usableFromInline
@unsafe func copyLong(_ from: UnsafeRawPointer, _ count: Int, to: UnsafeMutableRawPointer) { unsafe clinux_copy(to, from, count) }

extension Array where Element: FixedWidthInteger & BitwiseCopyable {
    /// The elements' bytes. Integers have no padding, so none is uninitialised.
    public var rawBytes: RawSpan {
        @_lifetime(borrow self) borrowing get { unsafe span.bytes }
    }
}

extension Array where Element == UInt8 {
    /// `count` zeros, then what `fill` writes over them.
    public init(count: Int, fill: (inout MutableRawSpan) -> Void) {
        self.init(repeating: 0, count: count)
        unsafe withUnsafeMutableBytes { buffer in
            var bytes = unsafe MutableRawSpan(_unsafeBytes: buffer)
            fill(&bytes)
        }
    }

    /// Lets `body` change the bytes in place.
    public mutating func withMutableBytes<Result>(_ body: (inout MutableRawSpan) throws(Failure) -> Result) throws(Failure) -> Result {
        do {
            return try unsafe withUnsafeMutableBytes { buffer in
                var bytes = unsafe MutableRawSpan(_unsafeBytes: buffer)
                return try body(&bytes)
            }
        } catch let failure as Failure { throw failure } catch { throw Failure(.system, "a buffer", "\(error)") }
    }
}
