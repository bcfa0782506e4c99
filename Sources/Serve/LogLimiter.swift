import Glibc

/// Passes a few messages on and counts the rest, so that a guest can't fill a log: a burst, then one per interval.
final class LogLimiter {
    private let log: @Sendable (String) -> Void
    private let burst: Int
    private let intervalSeconds: Int
    private var intervalStart = 0
    private var passed = 0
    private var dropped = 0

    init(burst: Int = 20, intervalSeconds: Int = 10, _ log: @escaping @Sendable (String) -> Void) {
        self.log = log
        self.burst = burst
        self.intervalSeconds = intervalSeconds
    }

    func callAsFunction(_ message: @autoclosure () -> String) {
        var time = timespec()
        _ = unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        if time.tv_sec - intervalStart >= intervalSeconds {
            if dropped > 0 { log("\(dropped) more such messages") }
            intervalStart = time.tv_sec
            passed = 0
            dropped = 0
        }
        guard passed < burst else {
            dropped += 1
            return
        }
        passed += 1
        log(message())
    }
}
