import Activity
import DiskExercise
import Glibc
import Serve
import Synchronization
import System
import Testing
import TestSupport

/// A disk that is served on a socket, until the end of a test.
final class ServedDisk {
    let scratch: ScratchDirectory
    let path: String
    private let stop: StopRequest
    private let thread: ServerThread
    private let lines = Lines()
    /// What is noted of the requests.
    let activity = Activity()

    init(
        _ disk: SharedDisk, name: String = "gold", maximumConnections: Int = 64, handshakeLimit: Duration = .seconds(30),
        patience: Duration = .seconds(10)
    ) throws {
        scratch = try ScratchDirectory()
        path = scratch.path + "/socket"
        let listener = try NBDListener(.unix(path: path))
        stop = try StopRequest()
        thread = ServerThread(
            disk, name: name, on: listener, stop, maximumConnections: maximumConnections, handshakeLimit: handshakeLimit,
            patience: patience, activity: activity, log: { [lines] in lines.append($0) })
    }

    deinit {
        stop.send()
        stop.send()
        _ = thread.outcome()
    }

    /// What the server has logged.
    var log: [String] { lines.all }

    func client() throws -> Client { try Client(path: path) }

    /// A client that has chosen the disk.
    func connected(isStructured: Bool = true) throws -> Client {
        let client = try client()
        try client.negotiate("", isStructured: isStructured)
        return client
    }

    func askForEnd() { stop.send() }

    /// The outcome; nil: it takes too long.
    func outcome() -> NBDOutcome? { thread.outcome() }
}

/// A server's thread.
final class ServerThread {
    private let thread: BackgroundThread<NBDOutcome>

    init(
        _ disk: SharedDisk, name: String = "gold", on listener: consuming NBDListener, _ stop: StopRequest, maximumConnections: Int = 64,
        handshakeLimit: Duration = .seconds(30), patience: Duration = .seconds(10), activity: Activity = Activity(),
        log: @escaping @Sendable (String) -> Void = { _ in }
    ) {
        let handover = Handover(
            NBDServer(
                disk, name: name, on: listener, stop: stop, maximumConnections: maximumConnections, handshakeLimit: handshakeLimit,
                patience: patience, activity: activity, log: log))
        thread = BackgroundThread { handover.run() }
    }

    /// nil: it takes too long.
    func outcome() -> NBDOutcome? { thread.join() }
}

/// Takes what can't be copied into a thread; to be run once.
private final class Handover: @unchecked Sendable {
    private var server: NBDServer<SharedDisk>?
    init(_ server: consuming NBDServer<SharedDisk>) { self.server = consume server }
    func run() -> NBDOutcome {
        guard let server = server.take() else { return .forced }
        return server.run()
    }
}

/// A point that so many threads pass together, again and again.
final class Rendezvous: Sendable {
    private let count: Int
    private let arrived = Atomic(0)
    init(_ count: Int) { self.count = count }
    func meet() {
        let (_, place) = arrived.add(1, ordering: .sequentiallyConsistent)
        let goal = (place - 1) / count * count + count
        while arrived.load(ordering: .sequentiallyConsistent) < goal { usleep(200) }
    }
}

private final class Lines: Sendable {
    private let text = Mutex<[String]>([])
    var all: [String] { text.withLock { $0 } }
    func append(_ line: String) { text.withLock { $0.append(line) } }
}
