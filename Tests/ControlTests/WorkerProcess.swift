import Glibc
import System
import TestSupport

/// A `SnapshotWorker`, which does one thing at a time.
final class WorkerProcess {
    private let child: Child
    private var received: [UInt8] = []
    /// What it is at, if it is.
    var task: SnapshotTask?

    /// What it says of something that it was told.
    struct Answer {
        /// Nil: it was done.
        let failure: String?
        let began, ended: Double
        let line: String
    }

    init(_ store: String) throws(Failure) { child = try Child(Child.built("SnapshotWorker"), [store], input: .pipe) }

    func send(_ words: [String]) { child.send(Array((words.joined(separator: " ") + "\n").utf8)) }

    /// Its answer, waiting for so many seconds at most.
    func receive(limit: Double) -> Answer? {
        received += child.receive(limit: limit)
        guard let end = received.firstIndex(of: UInt8(ascii: "\n")) else { return nil }
        let line = String(decoding: received[..<end], as: UTF8.self)
        received.removeFirst(end + 1)
        let words = line.split(separator: " ").map(String.init)
        let times = words.compactMap(Double.init)
        guard times.count > 1 else { return nil }
        return Answer(failure: words[0] == "ok" ? nil : words[1], began: times[0], ended: times[1], line: line)
    }

    /// Whether it has ended by itself.
    var isOver: Bool {
        // One that is not even there has.
        guard let text = try? Files.text("/proc/\(child.process)/stat") else { return true }
        return text.split(separator: ")").last?.hasPrefix(" Z") ?? true
    }

    /// Stops it for a moment, as a machine that is busy elsewhere does.
    func interrupt(milliseconds: Int) {
        child.kill(SIGSTOP)
        pause(milliseconds: milliseconds)
        child.kill(SIGCONT)
    }

    func kill() {
        child.kill(SIGKILL)
        _ = child.wait()
    }

    /// Lets it close its disks.
    /// - Returns: what is wrong with how it ended, or nil.
    func end() -> String? {
        let outcome = child.wait()
        return outcome.status == 0 && outcome.errors == "" ? nil : "a worker ended so: \(outcome)"
    }
}
