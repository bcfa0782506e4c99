import Activity
import BlockModel
import NBD
import System

/// A client's connection: the handshake, then requests in their order, until either side ends it.
///
/// 1. As many bytes as the socket has are received at once.
/// 2. Each whole request among them is checked and done. Data of writes goes to the disk from where it was received, that of
///    writes that came one on the other together; data of reads comes from the disk to where it is sent from. Answers are
///    collected.
/// 3. When no whole request is left, one flush makes durable what waits for that, and all answers go out at once.
///
/// Memory is bounded by the two buffers; what is larger is transferred in pieces.
struct NBDConnection<Device: BlockDevice>: ~Copyable {
    let device: Device
    let export: Export
    let common: NBDCommon
    let socket: Socket
    var session = Session()
    var input = InputBuffer(capacity: largestPiece + (256 << 10))
    var output = OutputBuffer(capacity: largestPiece + (256 << 10))
    /// Requests that are done, and answered after the next flush.
    var unflushed: [UInt64] = []
    /// The extents of the answer at hand.
    var extents: [Extent] = []
    /// Writes that came one after the other, and where in `input` their data is. They are done before any other request is, and before more comes in.
    var waiting: [Request] = []
    var parts: [WritePart] = []
    /// Reads that came together.
    private var expected: [SectorRange] = []
    /// Requests that are done, whose answers go out next, and when the first of them was taken: seconds, as `monotonicSeconds` counts.
    private var work = Activity.Work()
    private var workBegan = 0.0
    /// Requests that are taken and not answered, the one at hand included.
    private var underWay = 0

    init(_ device: Device, _ export: Export, _ common: NBDCommon, _ socket: Socket) {
        self.device = device
        self.export = export
        self.common = common
        self.socket = socket
        unflushed.reserveCapacity(mostUnflushed)
        extents.reserveCapacity(mostExtents)
    }

    /// Serves the client until either side ends the connection. What the client does wrong is logged.
    mutating func run() {
        defer { common.activity.abandon(underWay) }
        do throws(Disconnection) {
            guard try shakeHands() else { return }
            try serveRequests()
        } catch {
            guard case .violation(let what) = error else { return }
            common.log("a client was cut off: it sent \(what)")
            // What came before it is answered; when that fails, the client is gone as well.
            try? answerAll()
        }
    }

    /// - Returns: whether requests follow.
    private mutating func shakeHands() throws(Disconnection) -> Bool {
        let deadline = ContinuousClock.now + common.handshakeLimit
        var handshake = Handshake(export)
        var answer = Handshake.greeting
        while true {
            if !answer.isEmpty {
                guard socket.send(answer.rawBytes) else { throw .gone }
                answer.removeAll(keepingCapacity: true)
            }
            let progress: Handshake.Progress
            do throws(Violation) { progress = try handshake.receive(input.bytes, &answer) } catch { throw .violation("\(error)") }
            switch progress {
            case .consumed(let count): input.consume(count)
            case .incomplete:
                guard !common.isStopping, input.receive(input.count + 1, from: socket, deadline: deadline) else { throw .gone }
            case .aborted:
                _ = socket.send(answer.rawBytes)
                return false
            case .transmission(let session, let consumed):
                input.consume(consumed)
                self.session = session
                guard socket.send(answer.rawBytes) else { throw .gone }
                return true
            }
        }
    }

    private mutating func serveRequests() throws(Disconnection) {
        while true {
            if input.count >= 2 * Request.byteCount { expectReads() }
            while input.count >= Request.byteCount {
                guard let request = Request(input.bytes) else { throw .violation("something that is no request") }
                input.consume(Request.byteCount)
                guard request.command != .disconnect else { return try answerAll() }
                try perform(request)
            }
            try answerAll()
            guard !common.isStopping, input.receive(Request.byteCount, from: socket) else { return }
        }
    }

    /// Tells the disk of the reads that came together.
    private mutating func expectReads() {
        expected.removeAll(keepingCapacity: true)
        var offset = 0
        while expected.count < mostExpected, offset + Request.byteCount <= input.count,
            let request = Request(input.bytes.extracting(droppingFirst: offset)), request.command == .read
        {
            // A request that is refused is answered when its turn comes.
            if let range = try? request.check(export, session) { expected.append(range) }
            offset += Request.byteCount
        }
        if expected.count > 1 { device.expectReads(of: expected) }
    }

    /// Notes that a request of a kind that is counted is at hand.
    /// - Returns: when it was taken.
    mutating func beginWork() -> Double {
        underWay += 1
        return common.activity.begin(1)
    }

    /// Notes that it is done; it is answered with those whose answers go out next.
    mutating func noteWork(_ kind: Activity.Kind, byteCount: UInt64, since began: Double) {
        if work.count == 0 { workBegan = began }
        work.add(kind, byteCount: byteCount)
    }

    private mutating func endWork() {
        common.activity.end(work, since: workBegan)
        underWay -= work.count
        work = Activity.Work()
    }

    // MARK: Answers

    /// Answers all requests that came, with one flush for those that wait for one.
    mutating func answerAll() throws(Disconnection) {
        try performWaiting()
        if !unflushed.isEmpty {
            // The answers that need no flush don't wait for it.
            try send()
            try flush()
        }
        try send()
        endWork()
    }

    /// One flush for all requests that wait for one.
    private mutating func flush() throws(Disconnection) {
        var error: ErrorCode?
        do throws(Failure) {
            try device.flush()
        } catch let failure {
            common.log("a flush failed: \(failure)")
            error = ErrorCode(failure)
        }
        for cookie in unflushed { try answer(cookie, error) }
        unflushed.removeAll(keepingCapacity: true)
    }

    mutating func answer(_ cookie: UInt64, _ error: ErrorCode?) throws(Disconnection) {
        try makeRoom(Reply.simpleByteCount)
        output.append(Reply.simpleByteCount) { Reply.simple(cookie, error, into: &$0) }
    }

    /// Sends what is collected, if there is no room for `byteCount` bytes more.
    mutating func makeRoom(_ byteCount: Int) throws(Disconnection) {
        if output.room < byteCount { try send() }
    }

    mutating func send() throws(Disconnection) {
        guard output.count > 0 else { return }
        guard socket.send(output.bytes) else { throw .gone }
        output.removeAll()
        if waiting.isEmpty, unflushed.isEmpty { endWork() }
    }
}

/// Why a connection ends, other than by the client's wish.
enum Disconnection: Error {
    case gone
    /// A read failed, of which a part is sent: a simple reply can't tell of that.
    case broken
    case violation(String)
}

/// Most bytes of one transfer between the disk and a connection.
let largestPiece = 256 << 10
/// Most reads that the disk is told of at once.
private let mostExpected = 64
/// Most requests that one flush is for.
let mostUnflushed = 256
