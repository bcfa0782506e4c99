public import System

/// The frontend's side of a ring, for tests, benchmarks and fuzzers: posts requests, takes responses.
public struct FrontRing: ~Copyable {
    private let shared: SharedRing
    /// Next request to be posted, and the first one that the backend has not been shown.
    private var requestProducer: UInt32 = 0
    private var pushedRequests: UInt32 = 0
    /// Next response to be taken.
    private var responseConsumer: UInt32 = 0

    /// Makes the ring: SHARED_RING_INIT, FRONT_RING_INIT. `page` stays mapped, read-write, for as long as this is in
    /// use. `byteCount`: 4096, 8192, ... 65536, else `.invalidRequest` is thrown.
    @unsafe public init(page: UnsafeMutableRawPointer, byteCount: Int, abi: ABI) throws(Failure) {
        shared = unsafe try SharedRing(page, byteCount: byteCount, abi: abi)
        shared.reset()
    }

    /// A ring in use, of whose requests all before `index` were answered, and none is behind it: FRONT_RING_ATTACH. The shared indices stay.
    @unsafe public init(
        attaching page: UnsafeMutableRawPointer, byteCount: Int, abi: ABI, at index: UInt32
    ) throws(Failure) {
        shared = unsafe try SharedRing(page, byteCount: byteCount, abi: abi)
        requestProducer = index
        pushedRequests = index
        responseConsumer = index
    }

    public var abi: ABI { shared.abi }
    /// Slots in the ring: 32, 64, 128, 256, 512.
    public var entries: Int { Int(shared.entries) }
    /// Requests that can be posted now (RING_FREE_REQUESTS).
    public var freeSlots: Int { Int(shared.entries &- (requestProducer &- responseConsumer)) }

    /// Writes the next request, which the backend sees after `pushRequests`. False: the ring is full.
    public mutating func post(_ request: Request) -> Bool {
        guard freeSlots > 0 else { return false }
        var copy = SlotBytes(repeating: 0)
        var span = copy.mutableSpan
        var bytes = unsafe span.mutableBytes
        request.store(into: &bytes, abi: shared.abi)
        shared.copyIn(requestProducer, bytes.bytes)
        requestProducer &+= 1
        return true
    }

    /// Shows the requests to the backend: RING_PUSH_REQUESTS_AND_CHECK_NOTIFY. True: it wants an event.
    public mutating func pushRequests() -> Bool {
        defer { pushedRequests = requestProducer }
        return shared.push(.requestProducer, event: .requestEvent, from: pushedRequests, to: requestProducer)
    }

    /// Takes a response: copies its slot out, once. Nil: there is none.
    /// - Throws: `.invalidRequest` when `rsp_prod` is beyond the requests that were shown (RING_RESPONSE_PROD_OVERFLOW).
    public mutating func nextResponse() throws(Failure) -> Response? {
        guard try unconsumedResponses() > 0 else { return nil }
        var copy = Response.Bytes(repeating: 0)
        var span = copy.mutableSpan
        var bytes = unsafe span.mutableBytes
        shared.copyOut(responseConsumer, byteCount: shared.abi.responseByteCount, into: &bytes)
        responseConsumer &+= 1
        return Response(bytes.bytes)
    }

    /// RING_FINAL_CHECK_FOR_RESPONSES, before waiting for an event. True: there are responses, don't wait.
    public mutating func finalCheckForResponses() throws(Failure) -> Bool {
        if try unconsumedResponses() > 0 { return true }
        shared.requestEvent(.responseEvent, at: responseConsumer &+ 1)
        return try unconsumedResponses() > 0
    }

    /// Responses that can be taken now. Throws as `nextResponse`.
    public func unconsumedResponses() throws(Failure) -> Int {
        let producer = shared.load(.responseProducer)
        let available = producer &- responseConsumer
        guard available <= pushedRequests &- responseConsumer else {
            throw Failure(
                .invalidRequest, "ring",
                "rsp_prod is \(producer), but requests from \(responseConsumer) to \(pushedRequests) have no response")
        }
        return Int(available)
    }
}

/// What no honest frontend does.
extension FrontRing {
    /// Writes arbitrary bytes to the start of the slot of `index`, at most a slot of them.
    public mutating func writeSlot(_ index: UInt32, _ bytes: RawSpan) { shared.copyIn(index, bytes) }

    /// Sets `req_prod`, whatever was posted.
    public mutating func setRequestProducer(_ value: UInt32) { shared.store(.requestProducer, value) }

    /// Sets `rsp_event`, which tells the backend when to send an event.
    public mutating func setResponseEvent(_ value: UInt32) { shared.store(.responseEvent, value) }
}
