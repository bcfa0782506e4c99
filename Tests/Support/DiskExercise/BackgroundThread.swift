import Glibc
import System

/// A thread that runs one function, and whose result can be waited for. (A task would take one of a few pool threads,
/// and what runs here waits in `poll`.)
public final class BackgroundThread<Value: Sendable>: Sendable {
    private let result: Monitor<Value?>

    public init(_ body: @escaping @Sendable () -> Value) {
        let result = Monitor<Value?>(nil)
        self.result = result
        let work = Work {
            let value = body()
            result.with { $0 = value }
            result.notify()
        }
        var thread = pthread_t()
        let context = unsafe Unmanaged.passRetained(work).toOpaque()
        let code = unsafe pthread_create(
            &thread, nil,
            { context in
                if let context = unsafe context { unsafe Unmanaged<Work>.fromOpaque(context).takeRetainedValue().body() }
                return nil
            }, context)
        precondition(code == 0, "no thread")
        pthread_detach(thread)
    }

    public var hasEnded: Bool { result.with { $0 != nil } }

    /// The result; nil when there is none within `milliseconds`.
    public func join(milliseconds: Int = 120_000) -> Value? {
        let deadline = monotonicSeconds() + Double(milliseconds) / 1000
        return result.wait { value in
            if let value { return .done(value) }
            let left = deadline - monotonicSeconds()
            return left > 0 ? .atMost(left) : .done(nil)
        }
    }
}

private final class Work: Sendable {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
}
