import System

/// Lines on their way to standard error, in their order. A thread of its own writes them: whoever tells something may hold a lock that others wait
/// for, and whoever reads standard error may be slow, or stopped.
final class LineQueue: Sendable {
    private let state = Monitor(State())
    private let write: @Sendable (String) -> Void
    /// The line that says how many found no room.
    private let missed: @Sendable (Int) -> String

    private struct State {
        var lines: [String] = []
        /// Lines that found no room, since that was last said.
        var dropped = 0
        var isWriting = false
        var thread: Thread?
    }

    /// Lines that may wait.
    static let capacity = 1000

    init(missed: @escaping @Sendable (Int) -> String, _ write: @escaping @Sendable (String) -> Void) {
        self.missed = missed
        self.write = write
    }

    /// Does not wait for the line to be written, unless there can be no thread that does it.
    func append(_ line: String) {
        let hasThread = state.with { state in
            // Without a thread, whoever tells something writes it.
            if state.thread == nil { state.thread = try? Thread("log") { self.run() } }
            guard state.thread != nil else { return false }
            if state.lines.count < Self.capacity { state.lines.append(line) } else { state.dropped += 1 }
            return true
        }
        if hasThread { state.notify() } else { write(line) }
    }

    /// Waits until all that was appended is written, and a second at most.
    func drain() {
        let end = monotonicSeconds() + 1
        state.wait { state in
            let left = end - monotonicSeconds()
            return left <= 0 || (state.lines.isEmpty && !state.isWriting) ? .done(()) : .atMost(left)
        }
    }

    private func run() {
        while true {
            let (lines, dropped): ([String], Int) = state.wait { (state) -> Wait<([String], Int)> in
                state.isWriting = !state.lines.isEmpty
                guard state.isWriting else { return .notified }
                defer { (state.lines, state.dropped) = ([], 0) }
                return .done((state.lines, state.dropped))
            }
            for line in lines { write(line) }
            if dropped > 0 { write(missed(dropped)) }
            state.with { $0.isWriting = !$0.lines.isEmpty }
            state.notify()
        }
    }
}
