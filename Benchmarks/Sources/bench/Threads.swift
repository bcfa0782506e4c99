import Glibc
import Synchronization
import System

/// Runs `body` on `count` threads at once, with the numbers 0..<count, and waits for all of them.
/// - Throws: what the first that failed threw. With one thread, that is the caller's.
func onThreads<Result: Sendable>(_ count: Int, _ body: @escaping @Sendable (Int) throws -> Result) throws -> [Result] {
    guard count > 1 else { return [try body(0)] }
    let results = Results<Result>()
    let threads = try (0..<count).map { number in
        try start {
            let result = Swift.Result { try body(number) }
            results.all.withLock { $0[number] = result }
        }
    }
    for thread in threads { pthread_join(thread, nil) }
    return try results.all.withLock { results in try (0..<count).compactMap { try results[$0]?.get() } }
}

/// Starts a thread, which is to be joined.
func start(_ body: @escaping @Sendable () -> Void) throws -> pthread_t {
    var thread = pthread_t()
    let work = Unmanaged.passRetained(Work(body))
    let code = pthread_create(
        &thread, nil,
        { context in
            if let context { Unmanaged<Work>.fromOpaque(context).takeRetainedValue().body() }
            return nil
        }, work.toOpaque())
    guard code == 0 else {
        work.release()
        throw Failure(systemCall: "start", "a thread", errno: code)
    }
    return thread
}

private final class Results<Result: Sendable>: Sendable {
    let all = Mutex<[Int: Swift.Result<Result, any Error>]>([:])
}

private final class Work: Sendable {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
}
