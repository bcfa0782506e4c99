import FuzzDriver
import Glibc
import System

/// The client's end of connections, one after the other: a thread that sends what it is told and takes the answers.
final class ClientThread: Sendable {
    private let turn = Monitor(Turn())

    private struct Turn {
        var job: (descriptor: Int32, deeds: Deeds)?
        var received: [UInt8]?
    }

    init() throws(Failure) {
        _ = try Thread("client") { [turn] in
            while true {
                let job = turn.wait { turn in turn.job.take().map { .done($0) } ?? .notified }
                let received = play(job.deeds, on: job.descriptor)
                close(job.descriptor)
                turn.with { $0.received = received }
                turn.notify()
            }
        }
    }

    /// Takes the descriptor of a connected socket.
    func begin(_ descriptor: Int32, _ deeds: Deeds) {
        turn.with { $0.job = (descriptor, deeds) }
        turn.notify()
    }

    /// All that was received, once the connection has ended.
    func finish() -> [UInt8] {
        turn.wait { turn in turn.received.take().map { .done($0) } ?? .notified }
    }
}

private func play(_ deeds: Deeds, on descriptor: Int32) -> [UInt8] {
    var line = Line(descriptor: descriptor, takesAnswers: !deeds.vanishes)
    var done = 0
    for pause in deeds.pauses {
        line.send(deeds.bytes, done..<pause)
        line.waitUntilTaken()
        done = pause
    }
    line.send(deeds.bytes, done..<deeds.bytes.count)
    guard !deeds.vanishes else { return [] }
    shutdown(descriptor, Int32(SHUT_WR))
    while line.receive(flags: 0) {}
    return line.received
}

private struct Line {
    let descriptor: Int32
    let takesAnswers: Bool
    private(set) var received: [UInt8] = []
    private var isEnded = false
    private var buffer = [UInt8](repeating: 0, count: 64 << 10)

    init(descriptor: Int32, takesAnswers: Bool) {
        self.descriptor = descriptor
        self.takesAnswers = takesAnswers
    }

    /// Takes some of what the server has sent. False: there is nothing, or nothing more will come.
    mutating func receive(flags: Int32) -> Bool {
        let count = recv(descriptor, &buffer, buffer.count, flags)
        if count == 0 || count < 0 && errno != EAGAIN { isEnded = true }
        if count > 0 { received += buffer.prefix(count) }
        return count > 0
    }

    /// Sends a part, unless the server ends the connection before.
    mutating func send(_ bytes: [UInt8], _ range: Range<Int>) {
        var done = range.lowerBound
        while done < range.upperBound, !isEnded {
            let count = bytes.withUnsafeBytes {
                Glibc.send(descriptor, $0.baseAddress.map { $0 + done }, range.upperBound - done, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
            }
            if count > 0 { done += count } else if errno == EAGAIN { wait() } else { isEnded = true }
        }
    }

    /// Waits until the server has received all that was sent.
    mutating func waitUntilTaken() {
        // A server that waits for a client which takes nothing takes nothing either.
        guard takesAnswers else { return }
        var left: Int32 = 1
        while !isEnded {
            require(ioctl(descriptor, UInt(TIOCOUTQ), &left) == 0, "no length of a queue")
            if left == 0 { return }
            while receive(flags: Int32(MSG_DONTWAIT)) {}
            var entry = pollfd(fd: descriptor, events: 0, revents: 0)
            if poll(&entry, 1, 0) > 0 { isEnded = true }
            sched_yield()
        }
    }

    /// Waits until there is room to send, or something to take.
    private mutating func wait() {
        var entry = pollfd(fd: descriptor, events: Int16(takesAnswers ? POLLOUT | POLLIN : POLLOUT), revents: 0)
        if poll(&entry, 1, takesAnswers ? -1 : 10) == 0 { isEnded = true }
        if takesAnswers { while receive(flags: Int32(MSG_DONTWAIT)) {} }
    }
}
