internal import Glibc

/// This start of the machine: what is not durable does not outlive it.
public enum MachineStart {
    /// What it is called: random(4), boot_id, 36 characters. Nil: it can't be read.
    public static let name: String? = {
        // Without /proc there is nothing to know it by.
        guard let file = try? File(path: "/proc/sys/kernel/random/boot_id") else { return nil }
        var text = [UInt8](repeating: 0, count: 64)
        // The same.
        guard let count = try? text.withMutableBytes({ (bytes) throws(Failure) in try file.read(at: 0, into: &bytes) }), count > 0 else { return nil }
        return String(decoding: text[..<count].prefix { $0 > UInt8(ascii: " ") }, as: UTF8.self)
    }()
}
