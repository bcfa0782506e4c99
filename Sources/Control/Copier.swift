internal import Catalogue
internal import Disk
public import Store
public import System

/// Makes copies of disks, whoever has them.
public struct Copier {
    private let store: Store

    public init(_ store: Store) { self.store = store }

    /// Seconds in which a server has to answer.
    private static let patience = 2.0
    /// Seconds in which it has to have copied what was staged.
    private static let patienceToCommit = 30.0
    /// Times that several servers are asked to hold still at once.
    private static let tries = 3

    /// Copies of disks, in their order, all as of one moment: each has all writes that were answered before this was called, and none that began
    /// after it returned.
    /// - Parameters:
    ///   - names: of disks, each once, or snapshots.
    ///   - owner: for whom the copy is kept; nil: they go with this process.
    /// - Throws: `.notFound`; `.busy` when the process that has a disk does not answer.
    public func copies(of names: [String], keptFor owner: String? = nil) throws(Failure) -> [Copy] {
        var failure: Failure?
        for _ in 0..<Self.tries {
            do throws(Failure) {
                return try copiesOnce(of: names, owner)
            } catch where error.kind == .busy && names.count > 1 {
                failure = error
                // Two that ask for the same at once should not meet again.
                pause(milliseconds: .random(in: 20...200))
            }
        }
        throw failure ?? Failure(.busy, "copy", .store(store.path), "its disks are in use")
    }

    /// A copy of a disk or a snapshot.
    public func copy(of name: String, keptFor owner: String? = nil) throws(Failure) -> Copy {
        guard let copy = try copies(of: [name], keptFor: owner).first else { throw store.noSuchDisk(name) }
        return copy
    }

    /// Gives copies their names, all or none.
    public func name(_ copies: [Copy], _ names: [CopyName]) throws(Failure) {
        var isDone = false
        defer { if !isDone { for copy in copies { copy.remove() } } }
        try store.name(zip(copies, names).map { ($0.name, $1) })
        isDone = true
    }

    private func copiesOnce(of names: [String], _ owner: String?) throws(Failure) -> [Copy] {
        var copies: [Copy] = []
        var isDone = false
        defer { if !isDone { for copy in copies { copy.remove() } } }
        // Locks of those that nobody writes to, and conversations with those that have the others.
        var still = Locks()
        var idle: [(copy: String, disk: String)] = []
        var asked: [Conversation] = []
        for name in names {
            let copy = try Copy(store, keptFor: owner)
            copies.append(copy)
            // Whoever has it to write to listens.
            if let conversation = try Conversation(store, name, copy.name) {
                asked.append(conversation)
            } else {
                try still.append(StoreDisk.takeInJournal(of: name, store))
                idle.append((copy.name, name))
            }
        }
        if asked.count == 1, idle.isEmpty {
            asked[0].say("copy \(asked[0].copy)")
            try asked[0].expect("copying", until: monotonicSeconds() + Self.patience)
        } else {
            let end = monotonicSeconds() + Self.patience
            // All at once: each holds still for a tenth of a second at most.
            for conversation in asked { conversation.say("hold \(conversation.copy)") }
            for conversation in asked { try conversation.expect("held", until: end) }
            for conversation in asked { conversation.say("go") }
            for conversation in asked { try conversation.expect("copying", until: end) }
        }
        if !idle.isEmpty { try store.fill(idle) }
        let end = monotonicSeconds() + Self.patienceToCommit
        for conversation in asked { try conversation.expect("copied", until: end) }
        still.release()
        isDone = true
        return copies
    }

    /// Locks that are held.
    private struct Locks: ~Copyable {
        private final class Held {
            let lock: DiskLock
            init(_ lock: consuming DiskLock) { self.lock = lock }
        }
        private var held: [Held] = []
        mutating func append(_ lock: consuming DiskLock) { held.append(Held(lock)) }
        mutating func release() { held.removeAll() }
    }

    /// A conversation with the process that has a disk.
    private struct Conversation {
        let disk, copy: String
        let socket: LocalSocket

        /// Nil: nobody listens.
        init?(_ store: Store, _ name: String, _ copy: String) throws(Failure) {
            guard let record = try store.disk(name) else { throw store.noSuchDisk(name) }
            guard let socket = try LocalSocket.connect(to: store.controlPath(of: record.number)) else { return nil }
            self.socket = socket
            self.copy = copy
            disk = name
        }

        /// Whether it is gone shows when it should answer.
        func say(_ line: String) { _ = socket.send(line) }

        func expect(_ answer: String, until end: Double) throws(Failure) {
            switch socket.receive(within: end - monotonicSeconds()) {
            case .line(answer): return
            case .line("thawed"): throw failure("it could not hold still long enough", remedy: "try again")
            case .line(let line): throw failure(line.hasPrefix("failed ") ? String(line.dropFirst(7)) : line)
            case .closed: throw failure("it has gone", remedy: "try again")
            case .late: throw failure("it does not answer", remedy: "see whether it is stopped" + (socket.peer > 0 ? ": kill -CONT \(socket.peer)" : ""))
            }
        }

        private func failure(_ why: String, remedy: String? = nil) -> Failure {
            Failure(.busy, "copy", .disk(disk), "\(holder) has it, and \(why)", remedy: remedy)
        }

        private var holder: String { socket.peer > 0 ? "process \(socket.peer)" : "a process of another container" }
    }
}
