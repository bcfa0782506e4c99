import Glibc
import Synchronization

/// Passes a few messages on and counts the rest, so that a guest or a client can't fill a log: `burst` of them in each interval. How many there were
/// besides is said before the first message of a later interval, or when `tellMissed` finds the interval over, or else at the end. Any thread may call.
final class LogLimiter: Sendable {
    private let log: @Sendable (String) -> Void
    private let burst: Int
    let intervalSeconds: Int
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

    deinit { tellMissed(atEnd: true) }

    func callAsFunction(_ message: @autoclosure () -> String) {
        let (isPassed, missed) = counts.withLock { admit(&$0) }
        say(missed)
        if isPassed { log(message()) }
    }

    /// Says how many messages of an interval that is over were left out, if that was not said yet. To be called now and then, as no further message may
    /// come.
    /// - Parameter isEnd: also of one that is not over.
    func tellMissed(atEnd isEnd: Bool = false) {
        say(
            counts.withLock { counts in
                let missed = beginInterval(&counts)
                guard isEnd else { return missed }
                defer { counts.dropped = 0 }
                return missed + counts.dropped
            })
    }

    private func say(_ missed: Int) { if missed > 0 { log("\(missed) more such messages") } }

    /// Whether a message may pass now, and how many did not since that was last said.
    private func admit(_ counts: inout Counts) -> (isPassed: Bool, missed: Int) {
        let missed = beginInterval(&counts)
        guard counts.passed < burst else {
            counts.dropped += 1
            return (false, missed)
        }
        counts.passed += 1
        return (true, missed)
    }

    /// Begins an interval, if the one before is over.
    /// - Returns: how many messages did not pass in that.
    private func beginInterval(_ counts: inout Counts) -> Int {
        var time = timespec()
        _ = unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        guard time.tv_sec - counts.intervalStart >= intervalSeconds else { return 0 }
        defer { counts = Counts(intervalStart: time.tv_sec) }
        return counts.dropped
    }
}
