/// When what failed is tried again: after a pause that is twice the one before, up to a limit.
struct Retry: Sendable {
    private let first, longest: Duration
    /// When the try began that is at work, or failed.
    private var began: ContinuousClock.Instant
    private var pause = Duration.zero
    /// When the next try begins.
    private(set) var due: ContinuousClock.Instant

    /// Before the first try, which begins now.
    init(first: Duration, longest: Duration, now: ContinuousClock.Instant = .now) {
        self.first = first
        self.longest = longest
        began = now
        due = now
    }

    /// A try begins.
    mutating func begin(now: ContinuousClock.Instant = .now) { began = now }

    /// A try has failed. What went well for longer than the longest pause has nothing to do with the failures before.
    /// - Returns: whether it is the first that failed.
    mutating func fail(now: ContinuousClock.Instant = .now) -> Bool {
        if now - began > longest { pause = .zero }
        let isFirst = pause == .zero
        pause = isFirst ? first : min(pause * 2, longest)
        due = now + pause
        return isFirst
    }
}
