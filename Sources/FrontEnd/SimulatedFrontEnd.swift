public import Blkif
public import BlockModel
public import XenBus

/// A block front end over a `SimulatedGuest`, as a guest's kernel has one: the guest's side of the states, a ring, and
/// operations of any size, many of them under way at a time. Every wait ends after `patienceMilliseconds`.
public final class SimulatedFrontEnd {
    public let guest: SimulatedGuest
    /// Our nodes: `device/vbd/NUMBER`.
    public let directory: String
    public let abi: ABI
    public let ringOrder: Int
    public var patienceMilliseconds: Int32 = 20_000
    /// How the data of the requests to come lies in pages.
    public var layout = SegmentLayout.pages

    /// The ring, while there is one; for those who misbehave.
    public private(set) var connection: RingConnection?
    private var slots: [Slot] = []
    private var freeSlots: [Int] = []
    /// Most segments of the requests to come: with more than 11, they are indirect ones.
    public var maximumSegments = maximumDirectSegments {
        didSet { maximumSegments = min(max(1, maximumSegments), Slot.pageCount) }
    }

    private var queue: [Part] = []
    private var underWay: [UInt64: (slot: Int, part: Part)] = [:]
    private var completions: [Completion] = []
    private var nextID: UInt64 = 1
    private var nextAnswer: UInt64 = 1

    /// The front end of the device with this number. `number`: as in the xenstore, 51728 for xvdb.
    public init(_ guest: SimulatedGuest, number: UInt32, abi: ABI = .native, ringOrder: Int = 0) {
        self.guest = guest
        self.abi = abi
        self.ringOrder = ringOrder
        directory = "/local/domain/\(guest.id)/device/vbd/\(number)"
    }

    // MARK: States

    /// The back end's nodes, once it has made them.
    public func backendDirectory() throws(Failure) -> String? { try guest.xen.text(directory + "/backend") }

    /// A value that the back end publishes; nil when there is none.
    public func backendValue(_ key: String) throws(Failure) -> String? {
        guard let backend = try backendDirectory() else { return nil }
        return try guest.xen.text("\(backend)/\(key)")
    }

    /// The back end's state; 0 when there is none.
    public func backendState() throws(Failure) -> Int {
        guard let backend = try? backendDirectory() else { return 0 }
        return Int((try? guest.xen.number(backend + "/state")) ?? 0)
    }

    public func setState(_ state: Int) throws(Failure) { try set("state", "\(state)") }

    /// Sets a node of ours.
    public func set(_ key: String, _ value: String) throws(Failure) { try guest.xen.write("\(directory)/\(key)", value) }

    /// Waits until the back end's state is one of these, and returns it.
    @discardableResult
    public func waitForBackend(_ states: Int...) throws(Failure) -> Int {
        var state = 0
        try wait("the back end's state to be \(states)") { () throws(Failure) in
            state = try backendState()
            return states.contains(state)
        }
        return state
    }

    /// From the back end's InitWait to Connected.
    public func connect() throws(Failure) {
        try waitForBackend(2)
        try offer()
        try waitForBackend(4)
        try setState(4)
    }

    /// Makes a ring, says where it is, and goes to state 3.
    public func offer() throws(Failure) {
        queue = []
        underWay = [:]
        nextAnswer = nextID
        let connection = try RingConnection(guest, abi: abi, ringOrder: ringOrder)
        if slots.isEmpty { slots = try (0..<connection.ring.entries).map { _ throws(Failure) in try Slot(guest) } }
        freeSlots = Array(slots.indices)
        self.connection = connection
        let references = connection.references, port = connection.port
        try guest.xen.transaction("offer a ring") { transaction throws(Failure) in
            var values = [("event-channel", "\(port)"), ("protocol", abi.protocolName), ("feature-persistent", "0")]
            if ringOrder == 0 {
                values.append(("ring-ref", "\(references[0])"))
            } else {
                values.append(("ring-page-order", "\(ringOrder)"))
                for (index, reference) in references.enumerated() { values.append(("ring-ref\(index)", "\(reference)")) }
            }
            for (key, value) in values + [("state", "3")] {
                try guest.xen.write("\(directory)/\(key)", value, in: transaction)
            }
        }
    }

    /// Closes as a guest does that shuts down.
    public func disconnect() throws(Failure) {
        try setState(5)
        try waitForBackend(5, 6)
        try setState(6)
        try waitForBackend(6)
        connection = nil
    }

    /// Answers a back end that unplugs the device.
    public func letGo() throws(Failure) {
        try waitForBackend(5)
        try setState(6)
        connection = nil
    }

    // MARK: Operations

    /// Does the operations, all at once as far as the ring has room, and waits for their ends.
    public func perform(_ operations: [DiskOperation]) throws(Failure) -> [Completion] {
        try begin(operations)
        return try finish()
    }

    public func read(_ sector: UInt64, _ count: Int) throws(Failure) -> [UInt8] {
        let completion = try single(.read(sector: sector, count: count))
        return completion.data
    }

    public func write(_ sector: UInt64, _ bytes: [UInt8]) throws(Failure) { _ = try single(.write(sector: sector, bytes)) }
    public func flush() throws(Failure) { _ = try single(.flush) }
    public func discard(_ sector: UInt64, _ count: UInt64) throws(Failure) { _ = try single(.discard(sector: sector, count: count)) }

    private func single(_ operation: DiskOperation) throws(Failure) -> Completion {
        guard let completion = try perform([operation]).first, completion.status == .okay else {
            throw Failure(.system, "\(operation)", "the back end answered with an error")
        }
        return completion
    }

    /// Starts operations and does not wait for them.
    public func begin(_ operations: [DiskOperation]) throws(Failure) {
        for operation in operations {
            var completion = Completion()
            if case .read(_, let count) = operation { completion.data = Array(repeating: 0, count: count * sectorSize) }
            completions.append(completion)
            split(operation, completions.count - 1)
        }
        try post()
    }

    /// Waits until all that was begun has ended.
    public func finish() throws(Failure) -> [Completion] {
        try wait("\(queue.count + underWay.count) requests") { () throws(Failure) in
            try takeResponses()
            return queue.isEmpty && underWay.isEmpty
        }
        defer { completions = [] }
        return completions
    }

    /// Number of requests that the back end has not answered.
    public var underWayCount: Int { underWay.count }

    /// Posts requests as they are, and returns the responses to them as they come. For those who misbehave: nothing else
    /// may be under way, and no operation may follow on this connection.
    public func exchange(_ requests: [Request]) throws(Failure) -> [Response] {
        guard let connection else { return [] }
        for request in requests where !connection.ring.post(request) {
            throw Failure(.usage, "front end", "no room on the ring")
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

    private func split(_ operation: DiskOperation, _ index: Int) {
        var request = Request()
        switch operation {
        case .flush:
            request.rawOperation = Blkif.Operation.flush.rawValue
            queue.append(Part(operation: index, request: request, data: [], dataOffset: 0, layout: layout, byteCount: 0))
        case .discard(let sector, let count):
            request.rawOperation = Blkif.Operation.discard.rawValue
            request.sector = sector
            request.discardSectorCount = count
            queue.append(Part(operation: index, request: request, data: [], dataOffset: 0, layout: layout, byteCount: 0))
        case .read(let sector, let count):
            split(.read, sector, count * sectorSize, [], index)
        case .write(let sector, let bytes):
            split(.write, sector, bytes.count, bytes, index)
        case .barrier(let sector, let bytes):
            split(.barrier, sector, bytes.count, bytes, index)
        }
    }

    private func split(_ operation: Blkif.Operation, _ sector: UInt64, _ byteCount: Int, _ data: [UInt8], _ index: Int) {
        // A barrier has no indirect form.
        let segments = operation == .barrier ? maximumDirectSegments : maximumSegments
        let largest = segments * layout.sectorCount * sectorSize
        var request = Request()
        request.rawOperation = operation.rawValue
        for offset in stride(from: 0, to: byteCount, by: largest) {
            request.sector = sector &+ UInt64(offset / sectorSize)
            queue.append(Part(
                operation: index, request: request, data: data, dataOffset: offset, layout: layout,
                byteCount: min(largest, byteCount - offset)))
        }
    }

    /// Posts what there is room for.
    private func post() throws(Failure) {
        guard let connection else { return }
        var posted = 0
        while posted < queue.count, let number = freeSlots.last {
            var part = queue[posted]
            slots[number].prepare(&part)
            part.request.id = nextID
            guard connection.ring.post(part.request) else { break }
            freeSlots.removeLast()
            underWay[nextID] = (number, part)
            nextID += 1
            posted += 1
        }
        queue.removeFirst(posted)
        if connection.ring.pushRequests() { try guest.xen.notify(connection.port) }
    }

    private func takeResponses() throws(Failure) {
        guard let connection else { return }
        repeat {
            while let response = try connection.ring.nextResponse() {
                // In the order of requests, without which no back end could be continued after a crash.
                guard response.id == nextAnswer, let (number, part) = underWay.removeValue(forKey: response.id) else {
                    throw Failure(.damage, "response", "for request \(response.id), when \(nextAnswer) was to be answered")
                }
                guard response.rawOperation == part.request.responseOperation, let status = response.status else {
                    throw Failure(.damage, "response", "\(response) to \(part.request)")
                }
                nextAnswer += 1
                freeSlots.append(number)
                if status == .okay {
                    slots[number].takeData(part, into: &completions[part.operation].data)
                } else if completions[part.operation].status == .okay {
                    completions[part.operation].status = status
                }
            }
            try post()
        } while try connection.ring.finalCheckForResponses()
    }

    /// Waits, looking again after each event.
    private func wait(_ what: @autoclosure () -> String, until isDone: () throws(Failure) -> Bool) throws(Failure) {
        try guest.xen.watch("/local/domain/0/backend", token: "backend")
        let deadline = ContinuousClock.now + .milliseconds(Int(patienceMilliseconds))
        while try !isDone() {
            let left = ContinuousClock.now.duration(to: deadline)
            guard left > .zero else { throw Failure(.system, "front end", "waited too long for \(what())") }
            _ = guest.wait(milliseconds: 100)
            while try guest.xen.nextWatchEvent() != nil {}
            while let port = try guest.xen.pendingEvent() { try guest.xen.unmask(port) }
        }
        try guest.xen.unwatch("/local/domain/0/backend", token: "backend")
    }
}
