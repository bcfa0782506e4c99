public import Blkif
import BlockModel
public import XenBus

/// A front end's ring, granted to domain 0, and its event channel.
public final class RingConnection {
    public let references: [GrantReference]
    public let port: EventPort
    public var ring: FrontRing
    private let guest: SimulatedGuest

    init(_ guest: SimulatedGuest, abi: ABI, ringOrder: Int) throws(Failure) {
        let pages = try guest.allocatePages(1 << ringOrder)
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

/// Pages for the data of one request.
struct Slot {
    let pages: [SimulatedPage]
    let references: [GrantReference]

    init(_ guest: SimulatedGuest) throws(Failure) {
        pages = try guest.allocatePages(maximumDirectSegments)
        references = pages.map { guest.grant($0) }
    }

    /// Gives the request its segments, and puts the data to be written there.
    func prepare(_ part: inout Part) {
        let segmentByteCount = part.layout.sectorCount * sectorSize
        let first = part.layout.firstSector
        var count = 0
        for offset in stride(from: 0, to: part.byteCount, by: segmentByteCount) {
            let byteCount = min(segmentByteCount, part.byteCount - offset)
            part.request.segments[count] = Segment(
                gref: references[count], firstSector: UInt8(first), lastSector: UInt8(first + byteCount / sectorSize - 1))
            if !part.data.isEmpty {
                unsafe part.data.withUnsafeBytes { data in
                    let source = unsafe UnsafeRawBufferPointer(rebasing: data[(part.dataOffset + offset)...].prefix(byteCount))
                    unsafe UnsafeMutableRawBufferPointer(start: pages[count].pointer + first * sectorSize, count: byteCount)
                        .copyMemory(from: source)
                }
            }
            count += 1
        }
        part.request.segmentCount = UInt8(count)
    }

    /// Takes what was read.
    func takeData(_ part: Part, into data: inout [UInt8]) {
        guard part.request.operation == .read else { return }
        let segmentByteCount = part.layout.sectorCount * sectorSize
        for (index, offset) in stride(from: 0, to: part.byteCount, by: segmentByteCount).enumerated() {
            let byteCount = min(segmentByteCount, part.byteCount - offset)
            unsafe data.withUnsafeMutableBytes { data in
                let target = unsafe UnsafeMutableRawBufferPointer(rebasing: data[(part.dataOffset + offset)...].prefix(byteCount))
                unsafe target.copyMemory(from: UnsafeRawBufferPointer(
                    start: pages[index].pointer + part.layout.firstSector * sectorSize, count: byteCount))
            }
        }
    }
}
