import System
import Testing

@testable import dedupdisk

/// Who tells of something does not wait for who reads it.
@Suite struct LineQueueTests {
    private let written = Monitor<(lines: [String], isStopped: Bool)>(([], false))

    private func queue() -> LineQueue {
        LineQueue(missed: { "\($0) missed" }) { [written] line in
            written.wait { written in
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
        queue.drain()
        #expect(written.with { $0.lines } == (0..<100).map { "\($0)" })
    }

    @Test func aReaderThatIsStopped() {
        let queue = queue()
        written.with { $0.isStopped = true }
        let count = 2 * LineQueue.capacity + 100
        for number in 0..<count { queue.append("\(number)") }
        // Whoever ends meanwhile does not wait for ever.
        queue.drain()
        written.with { $0.isStopped = false }
        written.notify()
        queue.drain()
        let lines = written.with { $0.lines }
        let kept = lines.filter { !$0.hasSuffix("missed") }
        #expect(kept == (0..<kept.count).map { "\($0)" } && (LineQueue.capacity...2 * LineQueue.capacity).contains(kept.count))
        #expect(lines.contains("\(count - kept.count) missed"))
    }
}
