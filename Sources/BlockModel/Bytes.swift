/// Fixed-width fields in byte buffers. Bounds are checked; no field needs to be aligned.
extension RawSpan {
    /// The integer at `offset`, in the machine's byte order.
    @inline(__always)
    public func load<Integer: FixedWidthInteger & BitwiseCopyable>(at offset: Int, as type: Integer.Type = Integer.self) -> Integer {
        precondition(offset >= 0 && offset <= byteCount - MemoryLayout<Integer>.size, "field outside its buffer")
        // Integers have no invalid bit patterns, and the bounds were checked.
        return unsafe unsafeLoadUnaligned(fromUncheckedByteOffset: offset, as: Integer.self)
    }
}

extension MutableRawSpan {
    /// The integer at `offset`, in the machine's byte order.
    @inline(__always)
    public func load<Integer: FixedWidthInteger & BitwiseCopyable>(at offset: Int, as type: Integer.Type = Integer.self) -> Integer {
        bytes.load(at: offset)
    }

    /// Stores `value` at `offset`, in the machine's byte order.
    @inline(__always)
    public mutating func store<Integer: FixedWidthInteger & BitwiseCopyable>(_ value: Integer, at offset: Int) {
        precondition(offset >= 0 && offset <= byteCount - MemoryLayout<Integer>.size, "field outside its buffer")
        storeBytes(of: value, toByteOffset: offset, as: Integer.self)
    }
}
