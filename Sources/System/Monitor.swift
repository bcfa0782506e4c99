internal import CLinux
internal import Glibc

/// A value behind a mutex, with a condition to wait for (pthread_mutex_lock(3), pthread_cond_timedwait(3)).
/// Swift's own `Mutex` has no condition. What is generic here is inlinable, so that each state gets code of its own.
@safe
public final class Monitor<State: ~Copyable>: @unchecked Sendable {
    @usableFromInline var state: State
    @usableFromInline let lock: Lock

    public init(_ state: consuming State) {
        self.state = state
        lock = Lock()
    }

    @inlinable
    public func withLock<Result>(_ body: (inout State) throws(Failure) -> Result) throws(Failure) -> Result {
        lock.lock()
        defer { lock.unlock() }
        return try body(&state)
    }

    /// The same, with a body that does not fail.
    @inlinable
    public func with<Result>(_ body: (inout State) -> Result) -> Result {
        lock.lock()
        defer { lock.unlock() }
        return body(&state)
    }

    /// Wakes every waiter; to be called after a change that one of them may wait for.
    public func notify() { lock.notify() }

    /// Calls `body` until it says how the wait ended. Between calls waits for a `notify`, or for as many
    /// seconds as `body` says.
    @inlinable
    public func wait<Result, Problem: Error>(_ body: (inout State) throws(Problem) -> Wait<Result>) throws(Problem) -> Result {
        lock.lock()
        defer { lock.unlock() }
        while true {
            switch try body(&state) {
            case .done(let result): return result
            case .notified: lock.wait()
            case .atMost(let seconds): lock.wait(seconds: seconds)
            }
        }
    }
}

/// What a waiter wants.
@frozen public enum Wait<Result> {
    case done(Result)
    case notified
    /// Seconds.
    case atMost(Double)
}

/// The mutex and the condition.
@safe @usableFromInline
final class Lock: @unchecked Sendable {
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let condition: UnsafeMutablePointer<pthread_cond_t>

    init() {
        unsafe mutex = .allocate(capacity: 1)
        unsafe condition = .allocate(capacity: 1)
        // Adaptive: what it guards takes less time than going to sleep. And no queue for it, where each in turn would be woken.
        var kind = pthread_mutexattr_t()
        unsafe pthread_mutexattr_init(&kind)
        unsafe pthread_mutexattr_settype(&kind, clinux_adaptive_mutex)
        unsafe pthread_mutex_init(mutex, &kind)
        unsafe pthread_mutexattr_destroy(&kind)
        var attributes = pthread_condattr_t()
        unsafe pthread_condattr_init(&attributes)
        unsafe pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        unsafe pthread_cond_init(condition, &attributes)
        unsafe pthread_condattr_destroy(&attributes)
    }

    deinit {
        unsafe pthread_cond_destroy(condition)
        unsafe pthread_mutex_destroy(mutex)
        unsafe condition.deallocate()
        unsafe mutex.deallocate()
    }

    @usableFromInline func lock() { unsafe pthread_mutex_lock(mutex) }
    @usableFromInline func unlock() { unsafe pthread_mutex_unlock(mutex) }
    @usableFromInline func notify() { unsafe pthread_cond_broadcast(condition) }
    @usableFromInline func wait() { unsafe pthread_cond_wait(condition, mutex) }
    @usableFromInline func wait(seconds: Double) {
        var deadline = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &deadline)
        let nanoseconds = deadline.tv_nsec + Int(min(max(0, seconds), 3600) * 1e9)
        deadline.tv_sec += nanoseconds / 1_000_000_000
        deadline.tv_nsec = nanoseconds % 1_000_000_000
        unsafe pthread_cond_timedwait(condition, mutex, &deadline)
    }
}

/// Seconds since some start, never set back.
public func monotonicSeconds() -> Double {
    var now = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &now)
    return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
}
