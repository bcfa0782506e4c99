import Blkif
import CRingReference

/// One end of a ring, ours or the one that Xen's macros drive.
protocol FrontEnd: AnyObject {
    func post(_ request: Request) -> Bool
    func push() -> Bool
    func nextResponse() throws -> Response?
    func finalCheck() throws -> Bool
}

protocol BackEnd: AnyObject {
    func nextRequest() throws -> Request?
    func respond(_ response: Response) -> Bool
    func push() -> Bool
    func finalCheck() throws -> Bool
}

final class OurFront: FrontEnd {
    private var ring: FrontRing

    /// `index` nil: makes the ring.
    init(_ memory: RingMemory, _ abi: ABI, at index: UInt32? = nil) throws {
        ring =
            if let index {
                unsafe try FrontRing(attaching: memory.bytes, byteCount: memory.byteCount, abi: abi, at: index)
            } else {
                unsafe try FrontRing(page: memory.bytes, byteCount: memory.byteCount, abi: abi)
            }
    }

    var entries: Int { ring.entries }
    var freeSlots: Int { ring.freeSlots }
    func post(_ request: Request) -> Bool { ring.post(request) }
    func push() -> Bool { ring.pushRequests() }
    func nextResponse() throws -> Response? { try ring.nextResponse() }
    func finalCheck() throws -> Bool { try ring.finalCheckForResponses() }

    // What no honest frontend does.
    func setRequestProducer(_ value: UInt32) { ring.setRequestProducer(value) }
    func setResponseEvent(_ value: UInt32) { ring.setResponseEvent(value) }
    func writeSlot(_ index: UInt32, _ bytes: [UInt8]) { unsafe ring.writeSlot(index, bytes.span.bytes) }
}

final class OurBack: BackEnd {
    private var ring: BackRing

    /// `index` nil: a new ring, otherwise one in use.
    init(_ memory: RingMemory, _ abi: ABI, at index: UInt32? = nil) throws {
        ring =
            if index == nil {
                unsafe try BackRing(page: memory.bytes, byteCount: memory.byteCount, abi: abi)
            } else {
                unsafe try BackRing(resuming: memory.bytes, byteCount: memory.byteCount, abi: abi)
            }
    }

    var entries: Int { ring.entries }
    var unanswered: Int { ring.unanswered }
    func unconsumed() throws -> Int { try ring.unconsumedRequests() }
    func nextRequest() throws -> Request? { try ring.nextRequest() }
    func respond(_ response: Response) -> Bool {
        guard let status = response.status else { return false }
        return ring.respond(id: response.id, rawOperation: response.rawOperation, status: status)
    }
    func respond(to request: Request, _ status: Status = .okay) -> Bool {
        ring.respond(id: request.id, rawOperation: request.responseOperation, status: status)
    }
    func push() -> Bool { ring.pushResponses() }
    func finalCheck() throws -> Bool { try ring.finalCheckForRequests() }
}

/// XEN_FRONT_RING_INIT or FRONT_RING_ATTACH, and so on.
@safe final class ReferenceFront: FrontEnd {
    private var ring = unsafe reference_front()
    private let memory: RingMemory
    private let narrow: Bool

    init(_ memory: RingMemory, _ abi: ABI, at index: UInt32?) {
        self.memory = memory
        narrow = abi == .x86_32
        if let index {
            unsafe (narrow ? x86_32_front_attach : x86_64_front_attach)(&ring, memory.bytes, memory.byteCount, index)
        } else {
            unsafe (narrow ? x86_32_front_init : x86_64_front_init)(&ring, memory.bytes, memory.byteCount)
        }
    }

    func post(_ request: Request) -> Bool {
        var argument = reference_request(request)
        return unsafe (narrow ? x86_32_post : x86_64_post)(&ring, &argument)
    }
    func push() -> Bool { unsafe (narrow ? x86_32_push_requests : x86_64_push_requests)(&ring) }
    func nextResponse() -> Response? {
        var result = reference_response()
        guard unsafe (narrow ? x86_32_next_response : x86_64_next_response)(&ring, &result) else { return nil }
        return Response(id: result.id, rawOperation: result.operation, rawStatus: result.status)
    }
    func finalCheck() -> Bool { unsafe (narrow ? x86_32_final_check_responses : x86_64_final_check_responses)(&ring) }
}

/// BACK_RING_INIT or BACK_RING_ATTACH, and so on.
@safe final class ReferenceBack: BackEnd {
    private var ring = unsafe reference_back()
    private let memory: RingMemory
    private let narrow: Bool

    init(_ memory: RingMemory, _ abi: ABI, at index: UInt32?) {
        self.memory = memory
        narrow = abi == .x86_32
        unsafe (narrow ? x86_32_back_attach : x86_64_back_attach)(&ring, memory.bytes, memory.byteCount, index ?? 0)
    }

    var entries: Int { Int(unsafe ring.nr_ents) }

    func nextRequest() -> Request? {
        var result = reference_request()
        guard unsafe (narrow ? x86_32_next_request : x86_64_next_request)(&ring, &result) else { return nil }
        return Request(result)
    }
    func respond(_ response: Response) -> Bool {
        var argument = reference_response(id: response.id, operation: response.rawOperation, status: response.rawStatus)
        return unsafe (narrow ? x86_32_respond : x86_64_respond)(&ring, &argument)
    }
    func push() -> Bool { unsafe (narrow ? x86_32_push_responses : x86_64_push_responses)(&ring) }
    func finalCheck() -> Bool { unsafe (narrow ? x86_32_final_check_requests : x86_64_final_check_requests)(&ring) }
}

extension reference_request {
    init(_ request: Request) {
        self.init()
        operation = request.rawOperation
        segment_count = request.segmentCount
        flag = request.discardFlag
        inner_operation = request.rawInnerOperation
        handle = request.handle
        indirect_count = request.indirectSegmentCount
        id = request.id
        sector = request.sector
        discard_count = request.discardSectorCount
        // C arrays are imported as tuples.
        unsafe withUnsafeMutableBytes(of: &segments) { bytes in
            for i in 0..<11 {
                unsafe bytes.storeBytes(of: request.segments[i].gref, toByteOffset: i * 8, as: UInt32.self)
                unsafe bytes[i * 8 + 4] = request.segments[i].firstSector
                unsafe bytes[i * 8 + 5] = request.segments[i].lastSector
            }
        }
        unsafe withUnsafeMutableBytes(of: &grefs) { bytes in
            for i in 0..<8 { unsafe bytes.storeBytes(of: request.indirectGrefs[i], toByteOffset: i * 4, as: UInt32.self) }
        }
    }
}

extension Request {
    init(_ reference: reference_request) {
        self.init()
        rawOperation = reference.operation
        segmentCount = reference.segment_count
        discardFlag = reference.flag
        rawInnerOperation = reference.inner_operation
        handle = reference.handle
        indirectSegmentCount = reference.indirect_count
        id = reference.id
        sector = reference.sector
        discardSectorCount = reference.discard_count
        unsafe withUnsafeBytes(of: reference.segments) { bytes in
            for i in 0..<11 {
                segments[i] = unsafe Segment(
                    gref: bytes.load(fromByteOffset: i * 8, as: UInt32.self), firstSector: bytes[i * 8 + 4],
                    lastSector: bytes[i * 8 + 5])
            }
        }
        unsafe withUnsafeBytes(of: reference.grefs) { bytes in
            for i in 0..<8 { indirectGrefs[i] = unsafe bytes.load(fromByteOffset: i * 4, as: UInt32.self) }
        }
    }
}
