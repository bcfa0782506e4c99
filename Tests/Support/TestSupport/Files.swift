public import System

/// Whole files, for tests.
public enum Files {
    public static func bytes(_ path: String) throws(Failure) -> [UInt8] {
        let file = try File(path: path)
        var bytes = [UInt8](repeating: 0, count: Int(try file.size()))
        _ = try bytes.withMutableBytes { (span) throws(Failure) in try file.read(at: 0, into: &span) }
        return bytes
    }

    /// Most bytes of a text.
    public static let largestText = 4 << 20

    /// What a file says, also one that has no size, as those of /proc.
    /// - Throws: `.system` when it has more than `largestText` bytes: a part would be taken for all.
    public static func text(_ path: String) throws(Failure) -> String {
        let file = try File(path: path)
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = try chunk.withMutableBytes { (span) throws(Failure) in try file.readNext(into: &span) }
            bytes += chunk.prefix(count)
            guard bytes.count <= largestText else { throw Failure(.system, "read", .file(path), "it has more than \(largestText) bytes") }
            // Only the end leaves room in it.
            if count < chunk.count { return String(decoding: bytes, as: UTF8.self) }
        }
    }

    public static func write(_ path: String, _ bytes: [UInt8]) throws(Failure) {
        try File(path: path, options: [.write, .create, .truncate], mode: 0o644).write(at: 0, bytes.rawBytes)
    }

    /// Offsets at which `pattern` occurs in the file.
    public static func occurrences(of pattern: [UInt8], in path: String) throws(Failure) -> [Int] {
        let all = try bytes(path)
        guard let first = pattern.first, all.count >= pattern.count else { return [] }
        let whole = all.span
        let wanted = pattern.span
        var found: [Int] = []
        for start in 0...(all.count - pattern.count) where whole[start] == first {
            var index = 1
            while index < wanted.count, whole[start + index] == wanted[index] { index += 1 }
            if index == wanted.count { found.append(start) }
        }
        return found
    }

    /// Inverts the bits `bits` of the byte at `offset`.
    public static func flip(_ path: String, at offset: Int, bits: UInt8 = 0x40) throws(Failure) {
        let file = try File(path: path, options: [.write])
        var byte: [UInt8] = [0]
        _ = try byte.withMutableBytes { (span) throws(Failure) in try file.read(at: UInt64(offset), into: &span) }
        byte[0] ^= bits
        try file.write(at: UInt64(offset), byte.rawBytes)
    }

    /// Inverts a bit in each occurrence of `pattern`, in the byte `skip` bytes behind its beginning.
    /// - Returns: how many there were.
    public static func flip(_ path: String, every pattern: [UInt8], skip: Int) throws(Failure) -> Int {
        let places = try occurrences(of: pattern, in: path)
        for place in places { try flip(path, at: place + skip) }
        return places.count
    }
}
