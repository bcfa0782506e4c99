internal import CLinux
internal import Glibc

/// A POSIX thread: data paths block in system calls, and LMDB's write transactions belong to one, so tasks won't do.
@safe
public struct Thread: Sendable {
    private let handle: pthread_t

    /// - Parameters:
    ///   - name: what top(1) and a debugger call it: pthread_setname_np(3), 15 bytes at most.
    ///   - niceness: how far it gives way to others where processors are few: nice(2), which on Linux is of a thread.
    public init(_ name: StaticString, niceness: Int32 = 0, _ body: @escaping @Sendable () -> Void) throws(Failure) {
        final class Box: Sendable {
            let niceness: Int32
            let body: @Sendable () -> Void
            init(_ niceness: Int32, _ body: @escaping @Sendable () -> Void) {
                self.niceness = niceness
                self.body = body
            }
            func run() {
                if niceness != 0 { _ = nice(niceness) }
                body()
            }
        }
        var handle = pthread_t()
        let box = unsafe Unmanaged.passRetained(Box(niceness, body))
        let code = unsafe pthread_create(
            &handle, nil,
            { argument in
                if let argument = unsafe argument { unsafe Unmanaged<Box>.fromOpaque(argument).takeRetainedValue().run() }
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

/// Has a stop from the terminal (Ctrl-Z, SIGTSTP) wait until this process holds no lock that other processes wait for. For the
/// start of a program.
public func deferTerminalStops() { clinux_defer_stops() }

/// Sleeps: usleep(3).
public func pause(milliseconds: Int) { usleep(useconds_t(clamping: milliseconds * 1000)) }
