internal import BlockModel
internal import Glibc

/// A value behind a mutex, with a condition to wait for (pthread_mutex_lock(3), pthread_cond_timedwait(3)).
/// Swift's own `Mutex` has no condition.
@safe
final class Monitor<State>: @unchecked Sendable {
    private var state: State
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let condition: UnsafeMutablePointer<pthread_cond_t>

    init(_ state: State) {
        self.state = state
        unsafe mutex = .allocate(capacity: 1)
        unsafe condition = .allocate(capacity: 1)
        unsafe pthread_mutex_init(mutex, nil)
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

    func withLock<Result>(_ body: (inout State) throws(Failure) -> Result) throws(Failure) -> Result {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        return try body(&state)
    }

    /// Wakes every waiter; to be called after a change that one of them may wait for.
    func notify() { unsafe pthread_cond_broadcast(condition) }

    /// Calls `body` until it says how the wait ended. Between calls waits for a `notify`, or for as many
    /// seconds as `body` says.
    func wait<Result>(_ body: (inout State) throws(Failure) -> Wait<Result>) throws(Failure) -> Result {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        while true {
            switch try body(&state) {
            case .done(let result): return result
            case .notified: unsafe pthread_cond_wait(condition, mutex)
            case .atMost(let seconds):
                var deadline = timespec()
                unsafe clock_gettime(CLOCK_MONOTONIC, &deadline)
                let nanoseconds = deadline.tv_nsec + Int(seconds * 1e9)
                deadline.tv_sec += nanoseconds / 1_000_000_000
                deadline.tv_nsec = nanoseconds % 1_000_000_000
                unsafe pthread_cond_timedwait(condition, mutex, &deadline)
            }
        }
    }
}

/// What a waiter wants.
enum Wait<Result> {
    case done(Result)
    case notified
    /// Seconds.
    case atMost(Double)
}

/// Seconds since some start, never set back.
func monotonicSeconds() -> Double {
    var now = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &now)
    return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
}
