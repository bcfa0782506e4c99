import Glibc
import Synchronization

/// A thread that runs one function, and whose result can be waited for. (A task would take one of a few pool threads,
/// and what runs here waits in `poll`.)
public final class BackgroundThread<Value: Sendable>: Sendable {
    private let result: Result

    private final class Result: Sendable {
        let value = Mutex<Value?>(nil)
    }

    public init(_ body: @escaping @Sendable () -> Value) {
        let result = Result()
        self.result = result
        let work = Work {
            let value = body()
            result.value.withLock { $0 = value }
        }
        var thread = pthread_t()
        let context = unsafe Unmanaged.passRetained(work).toOpaque()
        let code = unsafe pthread_create(&thread, nil, { context in
            if let context = unsafe context { unsafe Unmanaged<Work>.fromOpaque(context).takeRetainedValue().body() }
            return nil
        }, context)
        precondition(code == 0, "no thread")
        pthread_detach(thread)
    }

    /// The result; nil when there is none within `milliseconds`.
    public func join(milliseconds: Int = 20_000) -> Value? {
        let deadline = ContinuousClock.now + .milliseconds(milliseconds)
        while ContinuousClock.now < deadline {
            if let value = result.value.withLock({ $0 }) { return value }
            usleep(500)
        }
        return nil
    }
}

private final class Work: Sendable {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
}
