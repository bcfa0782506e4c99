internal import Synchronization

/// How long to wait for a lock of the store, and who hears of it.
///
/// A holder that is alive and at work is waited for: for `limit` seconds each time that it, or somebody else, has taken the lock.
/// One that is stopped is given up sooner.
public final class Patience: Sendable {
    // As bits of a `Double`.
    private let limitBits, limitWhenStoppedBits: Atomic<UInt64>
    /// Told about waits of more than a second: once when it is that long, and when it is over.
    private let reporter: Reporter

    public init(limit: Double = 30, limitWhenStopped: Double = 2, reporter: Reporter = .silent) {
        limitBits = Atomic(limit.bitPattern)
        limitWhenStoppedBits = Atomic(limitWhenStopped.bitPattern)
        self.reporter = reporter
    }

    /// Seconds for one holder.
    public var limit: Double { Double(bitPattern: limitBits.load(ordering: .relaxed)) }
    /// The same for one that is stopped.
    public var limitWhenStopped: Double { Double(bitPattern: limitWhenStoppedBits.load(ordering: .relaxed)) }

    /// The same without limits: as guests' requests wait, which must not fail as long as the holder lives.
    public func endless() -> Patience { Patience(limit: .infinity, limitWhenStopped: .infinity, reporter: reporter) }

    /// The same limits, told to that one.
    public func telling(_ reporter: Reporter) -> Patience { Patience(limit: limit, limitWhenStopped: limitWhenStopped, reporter: reporter) }

    /// Gives new limits to all waits, those at work too.
    public func shorten(limit: Double, limitWhenStopped: Double) {
        limitBits.store(limit.bitPattern, ordering: .relaxed)
        limitWhenStoppedBits.store(limitWhenStopped.bitPattern, ordering: .relaxed)
    }

    /// Tells who wants to hear of waits.
    public func tell(_ phase: Event.Phase, _ text: @autoclosure () -> String) {
        if phase == .begins { reporter.counters.lockWaits.add() }
        reporter.tell(.lockWait, text(), phase)
    }
}
