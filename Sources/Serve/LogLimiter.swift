import Glibc
import Synchronization

/// Passes a few messages on and counts the rest, so that a guest or a client can't fill a log: `burst` of them in each interval. How many there were
/// besides is said before the first message of a later interval. Any thread may call.
final class LogLimiter: Sendable {
    private let log: @Sendable (String) -> Void
    private let burst: Int
    private let intervalSeconds: Int
    private let counts = Mutex(Counts())

    private struct Counts {
        var intervalStart = 0
        var passed = 0
        var dropped = 0
    }

    init(burst: Int = 20, intervalSeconds: Int = 10, _ log: @escaping @Sendable (String) -> Void) {
        self.log = log
        self.burst = burst
        self.intervalSeconds = intervalSeconds
    }

    func callAsFunction(_ message: @autoclosure () -> String) {
        let (isPassed, missed) = counts.withLock { admit(&$0) }
        if missed > 0 { log("\(missed) more such messages") }
        if isPassed { log(message()) }
    }

    /// Whether a message may pass now, and how many did not since that was last said.
    private func admit(_ counts: inout Counts) -> (isPassed: Bool, missed: Int) {
        var time = timespec()
        _ = unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        var missed = 0
        if time.tv_sec - counts.intervalStart >= intervalSeconds {
            missed = counts.dropped
            counts = Counts(intervalStart: time.tv_sec)
        }
        guard counts.passed < burst else {
            counts.dropped += 1
            return (false, missed)
        }
        counts.passed += 1
        return (true, missed)
    }
}
