internal import Glibc

/// A POSIX thread, for what waits or has to stay on one thread: LMDB's write transactions belong to one, so tasks won't do.
@safe
public struct Thread: Sendable {
    private let handle: pthread_t

    public init(_ body: @escaping @Sendable () -> Void) throws(Failure) {
        final class Box: Sendable {
            let body: @Sendable () -> Void
            init(_ body: @escaping @Sendable () -> Void) { self.body = body }
        }
        var handle = pthread_t()
        let box = unsafe Unmanaged.passRetained(Box(body))
        let code = unsafe pthread_create(&handle, nil, { argument in
            if let argument = unsafe argument { unsafe Unmanaged<Box>.fromOpaque(argument).takeRetainedValue().body() }
            return nil
        }, box.toOpaque())
        guard code == 0 else {
            unsafe box.release()
            throw Failure(systemCall: "start", "a thread", errno: code)
        }
        self.handle = handle
    }

    /// Waits for its end.
    public func join() { pthread_join(handle, nil) }
}
