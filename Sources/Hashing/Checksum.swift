internal import CXXHash

/// XXH3, 64 bits (xxhash.h): guards headers, map pages and journal records against torn and rotten bytes.
/// It does not name content; SHA-256 does.
public func checksum(_ bytes: RawSpan, seed: UInt64 = 0) -> UInt64 {
    unsafe bytes.withUnsafeBytes { unsafe cxxhash_xxh3_64($0.baseAddress, $0.count, seed) }
}

/// Whether all bytes are zero. Fails fast: data differs from zero in its first word more often than not.
public func isZero(_ bytes: RawSpan) -> Bool {
    unsafe bytes.withUnsafeBytes { bytes in
        var offset = 0
        while offset + 64 <= bytes.count {
            let words = unsafe bytes.loadUnaligned(fromByteOffset: offset, as: SIMD8<UInt64>.self)
            if words != .zero { return false }
            offset += 64
        }
        while offset < bytes.count {
            if unsafe bytes[offset] != 0 { return false }
            offset += 1
        }
        return true
    }
}
