import Glibc
import Synchronization

/// Two benchmarks that run at the same time, and measure by turns: what else the machine does meets both, a row of one and the same row
/// of the other a moment later. While one has its turn, the other waits. Whoever started them (`Against`) hands the turns out.
enum Turns {
    /// The inherited socket to whoever hands the turns out.
    private static let socket: Int32 = 3
    private static let areTaken = Atomic(false)

    /// From now on: waits for the first turn.
    static func begin() {
        // The agents and servers of a measurement have nothing to do with it.
        _ = fcntl(socket, F_SETFD, FD_CLOEXEC)
        areTaken.store(true, ordering: .relaxed)
        wait()
    }

    /// Ends this turn, and waits for the next one.
    static func pass() {
        guard areTaken.load(ordering: .relaxed) else { return }
        var byte: UInt8 = 0
        guard send(socket, &byte, 1, Int32(MSG_NOSIGNAL)) == 1 else { return end() }
        wait()
    }

    private static func wait() {
        var byte: UInt8 = 0
        if recv(socket, &byte, 1, 0) != 1 { end() }
    }

    /// There is nobody any more who hands them out, or wants a result.
    private static func end() {
        say("whoever handed out the turns is gone")
        exit(1)
    }
}
