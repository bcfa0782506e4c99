internal import Glibc

/// Whole files, and sums over their bytes.
enum Bytes {
    static func read(_ path: String) throws(TraceFailure) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw TraceFailure(systemCall: "read", path) }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw TraceFailure(systemCall: "read", path) }
        let size = Int(status.st_size)
        var isWhole = true
        let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
            while count < size {
                let got = pread(descriptor, buffer.baseAddress.map { $0 + count }, size - count, off_t(count))
                guard got > 0 else {
                    isWhole = false
                    return
                }
                count += got
            }
        }
        guard isWhole else { throw TraceFailure(systemCall: "read", path) }
        return bytes
    }

    /// Writes a file that is not there yet. Pages of zeros take no room.
    static func write(_ bytes: [UInt8], to path: String) throws(TraceFailure) {
        let descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw TraceFailure(systemCall: "write", path) }
        defer { close(descriptor) }
        let isWritten = bytes.withUnsafeBytes { all in
            var start = 0
            while start < all.count {
                // As many pages as have something in them.
                var end = start
                while end < all.count, !isZero(all, end) { end = min(all.count, end + 4096) }
                if end > start, pwrite(descriptor, all.baseAddress.map { $0 + start }, end - start, off_t(start)) != end - start { return false }
                start = end > start ? end : start + 4096
            }
            return ftruncate(descriptor, off_t(all.count)) == 0
        }
        guard isWritten else { throw TraceFailure(systemCall: "write", path) }
    }

    private static func isZero(_ all: UnsafeRawBufferPointer, _ start: Int) -> Bool {
        let count = min(4096, all.count - start)
        guard let base = all.baseAddress, all[start] == 0 else { return false }
        return memcmp(base + start, base + start + 1, count - 1) == 0
    }

    /// 64 bits that depend on all bytes.
    static func hash(_ bytes: [UInt8]) -> UInt64 {
        bytes.withUnsafeBytes { all in
            // Four lanes, each of which mixes a word at a time: none waits for another.
            var a: UInt64 = 1, b: UInt64 = 2, c: UInt64 = 3, d: UInt64 = 4
            func mixed(_ lane: UInt64, _ offset: Int) -> UInt64 {
                let mixed = (lane ^ all.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) &* 0xbf58_476d_1ce4_e5b9
                return mixed ^ mixed >> 31
            }
            var offset = 0
            while offset + 32 <= all.count {
                a = mixed(a, offset)
                b = mixed(b, offset + 8)
                c = mixed(c, offset + 16)
                d = mixed(d, offset + 24)
                offset += 32
            }
            while offset < all.count {
                a = (a ^ UInt64(all[offset])) &* 0x0100_0000_01b3
                offset += 1
            }
            return [a, b, c, d, UInt64(all.count)].reduce(0) { mix($0, $1) }
        }
    }

    static func mix(_ a: UInt64, _ b: UInt64) -> UInt64 {
        let mixed = (a &+ 0x9e37_79b9_7f4a_7c15 ^ b) &* 0x94d0_49bb_1331_11eb
        return mixed ^ mixed >> 29
    }
}
