internal import CLinux
internal import Glibc

/// A POSIX thread: data paths block in system calls, and LMDB's write transactions belong to one, so tasks won't do.
@safe
public struct Thread: Sendable {
    private let handle: pthread_t

    /// - Parameter name: what top(1) and a debugger call it: pthread_setname_np(3), 15 bytes at most.
    public init(_ name: StaticString, _ body: @escaping @Sendable () -> Void) throws(Failure) {
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
        unsafe clinux_name_thread(handle, name.utf8Start)
        self.handle = handle
    }

    /// Waits for its end.
    public func join() { pthread_join(handle, nil) }
}
