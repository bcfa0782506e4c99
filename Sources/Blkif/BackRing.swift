public import System

/// The backend's side of a ring: takes requests, writes responses. Nothing that the frontend does to the shared
/// pages can make it trap, or take a request twice, or more requests than the ring has slots without an answer.
///
///     while true {
///         while let request = try ring.nextRequest() { ...; ring.respond(...) }
///         if ring.pushResponses() { notify the event channel }
///         if !(try ring.finalCheckForRequests()) { wait for the event channel }
///     }
public struct BackRing: ~Copyable {
    private let shared: SharedRing
    /// Next request to be taken.
    private var requestConsumer: UInt32
    /// Next response to be written, and the first one that the frontend has not been shown.
    private var responseProducer: UInt32
    private var pushedResponses: UInt32

    /// A ring whose frontend has just made it: BACK_RING_INIT. `page` stays mapped, read-write, for as long as this
    /// is in use. `byteCount`: 4096, 8192, ... 65536, else `.invalidRequest` is thrown.
    @unsafe public init(page: UnsafeMutableRawPointer, byteCount: Int, abi: ABI) throws(Failure) {
        shared = unsafe try SharedRing(page, byteCount: byteCount, abi: abi)
        requestConsumer = 0
        responseProducer = 0
        pushedResponses = 0
    }

    /// A ring in use, whose backend died: BACK_RING_ATTACH at `rsp_prod`, so that all requests without a response are
    /// taken again. That is right only if the predecessor answered in the order of requests.
    ///
    /// A response is written over its request. One that the predecessor had written (`respond`) and not shown (`pushResponses`) is taken
    /// for a request here: the caller has to know of it. The caller also notifies the frontend once, as the predecessor may have died
    /// before it could.
    /// - Throws: `.invalidRequest`, as the other initialiser, and when the indices make no sense.
    @unsafe public init(resuming page: UnsafeMutableRawPointer, byteCount: Int, abi: ABI) throws(Failure) {
        let shared = unsafe try SharedRing(page, byteCount: byteCount, abi: abi)
        let answered = shared.load(.responseProducer)
        _ = try Self.unconsumedRequests(shared, consumer: answered, answered: answered)
        self.shared = shared
        requestConsumer = answered
        responseProducer = answered
        pushedResponses = answered
    }

    public var abi: ABI { shared.abi }
    /// Slots in the ring: 32, 64, 128, 256, 512.
    public var entries: Int { Int(shared.entries) }
    /// Requests taken and not yet responded to.
    public var unanswered: Int { Int(requestConsumer &- responseProducer) }

    /// Requests that can be taken now.
    /// - Throws: `.invalidRequest` when `req_prod` is beyond what the free slots allow, or has gone back (RING_REQUEST_PROD_OVERFLOW and
    ///   RING_REQUEST_CONS_OVERFLOW in one): the ring is broken, and to be closed.
    public func unconsumedRequests() throws(Failure) -> Int {
        try Self.unconsumedRequests(shared, consumer: requestConsumer, answered: responseProducer)
    }

    private static func unconsumedRequests(_ shared: SharedRing, consumer: UInt32, answered: UInt32) throws(Failure) -> Int {
        let producer = shared.load(.requestProducer)
        let available = producer &- consumer
        guard available <= shared.entries &- (consumer &- answered) else {
            throw Failure(
                .invalidRequest, "ring of \(shared.entries) slots",
                "req_prod is \(producer), but \(consumer) requests were taken and \(answered) answered")
        }
        return Int(available)
    }

    /// Takes a request: copies its slot out, once. Nil: there is none. Throws as `unconsumedRequests`.
    public mutating func nextRequest() throws(Failure) -> Request? {
        guard try unconsumedRequests() > 0 else { return nil }
        var copy = SlotBytes(repeating: 0)
        var span = copy.mutableSpan
        var bytes = unsafe span.mutableBytes
        shared.copyOut(requestConsumer, byteCount: shared.abi.slotByteCount, into: &bytes)
        requestConsumer &+= 1
        return Request(bytes.bytes, abi: shared.abi)
    }

    /// Writes the next response, which the frontend sees after `pushResponses`. `rawOperation`: the request's
    /// `responseOperation`. False, and nothing is written, when every request taken has its response.
    @discardableResult
    public mutating func respond(id: UInt64, rawOperation: UInt8, status: Status) -> Bool {
        guard unanswered > 0 else { return false }
        var copy = Response.Bytes(repeating: 0)
        var span = copy.mutableSpan
        var bytes = unsafe span.mutableBytes
        Response(id: id, rawOperation: rawOperation, rawStatus: status.rawValue).store(into: &bytes)
        shared.copyIn(responseProducer, bytes.bytes.extracting(first: shared.abi.responseByteCount))
        responseProducer &+= 1
        return true
    }

    /// Shows the responses to the frontend: RING_PUSH_RESPONSES_AND_CHECK_NOTIFY. True: it wants an event.
    public mutating func pushResponses() -> Bool {
        defer { pushedResponses = responseProducer }
        return shared.push(.responseProducer, event: .responseEvent, from: pushedResponses, to: responseProducer)
    }

    /// RING_FINAL_CHECK_FOR_REQUESTS, before waiting for an event. True: there are requests, don't wait. False: the
    /// next request comes with an event.
    public mutating func finalCheckForRequests() throws(Failure) -> Bool {
        if try unconsumedRequests() > 0 { return true }
        shared.requestEvent(.requestEvent, at: requestConsumer &+ 1)
        return try unconsumedRequests() > 0
    }
}
