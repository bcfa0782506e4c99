import Glibc
import TestSupport
import Testing

/// The program under strace(1), which sends it a signal at a system call.
extension Tool {
    static let canTrace = unsafe access("/usr/bin/strace", X_OK) == 0

    /// Starts it; it gets `signal` at the `number`th call named `call`, counted in each of its threads.
    func startTraced(_ call: String, _ number: Int, signal: String, _ arguments: [String]) throws -> Child {
        try Child(
            "/usr/bin/strace",
            ["-f", "-qq", "-o", "/dev/null", "-e", "trace=\(call)", "-e", "inject=\(call):signal=\(signal):when=\(number)", executable] + arguments,
            environment: ["DEDUPDISK_STORE": store])
    }
}
