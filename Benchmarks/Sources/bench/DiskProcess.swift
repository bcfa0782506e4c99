import Glibc
import System
import TestSupport

/// A `DiskAgent`, from the outside.
final class DiskProcess {
    private let child: Child
    var process: pid_t { child.process }

    /// Starts it, and waits until it has the store open.
    /// - Parameter compressible: writes little blocks into a store that compresses, so that many fit.
    init(store: String, compressible: Bool = false) throws {
        let options = ["agent", "disk", "--store", store] + (compressible ? ["--compressible"] : [])
        child = try Child("/proc/self/exe", options, input: .pipe)
        try expect("open", of: "open")
    }

    /// Has it do something, and waits until it is done.
    func tell(_ line: String, until answer: String = "done") throws {
        child.send(Array((line + "\n").utf8))
        try expect(answer, of: line)
    }

    /// kill -9.
    func kill() {
        child.kill(SIGKILL)
        _ = child.wait(limit: 10)
    }

    /// Has it close its disks and end.
    func end() throws {
        let outcome = child.wait(limit: 120)
        guard outcome.status == 0 else { throw Failure(.system, "a process with a disk", outcome.errors) }
    }

    private func expect(_ answer: String, of line: String) throws {
        let text = String(decoding: child.receive(limit: 120), as: UTF8.self)
        guard text == answer + "\n" else {
            child.kill(SIGKILL)
            throw Failure(.system, "a process with a disk", "\(line) was answered with '\(text)': \(child.wait(limit: 5).errors)")
        }
    }
}
