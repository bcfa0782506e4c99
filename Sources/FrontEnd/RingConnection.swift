public import Blkif
import BlockModel
import System
public import XenBus
public import XenSimulation

/// A frontend's ring, granted to domain 0, and its event channel.
public final class RingConnection {
    public let pages: [SimulatedPage]
    public let references: [GrantReference]
    public let port: EventPort
    public var ring: FrontRing
    private let guest: SimulatedGuest
    /// Requests that wait for room on the ring.
    var waiting: [Part] = []
    /// Requests without a response, in the order in which they were posted.
    var unanswered: [UInt64] = []

    init(_ guest: SimulatedGuest, abi: ABI, ringOrder: Int) throws(Failure) {
        pages = try guest.allocatePages(1 << ringOrder)
        references = pages.map { guest.grant($0) }
        port = try guest.xen.openPort(to: 0)
        ring = unsafe try FrontRing(page: pages[0].pointer, byteCount: pages.count * xenPageSize, abi: abi)
        self.guest = guest
    }

    deinit {
        guest.xen.unbind(port)
        for reference in references { guest.revoke(reference) }
    }
}

/// Pages for the data of one request, and one for the segments of an indirect one.
struct Slot {
    /// As many as Linux's frontend uses.
    static let pageCount = 32
    let pages: [SimulatedPage]
    let references: [GrantReference]

    init(_ guest: SimulatedGuest) throws(Failure) {
        pages = try guest.allocatePages(Self.pageCount + 1)
        references = pages.map { guest.grant($0) }
    }

    /// Gives the request its segments, and puts what is to be written into their pages.
    func prepare(_ part: inout Part) {
        let segmentByteCount = part.layout.sectorCount * sectorSize
        let first = part.layout.firstSector
        var segments: [Segment] = []
        for offset in stride(from: 0, to: part.byteCount, by: segmentByteCount) {
            let byteCount = min(segmentByteCount, part.byteCount - offset)
            let page = segments.count
            segments.append(
                Segment(
                    gref: references[page], firstSector: UInt8(first), lastSector: UInt8(first + byteCount / sectorSize - 1)))
            if !part.data.isEmpty {
                unsafe part.data.withUnsafeBytes { data in
                    let source = unsafe UnsafeRawBufferPointer(rebasing: data[(part.dataOffset + offset)...].prefix(byteCount))
                    unsafe UnsafeMutableRawBufferPointer(start: pages[page].pointer + first * sectorSize, count: byteCount)
                        .copyMemory(from: source)
                }
            }
        }
        if segments.count > maximumDirectSegments {
            part.request.makeIndirect(segments, in: pages[Self.pageCount], references[Self.pageCount])
        } else {
            part.request.segmentCount = UInt8(segments.count)
            for (index, segment) in segments.enumerated() { part.request.segments[index] = segment }
        }
    }

    /// Copies what a read has brought to its place in `data`; does nothing for other requests.
    func takeData(_ part: Part, into data: inout [UInt8]) {
        guard part.request.effectiveOperation == .read else { return }
        let segmentByteCount = part.layout.sectorCount * sectorSize
        for (index, offset) in stride(from: 0, to: part.byteCount, by: segmentByteCount).enumerated() {
            let byteCount = min(segmentByteCount, part.byteCount - offset)
            unsafe data.withUnsafeMutableBytes { data in
                let target = unsafe UnsafeMutableRawBufferPointer(rebasing: data[(part.dataOffset + offset)...].prefix(byteCount))
                unsafe target.copyMemory(
                    from: UnsafeRawBufferPointer(
                        start: pages[index].pointer + part.layout.firstSector * sectorSize, count: byteCount))
            }
        }
    }
}

extension Request {
    /// Makes a read or write an indirect one, with its segments in `page`.
    public mutating func makeIndirect(_ segments: [Segment], in page: SimulatedPage, _ reference: GrantReference) {
        var bytes = unsafe MutableRawSpan(_unsafeStart: page.pointer, byteCount: xenPageSize)
        for (index, segment) in segments.prefix(segmentsPerIndirectPage).enumerated() { segment.store(into: &bytes, at: index * 8) }
        rawInnerOperation = rawOperation
        rawOperation = Operation.indirect.rawValue
        indirectSegmentCount = UInt16(segments.count)
        indirectGrefs[0] = reference
    }
}
