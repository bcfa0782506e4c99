public import CLinux

extension RawSpan {
    /// Has the processor fetch the lines of `count` bytes from `offset` on, those of them that there are. Nobody waits.
    @inlinable @inline(__always)
    public func prefetch(at offset: Int, count: Int) {
        unsafe withUnsafeBytes { bytes in
            guard let start = bytes.baseAddress else { return }
            var offset = max(0, offset)
            let end = min(bytes.count, offset + count)
            while offset < end {
                unsafe clinux_prefetch(start + offset)
                offset += 64
            }
            if end > 0 { unsafe clinux_prefetch(start + end - 1) }
        }
    }
}
