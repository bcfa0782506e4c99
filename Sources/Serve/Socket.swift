import Glibc
import Synchronization
import System

/// A connected stream socket. One thread transfers; any other may end that with `shutdown`.
///
/// A write to a peer that is gone is an error here, never a SIGPIPE.
final class Socket: Sendable {
    private let descriptor: Int32
    /// Held to close the descriptor, and by other threads to use it: its number may be another file's as soon as it is closed.
    private let isOpen = Mutex(true)

    /// Takes `descriptor`, to be closed with this.
    init(_ descriptor: Int32) { self.descriptor = descriptor }

    deinit { close() }

    /// close(2). Only the thread that transfers may call.
    func close() {
        isOpen.withLock { isOpen in
            if isOpen { _ = Glibc.close(descriptor) }
            isOpen = false
        }
    }

    /// shutdown(2): no more bytes come in, and, unless `onlyIncoming`, none go out. A thread that waits for either wakes up.
    func shutdown(onlyIncoming: Bool) {
        isOpen.withLock { isOpen in
            if isOpen { _ = Glibc.shutdown(descriptor, Int32(onlyIncoming ? SHUT_RD : SHUT_RDWR)) }
        }
    }

    /// recv(2): waits for bytes, and takes as many as there are and fit. 0: there will be no more.
    /// - Parameter deadline: when to give up and return 0; nil: never.
    func receive(into buffer: inout MutableRawSpan, _ spin: inout SpinWait, deadline: ContinuousClock.Instant? = nil) -> Int {
        if let deadline, !waitForBytes(until: deadline) { return 0 }
        // The span is the buffer's only access for the length of the call.
        return unsafe buffer.withUnsafeMutableBytes { bytes in
            var count = 0
            spin.wait(
                look: {
                    unsafe count = recv(descriptor, bytes.baseAddress, bytes.count, Int32(MSG_DONTWAIT))
                    return count >= 0 || (errno != EAGAIN && errno != EINTR)
                },
                sleep: {
                    repeat { unsafe count = recv(descriptor, bytes.baseAddress, bytes.count, 0) } while count < 0 && errno == EINTR
                })
            // Whatever broke the connection, the peer is gone.
            return max(0, count)
        }
    }

    private func waitForBytes(until deadline: ContinuousClock.Instant) -> Bool {
        while true {
            let left = ContinuousClock.now.duration(to: deadline) / .milliseconds(1)
            guard left > 0 else { return false }
            var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            let ready = unsafe poll(&entry, 1, Int32(clamping: Int(left) + 1))
            if ready > 0 { return true }
            if ready < 0, errno != EINTR { return false }
        }
    }

    /// send(2) of all bytes. False: the peer is gone.
    func send(_ bytes: RawSpan) -> Bool {
        // The span outlives the call, and the loop stays within its bounds.
        unsafe bytes.withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress else { return true }
            var done = 0
            while done < bytes.count {
                let count = unsafe Glibc.send(descriptor, base + done, bytes.count - done, Int32(MSG_NOSIGNAL))
                if count < 0, errno != EINTR { return false }
                done += max(0, count)
            }
            return true
        }
    }
}
