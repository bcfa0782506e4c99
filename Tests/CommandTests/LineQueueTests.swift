import System
import TestSupport
import Testing

@testable import dedupdisk

/// Who tells of something does not wait for who reads it.
@Suite struct LineQueueTests {
    private struct Written {
        var lines: [String] = []
        var isStopped = false
        /// Somebody has a line to write, and waits.
        var isWaiting = false
    }
    private let written = Monitor(Written())

    private func queue() -> LineQueue {
        LineQueue(missed: { "\($0) missed" }) { [written] line in
            written.wait { written in
                written.isWaiting = written.isStopped
                guard !written.isStopped else { return .notified }
                written.lines.append(line)
                return .done(())
            }
        }
    }

    @Test func inTheirOrder() {
        let queue = queue()
        queue.drain()
        for number in 0..<100 { queue.append("\(number)") }
        let began = monotonicSeconds()
        queue.drain()
        // It waits for no more than a second, in which a busy machine may not come to the writer.
        #expect(written.with { $0.lines.count } == 100 || monotonicSeconds() - began >= 1)
        waitUntil { written.with { $0.lines.count } == 100 }
        #expect(written.with { $0.lines } == (0..<100).map { "\($0)" })
    }

    @Test func aReaderThatIsStopped() {
        let queue = queue()
        written.with { $0.isStopped = true }
        queue.append("0")
        // It has taken all that there was, and takes nothing more before it has written that: so many more find room.
        #expect(waitUntil { written.with { $0.isWaiting } })
        for number in 1...LineQueue.capacity + 100 { queue.append("\(number)") }
        // Whoever ends meanwhile does not wait for ever.
        queue.drain()
        written.with { $0.isStopped = false }
        written.notify()
        waitUntil { written.with { $0.lines.count } == LineQueue.capacity + 2 }
        #expect(written.with { $0.lines } == (0...LineQueue.capacity).map { "\($0)" } + ["100 missed"])
    }
}
