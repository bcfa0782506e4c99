public import BlockModel
import Glibc
import Synchronization

/// A request to stop, from a signal or another thread, that wakes who polls `descriptor`. A first request asks to end
/// in order, a second one to end at once.
public final class StopRequest: Sendable {
    /// Readable while there are requests that `take` has not seen.
    public let descriptor: Int32
    private let sender: Int32

    public init() throws(Failure) {
        var ends: (Int32, Int32) = (-1, -1)
        let result = unsafe withUnsafeMutablePointer(to: &ends) {
            unsafe $0.withMemoryRebound(to: Int32.self, capacity: 2) { unsafe pipe($0) }
        }
        guard result == 0 else { throw Failure(.system, "pipe", unsafe String(cString: strerror(errno))) }
        for end in [ends.0, ends.1] {
            // So that neither a signal handler nor the loop can ever wait here.
            _ = fcntl(end, F_SETFL, O_NONBLOCK)
            _ = fcntl(end, F_SETFD, FD_CLOEXEC)
        }
        descriptor = ends.0
        sender = ends.1
    }

    deinit {
        _ = close(descriptor)
        _ = close(sender)
    }

    /// Asks to stop.
    public func send() { Self.send(to: sender) }

    /// Number of requests since the last call.
    public func take() -> Int {
        var bytes: (UInt64, UInt64) = (0, 0)
        return max(0, unsafe read(descriptor, &bytes, MemoryLayout.size(ofValue: bytes)))
    }

    /// Makes SIGINT and SIGTERM send this request. It must live as long as the process.
    public func sendOnSignals() {
        signalSender.store(sender, ordering: .relaxed)
        for number in [SIGINT, SIGTERM] {
            var action = sigaction()
            unsafe action.__sigaction_handler.sa_handler = { _ in
                let interrupted = errno
                StopRequest.send(to: signalSender.load(ordering: .relaxed))
                errno = interrupted
            }
            _ = unsafe sigaction(number, &action, nil)
        }
    }

    /// write(2) of a byte: safe in a signal handler.
    private static func send(to descriptor: Int32) {
        var byte: UInt8 = 1
        _ = unsafe write(descriptor, &byte, 1)
    }
}

/// Where signals go: a handler can't capture anything.
private let signalSender = Atomic<Int32>(-1)
