public import Activity
public import BlockModel
import Glibc
import NBD
import Synchronization
internal import System

/// How the serving of a disk over NBD ended. Neither way is an error.
public enum NBDOutcome: Sendable {
    /// On request. No call to the disk is at work.
    case stopped
    /// On a second request, without waiting for calls to the disk: it must not be closed.
    case forced
}

/// Serves one disk to NBD clients: a thread that accepts them, and one for each.
public struct NBDServer<Device: BlockDevice>: ~Copyable {
    private let device: FailStop<Device>
    private let export: Export
    /// Nil once no more clients are accepted.
    private var listener: NBDListener?
    private let stop: StopRequest
    private let common: NBDCommon
    private let maximumConnections: Int
    private let patience: Duration
    private var connections: [Connection] = []

    /// - Parameters:
    ///   - name: what clients call the disk; the empty name is the disk, too.
    ///   - stop: ends `run`.
    ///   - maximumConnections: a client that comes when there are so many is cut off at once.
    ///   - handshakeLimit: how long a client may take for the handshake.
    ///   - patience: how long clients may take to accept their answers once the end was asked for.
    ///   - activity: notes what is done for clients.
    ///   - log: takes a line for people; 20 in ten seconds, the rest is counted.
    public init(
        _ disk: Device, name: String, on listener: consuming NBDListener, stop: StopRequest, maximumConnections: Int = 64,
        handshakeLimit: Duration = .seconds(30), patience: Duration = .seconds(10), activity: Activity = Activity(), log: @escaping @Sendable (String) -> Void
    ) {
        device = FailStop(disk)
        export = Export(name: name, byteCount: disk.byteCount, isReadOnly: disk.isReadOnly)
        self.listener = consume listener
        self.stop = stop
        self.maximumConnections = maximumConnections
        self.patience = patience
        common = NBDCommon(handshakeLimit: handshakeLimit, activity, log: log)
    }

    /// Accepts clients until `stop` asks to end; then has the requests at work finished, and cuts the clients off. Does not close the disk.
    public consuming func run() -> NBDOutcome {
        device.allowWaiting(true)
        while true {
            let isCrowded = !acceptSome()
            var entries = [stop.descriptor, listener?.descriptor ?? -1].map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            // Clients wait who can't be accepted, as there are no descriptors or no memory: the listener would be readable all the time.
            _ = unsafe poll(&entries, isCrowded ? 1 : 2, isCrowded ? 100 : Int32(common.log.intervalSeconds * 1000))
            let requests = stop.take()
            if requests > 0 {
                // Connections that are left behind keep it.
                let log = common.log
                defer { log.tellMissed(atEnd: true) }
                return finish(isForced: requests > 1)
            }
            common.log.tellMissed()
        }
    }

    /// Accepts some of those that wait: a flood of them must not hide the request to stop. False: there is nothing to accept them with.
    private mutating func acceptSome() -> Bool {
        do throws(Failure) {
            for _ in 0..<64 {
                guard let socket = try listener?.accept() else { break }
                connections.removeAll { $0.hasEnded }
                guard connections.count < maximumConnections else {
                    common.log("a client was sent away: there are \(connections.count) connections")
                    continue
                }
                connections.append(
                    try Connection(socket) { [device, export, common] in
                        var connection = NBDConnection(device, export, common, socket)
                        connection.run()
                    })
            }
            return true
        } catch {
            common.log("\(error)")
            return false
        }
    }

    /// Ends all connections: each when it has done what it has begun, and after `patience` also those whose clients do not take
    /// their answers. On a second request all are cut off at once, and calls to the disk get one more second.
    private consuming func finish(isForced: Bool) -> NBDOutcome {
        common.stop()
        device.allowWaiting(false)
        listener = nil
        var isForced = isForced
        shutDown(onlyIncoming: !isForced)
        var deadline = ContinuousClock.now + (isForced ? forcedPatience : patience)
        while true {
            connections.removeAll { $0.hasEnded }
            if connections.isEmpty { return .stopped }
            var entry = pollfd(fd: stop.descriptor, events: Int16(POLLIN), revents: 0)
            // The end of a thread is no event.
            _ = unsafe poll(&entry, 1, 10)
            if stop.take() > 0, !isForced {
                isForced = true
                shutDown(onlyIncoming: false)
                deadline = ContinuousClock.now + forcedPatience
            }
            if ContinuousClock.now >= deadline {
                if isForced { return .forced }
                shutDown(onlyIncoming: false)
            }
        }
    }

    private func shutDown(onlyIncoming: Bool) {
        for connection in connections { connection.socket.shutdown(onlyIncoming: onlyIncoming) }
    }
}

/// How long calls to the disk may take when nobody wants to wait for them.
private let forcedPatience = Duration.seconds(1)

/// What the connections of a server share.
final class NBDCommon: Sendable {
    let log: LogLimiter
    let activity: Activity
    let handshakeLimit: Duration
    /// As many as one transfer has at most; made when they are first wanted.
    static let zeros = [UInt8](repeating: 0, count: largestPiece)
    private let stopping = Atomic(false)

    init(handshakeLimit: Duration, _ activity: Activity = Activity(), log: @escaping @Sendable (String) -> Void) {
        self.handshakeLimit = handshakeLimit
        self.activity = activity
        self.log = LogLimiter(log)
    }

    /// From now on, no connection takes more from its client.
    func stop() { stopping.store(true, ordering: .relaxed) }
    var isStopping: Bool { stopping.load(ordering: .relaxed) }
}

/// A connection's thread, seen from the one that accepts.
private final class Connection {
    let socket: Socket
    private let thread: Thread
    private let end = End()

    private final class End: Sendable {
        let isReached = Atomic(false)
    }

    /// Runs `body` on a thread of its own, and closes the socket then.
    init(_ socket: Socket, _ body: @escaping @Sendable () -> Void) throws(Failure) {
        self.socket = socket
        thread = try Thread("nbd") { [end] in
            StopRequest.leaveSignalsToOthers()
            body()
            socket.close()
            end.isReached.store(true, ordering: .releasing)
        }
    }

    /// True when the thread is gone: it was joined.
    var hasEnded: Bool {
        guard end.isReached.load(ordering: .acquiring) else { return false }
        thread.join()
        return true
    }
}
