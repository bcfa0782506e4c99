public import Blkif
internal import BlockModel
public import System
internal import XenBus
public import XenSimulation

/// A block frontend over a `SimulatedGuest`, as a guest's kernel has one: the guest's side of the states, rings, and
/// operations of any size, many of them under way at a time. Every wait ends after `patienceMilliseconds`.
public final class SimulatedFrontEnd {
    public let guest: SimulatedGuest
    /// The frontend's directory in the xenstore: `/local/domain/ID/device/vbd/NUMBER`.
    public let directory: String
    public let abi: ABI
    public let ringOrder: Int
    public let queueCount: Int
    /// Whether it says how its requests are laid out: the first frontends, of 32 bits, did not.
    public var namesProtocol = true
    /// Whether it says how many pages a ring has as older frontends do: by their number.
    public var countsPages = false
    /// Milliseconds after which each wait ends, and throws.
    public var patienceMilliseconds: Int32 = 120_000
    /// How the data of the requests to come lies in pages.
    public var layout = SegmentLayout.pages

    /// The rings, while there are any: for tests that misbehave on them.
    public private(set) var connections: [RingConnection] = []
    /// The first of them.
    public var connection: RingConnection? { connections.first }
    private var slots: [Slot] = []
    private var freeSlots: [Int] = []
    /// Most segments of the requests to come: with more than 11, they are indirect ones.
    public var maximumSegments = maximumDirectSegments {
        didSet { maximumSegments = min(max(1, maximumSegments), Slot.pageCount) }
    }

    private var underWay: [UInt64: (slot: Int, part: Part)] = [:]
    private var completions: [Completion] = []
    private var nextID: UInt64 = 1

    /// The frontend of the device with this number. `number`: as in the xenstore, 51728 for xvdb.
    public init(_ guest: SimulatedGuest, number: UInt32, abi: ABI = .native, ringOrder: Int = 0, queueCount: Int = 1) {
        self.guest = guest
        self.abi = abi
        self.ringOrder = ringOrder
        self.queueCount = queueCount
        directory = "/local/domain/\(guest.id)/device/vbd/\(number)"
    }

    // MARK: States

    /// The backend's nodes, once it has made them.
    public func backendDirectory() throws(Failure) -> String? { try guest.xen.text(directory + "/backend") }

    /// A value that the backend publishes; nil when there is none.
    public func backendValue(_ key: String) throws(Failure) -> String? {
        guard let backend = try backendDirectory() else { return nil }
        return try guest.xen.text("\(backend)/\(key)")
    }

    /// The backend's state; 0 when there is none.
    public func backendState() throws(Failure) -> Int {
        // What can't be looked up is not there.
        guard let backend = try? backendDirectory() else { return 0 }
        // Nor is a state that can't be read.
        return Int((try? guest.xen.number(backend + "/state")) ?? 0)
    }

    /// Sets the frontend's state: a value of `enum xenbus_state`.
    public func setState(_ state: Int) throws(Failure) { try set("state", "\(state)") }

    /// Sets a node of ours.
    public func set(_ key: String, _ value: String) throws(Failure) { try guest.xen.write("\(directory)/\(key)", value) }

    /// Waits until the backend's state is one of these, and returns it.
    @discardableResult
    public func waitForBackend(_ states: Int...) throws(Failure) -> Int {
        var state = 0
        try wait("the backend's state to be \(states)") { () throws(Failure) in
            state = try backendState()
            return states.contains(state)
        }
        return state
    }

    /// From the backend's InitWait to Connected.
    public func connect() throws(Failure) {
        try waitForBackend(2)
        try offer()
        try waitForBackend(4)
        try setState(4)
    }

    /// Makes rings, says where they are, and goes to state 3.
    public func offer() throws(Failure) {
        let values = try makeRings()
        try guest.xen.transaction("offer rings") { transaction throws(Failure) in
            for (key, value) in values + [("state", "3")] {
                try guest.xen.write("\(directory)/\(key)", value, in: transaction)
            }
        }
    }

    /// Makes rings, and returns the nodes that say where they are: for tests that write them in another way.
    public func makeRings() throws(Failure) -> [(key: String, value: String)] {
        underWay = [:]
        connections = []
        for _ in 0..<queueCount { connections.append(try RingConnection(guest, abi: abi, ringOrder: ringOrder)) }
        let slotCount = connections.reduce(0) { $0 + $1.ring.entries }
        while slots.count < slotCount { slots.append(try Slot(guest)) }
        freeSlots = Array(slots.indices)
        var values = [("feature-persistent", "0")]
        if namesProtocol { values.append(("protocol", abi.protocolName)) }
        if ringOrder > 0 {
            values.append(countsPages ? ("num-ring-pages", "\(1 << ringOrder)") : ("ring-page-order", "\(ringOrder)"))
        }
        if queueCount > 1 { values.append(("multi-queue-num-queues", "\(queueCount)")) }
        for (index, connection) in connections.enumerated() {
            values += nodes(of: connection, queueCount > 1 ? "queue-\(index)/" : "")
        }
        return values
    }

    private func nodes(of connection: RingConnection, _ prefix: String) -> [(String, String)] {
        let references = connection.references.enumerated().map { index, reference in
            (prefix + (ringOrder == 0 ? "ring-ref" : "ring-ref\(index)"), "\(reference)")
        }
        return [(prefix + "event-channel", "\(connection.port)")] + references
    }

    /// Closes the device, as a guest does that shuts down.
    public func disconnect() throws(Failure) {
        try setState(5)
        try waitForBackend(5, 6)
        try setState(6)
        try waitForBackend(6)
        connections = []
    }

    /// Waits until the backend unplugs the device, and lets go of it.
    public func letGo() throws(Failure) {
        try waitForBackend(5)
        try setState(6)
        connections = []
    }

    // MARK: Operations

    /// Does the operations, as many at once as the rings have room for, and waits until all have ended.
    /// - Returns: how each ended, in their order. A request that fails is no error here.
    public func perform(_ operations: [DiskOperation]) throws(Failure) -> [Completion] {
        try begin(operations)
        return try finish()
    }

    /// Reads `count` sectors of 512 bytes. This and the three calls below throw when the backend answers with an error.
    public func read(_ sector: UInt64, _ count: Int) throws(Failure) -> [UInt8] {
        let completion = try single(.read(sector: sector, count: count))
        return completion.data
    }

    public func write(_ sector: UInt64, _ bytes: [UInt8]) throws(Failure) { _ = try single(.write(sector: sector, bytes)) }
    public func flush() throws(Failure) { _ = try single(.flush) }
    public func discard(_ sector: UInt64, _ count: UInt64) throws(Failure) { _ = try single(.discard(sector: sector, count: count)) }

    private func single(_ operation: DiskOperation) throws(Failure) -> Completion {
        guard let completion = try perform([operation]).first, completion.status == .okay else {
            throw Failure(.system, "\(operation)", "the backend answered with an error")
        }
        return completion
    }

    /// Begins operations, and does not wait for them. Between rings there is no order.
    /// - Parameter queues: the ring of each operation, modulo the number of rings; nil: they take turns.
    public func begin(_ operations: [DiskOperation], on queues: [Int]? = nil) throws(Failure) {
        guard !connections.isEmpty else { throw Failure(.usage, "begin", "operations of a frontend", "it is not connected") }
        for (index, operation) in operations.enumerated() {
            var completion = Completion()
            if case .read(_, let count) = operation { completion.data = Array(repeating: 0, count: count * sectorSize) }
            completions.append(completion)
            let queue = (queues?[index] ?? index) % connections.count
            connections[queue].waiting += split(operation, completions.count - 1)
        }
        for connection in connections { try post(connection) }
    }

    /// Waits until all that was begun has ended.
    /// - Returns: how each operation ended, in the order in which they were begun.
    public func finish() throws(Failure) -> [Completion] {
        try wait(untilUnanswered: 0)
        defer { completions = [] }
        return completions
    }

    /// Waits until no more than `count` requests of what was begun have no answer.
    public func wait(untilUnanswered count: Int) throws(Failure) {
        try wait("all but \(count) of \(unansweredCount) requests") { () throws(Failure) in
            for connection in connections { try takeResponses(connection) }
            return unansweredCount <= count
        }
    }

    /// Number of requests on the rings that the backend has not answered.
    public var underWayCount: Int { underWay.count }

    /// Number of requests that have no answer, those that wait for room on a ring included.
    public var unansweredCount: Int { connections.reduce(underWay.count) { $0 + $1.waiting.count } }

    /// Posts requests as they are, and returns the responses in the order in which they come: for tests that misbehave. Nothing else
    /// may be under way, and no operation may follow on this connection.
    public func exchange(_ requests: [Request], on queue: Int = 0) throws(Failure) -> [Response] {
        guard connections.indices.contains(queue) else { return [] }
        let connection = connections[queue]
        for request in requests where !connection.ring.post(request) {
            throw Failure(.usage, "post", "a request", "there is no room on the ring")
        }
        if connection.ring.pushRequests() { try guest.xen.notify(connection.port) }
        var responses: [Response] = []
        try wait("\(requests.count) responses") { () throws(Failure) in
            repeat {
                while let response = try connection.ring.nextResponse() { responses.append(response) }
            } while try connection.ring.finalCheckForResponses()
            return responses.count >= requests.count
        }
        return responses
    }

    // MARK: Requests

    private func split(_ operation: DiskOperation, _ index: Int) -> [Part] {
        var request = Request()
        switch operation {
        case .flush:
            request.rawOperation = Blkif.Operation.flush.rawValue
            return [Part(operation: index, request: request, data: [], dataOffset: 0, layout: layout, byteCount: 0)]
        case .discard(let sector, let count):
            request.rawOperation = Blkif.Operation.discard.rawValue
            request.sector = sector
            request.discardSectorCount = count
            return [Part(operation: index, request: request, data: [], dataOffset: 0, layout: layout, byteCount: 0)]
        case .read(let sector, let count):
            return split(.read, sector, count * sectorSize, [], index)
        case .write(let sector, let bytes):
            return split(.write, sector, bytes.count, bytes, index)
        case .barrier(let sector, let bytes):
            return split(.barrier, sector, bytes.count, bytes, index)
        }
    }

    private func split(_ operation: Blkif.Operation, _ sector: UInt64, _ byteCount: Int, _ data: [UInt8], _ index: Int) -> [Part] {
        // A barrier has no indirect form.
        let segments = operation == .barrier ? maximumDirectSegments : maximumSegments
        let largest = segments * layout.sectorCount * sectorSize
        var request = Request()
        request.rawOperation = operation.rawValue
        return stride(from: 0, to: byteCount, by: largest).map { offset in
            request.sector = sector &+ UInt64(offset / sectorSize)
            return Part(
                operation: index, request: request, data: data, dataOffset: offset, layout: layout,
                byteCount: min(largest, byteCount - offset))
        }
    }

    /// Posts what there is room for.
    private func post(_ connection: RingConnection) throws(Failure) {
        var posted = 0
        while posted < connection.waiting.count, connection.ring.freeSlots > 0, let number = freeSlots.last {
            var part = connection.waiting[posted]
            slots[number].prepare(&part)
            part.request.id = nextID
            guard connection.ring.post(part.request) else { break }
            freeSlots.removeLast()
            underWay[nextID] = (number, part)
            connection.unanswered.append(nextID)
            nextID += 1
            posted += 1
        }
        connection.waiting.removeFirst(posted)
        if connection.ring.pushRequests() { try guest.xen.notify(connection.port) }
    }

    private func takeResponses(_ connection: RingConnection) throws(Failure) {
        repeat {
            while let response = try connection.ring.nextResponse() { try take(response, connection) }
            try post(connection)
        } while try connection.ring.finalCheckForResponses()
    }

    private func take(_ response: Response, _ connection: RingConnection) throws(Failure) {
        // Answers come in the order of requests: else nobody could go on after a backend that crashed.
        guard response.id == connection.unanswered.first, let (number, part) = underWay.removeValue(forKey: response.id) else {
            throw Failure(.damage, "take", "a response", "it is for request \(response.id), when \(connection.unanswered.first ?? 0) was to be answered")
        }
        guard response.rawOperation == part.request.responseOperation, let status = response.status else {
            throw Failure(.damage, "take", "a response", "it is \(response), to \(part.request)")
        }
        connection.unanswered.removeFirst()
        freeSlots.append(number)
        if status == .okay {
            slots[number].takeData(part, into: &completions[part.operation].data)
        } else if completions[part.operation].status == .okay {
            completions[part.operation].status = status
        }
    }

    /// Waits, looking again after each event.
    private func wait(_ what: @autoclosure () -> String, until isDone: () throws(Failure) -> Bool) throws(Failure) {
        try guest.xen.watch("/local/domain/0/backend", token: "backend")
        let deadline = ContinuousClock.now + .milliseconds(Int(patienceMilliseconds))
        while try !isDone() {
            let left = ContinuousClock.now.duration(to: deadline)
            guard left > .zero else { throw Failure(.system, "wait for", .named(what()), "it was not so within \(patienceMilliseconds) ms") }
            _ = guest.wait(milliseconds: 100)
            while try guest.xen.nextWatchEvent() != nil {}
            while let port = try guest.xen.pendingEvent() { try guest.xen.unmask(port) }
        }
        try guest.xen.unwatch("/local/domain/0/backend", token: "backend")
    }
}
