internal import Glibc

extension RawSpan {
    /// How many of these bytes, from the first on, a mapped file's pages in memory hold: mincore(2). What lies there can be read
    /// without a wait for a device. Asks for 1 MiB at most.
    public var residentByteCount: Int {
        unsafe withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress else { return 0 }
            let pageSize = 4096
            let before = Int(UInt(bitPattern: base) % UInt(pageSize))
            var states = InlineArray<257, UInt8>(repeating: 0)
            let pages = min((before + bytes.count + pageSize - 1) / pageSize, states.count)
            var span = states.mutableSpan
            let result = unsafe span.withUnsafeMutableBufferPointer {
                unsafe mincore(UnsafeMutableRawPointer(mutating: base - before), pages * pageSize, $0.baseAddress)
            }
            guard result == 0 else { return 0 }
            var resident = 0
            while resident < pages, states[resident] & 1 != 0 { resident += 1 }
            return max(0, min(bytes.count, resident * pageSize - before))
        }
    }
}
