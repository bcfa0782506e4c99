import Glibc
import System

/// Wakes a thread that polls `descriptor`. Any thread may ring, and so may a signal handler.
final class Doorbell: Sendable {
    /// Readable while there is something to `take`.
    let descriptor: Int32
    /// For `ring` in a signal handler, which can't use an object.
    let sender: Int32

    init() throws(Failure) {
        var ends: (Int32, Int32) = (-1, -1)
        let result = unsafe withUnsafeMutablePointer(to: &ends) {
            unsafe $0.withMemoryRebound(to: Int32.self, capacity: 2) { unsafe pipe($0) }
        }
        guard result == 0 else { throw Failure(systemCall: "make", "a pipe", errno: errno) }
        for end in [ends.0, ends.1] {
            // Neither a signal handler nor who takes may ever wait here.
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

    func ring(_ tone: UInt8 = 1) { Self.ring(sender, tone) }

    /// write(2) of a byte: safe in a signal handler.
    static func ring(_ sender: Int32, _ tone: UInt8) {
        var byte = tone
        _ = unsafe write(sender, &byte, 1)
    }

    /// The tones that were rung since the last call, 16 at most: further ones are left, and `descriptor` stays readable.
    @discardableResult
    func take() -> [UInt8] {
        unsafe [UInt8](unsafeUninitializedCapacity: 16) { bytes, count in
            count = max(0, unsafe read(descriptor, bytes.baseAddress, 16))
        }
    }
}
