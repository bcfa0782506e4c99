@testable import Serve
import Synchronization
import Testing

@Suite struct LogLimiterTests {
    @Test func aFloodIsCounted() {
        let lines = Lines()
        let log = LogLimiter(burst: 3, intervalSeconds: 1000) { lines.append($0) }
        var built = 0
        func message(_ number: Int) -> String {
            built += 1
            return "message \(number)"
        }
        for number in 0..<100 { log(message(number)) }
        #expect(lines.all == ["message 0", "message 1", "message 2"])
        // What is dropped costs nothing.
        #expect(built == 3)
    }

    @Test func whatWasDroppedIsSaidLater() {
        let lines = Lines()
        // Each message begins an interval.
        let log = LogLimiter(burst: 0, intervalSeconds: 0) { lines.append($0) }
        log("a")
        log("b")
        log("c")
        withExtendedLifetime(log) { #expect(lines.all == ["1 more such messages", "1 more such messages"]) }
    }

    /// Also when nothing comes after it.
    @Test func whatWasDroppedLastIsSaid() {
        let lines = Lines()
        do {
            let log = LogLimiter(burst: 1, intervalSeconds: 1000) { lines.append($0) }
            for message in ["a", "b", "c"] { log(message) }
            log.tellMissed()
            // The interval is not over.
            withExtendedLifetime(log) { #expect(lines.all == ["a"]) }
        }
        #expect(lines.all == ["a", "2 more such messages"])
        let log = LogLimiter(burst: 0, intervalSeconds: 0) { lines.append($0) }
        log("d")
        for _ in 0..<2 { log.tellMissed() }
        withExtendedLifetime(log) { #expect(lines.all == ["a", "2 more such messages", "1 more such messages"]) }
        // What was said is not said again.
        log.tellMissed(atEnd: true)
        #expect(lines.all.count == 3)
    }
}

private final class Lines: Sendable {
    private let text = Mutex<[String]>([])
    var all: [String] { text.withLock { $0 } }
    func append(_ line: String) { text.withLock { $0.append(line) } }
}
