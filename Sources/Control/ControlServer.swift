public import Activity
public import Disk
internal import Synchronization
public import Store
internal import System

/// Answers what other processes ask the one that has a disk to write to. Beside the disk's journal, whose lock says who may, lies a socket:
/// whoever may write to the store may connect to it. Lines are asked and answered:
///
///     copy NAME     copying, and then copied     a copy that was begun has what the disk has at the moment of the first answer
///     hold NAME     held                         no write is answered, for a tenth of a second at most, until:
///       go          copying, and then copied     as above, as of the moment at which it was held
///                   thawed                       it took too long, and nothing is copied
///     figures       figures JSON             what it does at the moment (`LiveFigures`)
///     anything      failed WHY                   it can't be done
///
/// Either side may end at any instant: the disk stays as it is, and a copy is left that nobody has the lock of, which is removed like other leftovers.
public final class ControlServer: Sendable {
    private let disk: StoreDisk
    private let activity: Activity
    private let socket: LocalSocket
    private let path: String
    private let connections = Mutex(Connections())
    private let listener = Mutex<Thread?>(nil)

    /// When writers may be held again: seconds of the monotonic clock; nil: they are held.
    private let nextHold = Mutex<Double?>(0)

    private struct Connections {
        var open: [Connection] = []
        var isStopping = false
    }

    private struct Connection {
        let client: LocalSocket
        let thread: Thread
        /// Its thread is about to end.
        var isOver = false
    }

    /// Connections at a time; further ones are closed at once.
    private static let most = 16
    /// Seconds for which writers are held.
    public static let longestHold = 0.1
    /// Seconds for which a line is waited for.
    private static let patience = 10.0

    /// Listens for a disk that this process has to write to, until that is closed. Where it can't, the disk is served all the same.
    /// - Parameter activity: notes what is done for the disk's guest or clients.
    public static func start(for disk: StoreDisk, of store: Store, _ activity: Activity = Activity()) {
        do throws(Failure) {
            let server = try ControlServer(disk, of: store, activity)
            disk.beforeClosing { server.stop() }
        } catch {
            store.events.tell(.control, .disk(disk.name), "snapshots of it are refused while it is in use, as its socket can't be made", because: error)
        }
    }

    private init(_ disk: StoreDisk, of store: Store, _ activity: Activity) throws(Failure) {
        self.disk = disk
        self.activity = activity
        path = store.controlPath(of: disk.number)
        // A process that had the disk before, and was killed, may have left one.
        File.removeSocket(path)
        socket = try LocalSocket.listen(at: path)
        let thread = try Thread("control") { [self] in listen() }
        listener.withLock { $0 = thread }
    }

    private func listen() {
        while let client = socket.accept() {
            let over = connections.withLock { connections in
                defer { connections.open.removeAll(where: \.isOver) }
                return connections.open.filter(\.isOver)
            }
            for connection in over { connection.thread.join() }
            connections.withLock { connections in
                guard !connections.isStopping, connections.open.count < Self.most else { return client.shutdown() }
                // Without a thread, whoever asks is sent away.
                guard let thread = try? Thread("control", { self.serve(client) }) else { return client.shutdown() }
                connections.open.append(Connection(client: client, thread: thread))
            }
        }
    }

    private func stop() {
        File.removeSocket(path)
        socket.shutdown()
        listener.withLock { $0.take() }?.join()
        let open = connections.withLock { connections in
            connections.isStopping = true
            return connections.open
        }
        for connection in open {
            connection.client.shutdown()
            connection.thread.join()
        }
    }

    private func serve(_ client: LocalSocket) {
        while case .line(let line) = client.receive(within: Self.patience), answer(line, client) {}
        client.shutdown()
        connections.withLock { connections in
            for index in connections.open.indices where connections.open[index].client === client { connections.open[index].isOver = true }
        }
    }

    /// - Returns: whether the other end is still there.
    private func answer(_ line: String, _ client: LocalSocket) -> Bool {
        let words = line.split(separator: " ", maxSplits: 1).map(String.init)
        do throws(Failure) {
            switch (words.first, words.count) {
            case ("copy", 2): return try copy(to: words[1], client) { true }
            case ("hold", 2): return try hold(words[1], client)
            case ("figures", 1): return client.send(LiveFigures(disk, activity).line.map { "figures \($0)" } ?? "failed they can't be told")
            default: return client.send("failed it asks for what this program does not know")
            }
        } catch {
            return client.send("failed \(error)")
        }
    }

    /// Holds writers until the client says so. Between two times they have ten times as long to themselves.
    private func hold(_ name: String, _ client: LocalSocket) throws(Failure) -> Bool {
        let mayHold = nextHold.withLock { next in
            guard let time = next, time <= monotonicSeconds() else { return false }
            next = nil
            return true
        }
        guard mayHold else { return client.send("thawed") }
        var held = 0.0
        defer { nextHold.withLock { $0 = monotonicSeconds() + 10 * held } }
        return try copy(to: name, client) {
            let began = monotonicSeconds()
            defer { held = monotonicSeconds() - began }
            return client.send("held") && client.receive(within: Self.longestHold) == .line("go")
        }
    }

    private func copy(to name: String, _ client: LocalSocket, when isWanted: () -> Bool) throws(Failure) -> Bool {
        guard try disk.copy(to: name, when: isWanted) else { return client.send("thawed") }
        guard client.send("copying") else { return false }
        try disk.finishCopy(name)
        return client.send("copied")
    }
}
