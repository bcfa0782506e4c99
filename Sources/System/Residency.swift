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

extension RawSpan {
    /// Has the disk begin to read these bytes of a mapped file, `limit` of them at most: madvise(2), `MADV_WILLNEED`. Exactly them:
    /// what is touched unannounced brings as much around it as the device reads ahead, which may be megabytes for a page.
    public func expect(limit: Int = .max) {
        unsafe withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress, bytes.count > 0 else { return }
            let before = Int(UInt(bitPattern: base) % 4096)
            let end = before + min(bytes.count, limit)
            // The kernel takes no more at a time than the device does.
            for start in stride(from: 0, to: end, by: 1 << 18) {
                // A hint: whatever becomes of it, the bytes can be read.
                _ = unsafe madvise(UnsafeMutableRawPointer(mutating: base - before + start), min(1 << 18, end - start), MADV_WILLNEED)
            }
        }
    }
}
