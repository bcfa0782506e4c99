internal import BlockModel
import Glibc
public import System

/// A directory for one test, gone with it.
public final class ScratchDirectory: Sendable {
    public let path: String

    public init() throws(Failure) {
        let base = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
        var random = SystemRandomNumberGenerator()
        path = "\(base)/dedupdisk-test-\(getpid())-\(random.next() as UInt64)"
        guard unsafe mkdir(path, 0o700) == 0 else { throw Failure(systemCall: "make", .file(path), errno: errno) }
    }

    deinit { Self.remove(path) }

    private static func remove(_ path: String) {
        if let directory = unsafe opendir(path) {
            while let entry = unsafe readdir(directory) {
                let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { unsafe PathText.text($0.prefix { $0 != 0 }) }
                if name != ".", name != ".." { remove(path + "/" + name) }
            }
            unsafe closedir(directory)
            unsafe rmdir(path)
        } else {
            unsafe unlink(path)
        }
    }
}

/// SplitMix64: a small generator whose whole state is its seed, so that a test is repeated by the number that it names.
public struct SeededGenerator: RandomNumberGenerator, Sendable {
    private var state: UInt64
    public init(seed: UInt64) { state = seed }
    public mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
        return z ^ z >> 31
    }
}

/// 4096 bytes that depend on `number` alone, and differ for different numbers; 0 is zeros.
public func block(_ number: UInt64) -> [UInt8] {
    var generator = SeededGenerator(seed: number)
    return [UInt8](count: blockSize) { bytes in
        guard number != 0 else { return }
        for offset in stride(from: 0, to: blockSize, by: 8) { bytes.store(generator.next(), at: offset) }
    }
}
