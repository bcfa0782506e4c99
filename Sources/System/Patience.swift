internal import Synchronization

/// How long to wait for a lock of the store, and who hears of it.
///
/// A holder that is alive and at work is waited for: for `limit` seconds each time that it, or somebody else, has taken the lock.
/// One that is stopped is given up sooner.
public final class Patience: Sendable {
    private let limits: Limits
    /// Told about waits of more than a second: once when it is that long, and when it is over.
    private let reporter: Reporter

    private final class Limits: Sendable {
        // As bits of a `Double`.
        let limit, limitWhenStopped: Atomic<UInt64>

        init(_ limit: Double, whenStopped: Double) {
            self.limit = Atomic(limit.bitPattern)
            limitWhenStopped = Atomic(whenStopped.bitPattern)
        }
    }

    public convenience init(limit: Double = 30, limitWhenStopped: Double = 2, reporter: Reporter = .silent) {
        self.init(Limits(limit, whenStopped: limitWhenStopped), reporter)
    }

    private init(_ limits: Limits, _ reporter: Reporter) {
        self.limits = limits
        self.reporter = reporter
    }

    /// Seconds for one holder.
    public var limit: Double { Double(bitPattern: limits.limit.load(ordering: .relaxed)) }
    /// The same for one that is stopped.
    public var limitWhenStopped: Double { Double(bitPattern: limits.limitWhenStopped.load(ordering: .relaxed)) }

    /// The same without limits: as guests' requests wait, which must not fail as long as the holder lives.
    public func endless() -> Patience { Patience(limit: .infinity, limitWhenStopped: .infinity, reporter: reporter) }

    /// The same limits, also when they change, told to that one.
    public func telling(_ reporter: Reporter) -> Patience { Patience(limits, reporter) }

    /// Gives new limits to all waits, those at work too, and to all that tell of the same.
    public func shorten(limit: Double, limitWhenStopped: Double) {
        limits.limit.store(limit.bitPattern, ordering: .relaxed)
        limits.limitWhenStopped.store(limitWhenStopped.bitPattern, ordering: .relaxed)
    }

    /// Tells who wants to hear of waits.
    public func tell(_ phase: Event.Phase, _ text: @autoclosure () -> String, because failure: Failure? = nil) {
        if phase == .begins { reporter.counters.lockWaits.add() }
        reporter.tell(.lockWait, text(), phase, because: failure)
    }
}
