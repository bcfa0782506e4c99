import Glibc
public import System

/// Keeps what a file has in memory for as long as this is there, whoever else wants the room, or has the kernel drop what it can.
public final class PinnedFile: Sendable {
    private let memory: FileMapping

    /// Of all that it has now.
    public init(_ path: String) throws(Failure) {
        let file = try File(path: path)
        let count = Int(try file.size())
        memory = try file.map(byteCount: count)
        // Who may not is as well off as without it.
        _ = unsafe mlock(memory.address(at: 0, count: count), count)
    }
}
