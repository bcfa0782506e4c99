import CXen
import Glibc
public import System
public import XenBus

/// A Xen machine within this process: domains with pages, grants and event channels, and a xenstore. `SimulatedXen`
/// is how a process sees it, `SimulatedGuest` how a guest does.
@safe public final class SimulatedMachine: Sendable {
    let state: Monitor<State>
    let memory: SimulatedMemory
    /// Readable when a process that was nudged has taken an event.
    private let takenSignal: Int32

    /// A machine with a domain 0 and room for `pageLimit` pages, which take memory once they are used.
    public init(pageLimit: Int = 65536) throws(Failure) {
        let file = cxen_memory_file()
        guard file >= 0, ftruncate(file, pageLimit * xenPageSize) == 0 else {
            throw Failure(.system, "make", "the memory of a simulated machine", systemError(errno))
        }
        let signal = cxen_event_descriptor()
        guard signal >= 0 else { throw Failure(.system, "make", "an eventfd", systemError(errno)) }
        memory = try SimulatedMemory(file: file)
        takenSignal = signal
        state = Monitor(State(takenSignal: signal))
        addDomain(0, name: "Domain-0", uuid: "00000000-0000-0000-0000-000000000000")
    }

    deinit {
        _ = close(memory.file)
        _ = close(takenSignal)
    }

    /// Does what the toolstack does when a domain starts.
    func addDomain(_ id: DomainID, name: String, uuid: String) {
        state.with { state in
            state.domains[id] = State.Domain()
            let home = "/local/domain/\(id)"
            state.write(home, nil)
            state.changeStore { tree throws(StoreRefusal) in try tree.setPermissions(home, owner: 0, readers: [id], as: 0) }
            for (key, value) in [("domid", "\(id)"), ("name", name), ("vm", "/vm/\(uuid)")] {
                state.write("\(home)/\(key)", Array(value.utf8))
            }
            state.fire("@introduceDomain")
        }
    }

    /// Does what the hypervisor and the toolstack do at `xl destroy`: the domain's part of the xenstore, its grants
    /// and its event channels are gone. Pages that somebody has mapped stay until they are unmapped.
    public func destroy(_ id: DomainID) {
        state.with { state in
            guard let domain = state.domains[id], domain.isAlive else { return }
            for port in domain.ports.keys { state.close(State.End(domain: id, port: port)) }
            state.domains[id]?.isAlive = false
            state.domains[id]?.grants = [:]
            state.changeStore { tree throws(StoreRefusal) in try tree.remove("/local/domain/\(id)", as: 0) }
            state.fire("@releaseDomain")
        }
    }

    /// Gives a process a watch event that means nothing and, if `channels` is true, an event on each of its ports, and waits
    /// until all are taken. Called twice, it shows that the process has done all that there was to do: it took the second event after that.
    /// - Returns: false: `isAlive` said that the process has ended.
    public func nudge(_ process: SimulatedXen, channels: Bool, while isAlive: () -> Bool) -> Bool {
        state.with { $0.nudge(process.id, channels: channels) }
        while state.with({ $0.hasEvents(process.id, channels: channels) }) {
            guard isAlive() else { return false }
            var entry = pollfd(fd: takenSignal, events: Int16(POLLIN), revents: 0)
            // The end of the process is no event: it is asked for.
            _ = unsafe poll(&entry, 1, 10)
            var count: eventfd_t = 0
            _ = unsafe eventfd_read(takenSignal, &count)
        }
        return isAlive()
    }

    /// Number of pages of a domain that others have mapped: on Xen, a domain that was destroyed stays as a zombie while there are any.
    public func mappedPageCount(of id: DomainID) -> Int {
        state.with { state in
            state.processes.values.reduce(0) { sum, process in
                sum + process.mappings.values.reduce(0) { $0 + ($1.domain == id ? $1.references.count : 0) }
            }
        }
    }

    /// Number of event channel ports that a domain has open.
    public func openPortCount(of id: DomainID) -> Int {
        state.with { $0.domains[id]?.ports.count ?? 0 }
    }
}

extension SimulatedMachine {
    /// All that changes, behind one lock.
    struct State {
        struct Grant {
            let page: Int
            let grantee: DomainID
        }

        struct Port {
            let owner: Int
            let remoteDomain: DomainID
            var remotePort: EventPort?
            var isPending = false
            var isMasked = false
        }

        struct Domain {
            var isAlive = true
            var grants: [GrantReference: Grant] = [:]
            var nextReference: GrantReference = 8
            var ports: [EventPort: Port] = [:]
        }

        struct End {
            let domain: DomainID
            let port: EventPort
        }

        struct Mapping {
            let domain: DomainID
            let references: [GrantReference]
        }

        /// A process with the xenstore, the grant device and the event channel device open.
        struct Process {
            let domain: DomainID
            /// The process that this is a part of, with event channels of its own: it dies with it.
            var whole: Int?
            /// Another process of this machine has its event channels, and sees nothing of them but their eventfd.
            var isElsewhere = false
            let storeSignal: Int32
            let eventSignal: Int32
            var isAlive = true
            /// Somebody waits, or has waited, until it has taken its events.
            var isAwaited = false
            /// Calls that it may still make before it is killed; nil when there is no limit.
            var remainingCalls: Int?
            var watches: [(path: String, token: String)] = []
            var watchEvents: [WatchEvent] = []
            var pendingPorts: [EventPort] = []
            var transactions: [UInt32: (base: StoreTree, tree: StoreTree)] = [:]
            var mappings: [Int: Mapping] = [:]
        }

        let takenSignal: Int32
        var tree = StoreTree()
        var domains: [DomainID: Domain] = [:]
        var processes: [Int: Process] = [:]
        var nextProcess = 0
        var nextTransaction: UInt32 = 1
        var nextPage = 0

        // MARK: The xenstore

        /// Does a change outside of transactions, and queues events for those who watch it.
        mutating func changeStore(_ change: (inout StoreTree) throws(StoreRefusal) -> Void) {
            tree.beginTracking()
            // A change that is refused changes nothing, and there is nobody to be told.
            try? change(&tree)
            fireChanges(tree.changed)
        }

        /// Domain 0 writes.
        mutating func write(_ path: String, _ value: [UInt8]?) {
            changeStore { tree throws(StoreRefusal) in try tree.write(path, value, as: 0) }
        }

        mutating func fireChanges(_ paths: Set<String>) {
            for path in paths.sorted() { fire(path) }
        }

        /// Queues an event for each watch on `path` or above it.
        mutating func fire(_ path: String) {
            for id in processes.keys {
                guard let process = processes[id], process.isAlive, process.domain == 0 || tree.isReadable(path, by: process.domain)
                else { continue }
                for watch in process.watches where isAt(path, orBelow: watch.path) {
                    queue(WatchEvent(path: path, token: watch.token), for: id)
                }
            }
        }

        private func isAt(_ path: String, orBelow watched: String) -> Bool {
            guard path.hasPrefix(watched) else { return false }
            let rest = path.utf8.dropFirst(watched.utf8.count)
            return rest.isEmpty || rest.first == UInt8(ascii: "/")
        }

        mutating func queue(_ event: WatchEvent, for id: Int) {
            guard let signal = processes[id]?.storeSignal else { return }
            processes[id]?.watchEvents.append(event)
            raise(signal)
        }

        // MARK: Event channels

        mutating func openPort(_ port: Port, in domain: DomainID) -> EventPort? {
            for number in EventPort(1)..<4096 where domains[domain]?.ports[number] == nil {
                domains[domain]?.ports[number] = port
                return number
            }
            return nil
        }

        /// Sets the pending bit of an end, and wakes who has it open.
        mutating func setPending(_ end: End) {
            guard let port = domains[end.domain]?.ports[end.port], !port.isPending else { return }
            if let process = processes[port.owner], process.isElsewhere { return raise(process.eventSignal) }
            domains[end.domain]?.ports[end.port]?.isPending = true
            if !port.isMasked { deliver(end, to: port.owner) }
        }

        mutating func deliver(_ end: End, to owner: Int) {
            guard let process = processes[owner], process.isAlive else { return }
            processes[owner]?.pendingPorts.append(end.port)
            raise(process.eventSignal)
        }

        /// Closes an end. The other one waits for a new peer from the same domain, as in Xen.
        mutating func close(_ end: End) {
            guard let port = domains[end.domain]?.ports.removeValue(forKey: end.port) else { return }
            processes[port.owner]?.pendingPorts.removeAll { $0 == end.port }
            if let remote = port.remotePort { domains[port.remoteDomain]?.ports[remote]?.remotePort = nil }
        }

        // MARK: Processes

        /// Whether a process is `whole` or a part of it.
        private func isPart(_ id: Int, of whole: Int) -> Bool { id == whole || processes[id]?.whole == whole }

        mutating func nudge(_ id: Int, channels: Bool) {
            guard let process = processes[id], process.isAlive else { return }
            processes[id]?.isAwaited = true
            queue(WatchEvent(path: "@introduceDomain", token: ""), for: id)
            guard channels else { return }
            for (number, port) in domains[process.domain]?.ports ?? [:] where isPart(port.owner, of: id) {
                setPending(End(domain: process.domain, port: number))
            }
        }

        /// Whether there is an event that was not taken.
        func hasEvents(_ id: Int, channels: Bool) -> Bool {
            guard let process = processes[id], process.isAlive else { return false }
            return !process.watchEvents.isEmpty
                || channels && domains[process.domain]?.ports.values.contains { $0.isPending && isPart($0.owner, of: id) } == true
        }

        /// To be called when a process has taken an event.
        func tellTaken(by id: Int) {
            if processes[processes[id]?.whole ?? id]?.isAwaited == true { raise(takenSignal) }
        }

        /// What the kernel does when a process dies. What it had mapped stays readable until it is unmapped: the thread
        /// that plays the process may still run.
        mutating func kill(_ id: Int) {
            guard let process = processes[id], process.isAlive else { return }
            processes[id]?.isAlive = false
            processes[id]?.watches = []
            processes[id]?.transactions = [:]
            processes[id]?.mappings = [:]
            for (number, port) in domains[process.domain]?.ports ?? [:] where port.owner == id {
                close(End(domain: process.domain, port: number))
            }
            raise(process.storeSignal)
            raise(process.eventSignal)
            for part in processes.keys where processes[part]?.whole == id { kill(part) }
        }

        private func raise(_ signal: Int32) { _ = eventfd_write(signal, 1) }
    }
}
