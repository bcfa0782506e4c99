import Blkif
import Glibc
import System
import TestSupport

/// Page-aligned memory that both ends of a ring share, full of `filling` at first.
@safe final class RingMemory: @unchecked Sendable {
    let bytes: UnsafeMutableRawPointer
    let byteCount: Int

    init(order: Int = 0, filling: UInt8 = 0xFF) {
        byteCount = 4096 << order
        unsafe bytes = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: 4096)
        unsafe bytes.initializeMemory(as: UInt8.self, repeating: filling, count: byteCount)
    }

    deinit { unsafe bytes.deallocate() }

    subscript(offset: Int) -> UInt8 {
        get { unsafe bytes.load(fromByteOffset: offset, as: UInt8.self) }
        set { unsafe bytes.storeBytes(of: newValue, toByteOffset: offset, as: UInt8.self) }
    }

    func load<T: FixedWidthInteger & BitwiseCopyable>(_ offset: Int, as type: T.Type = T.self) -> T {
        unsafe bytes.loadUnaligned(fromByteOffset: offset, as: type)
    }

    func store(_ value: UInt32, at offset: Int) { unsafe bytes.storeBytes(of: value, toByteOffset: offset, as: UInt32.self) }

    func slot(_ index: Int, _ abi: ABI) -> [UInt8] { (0..<abi.slotByteCount).map { self[64 + index * abi.slotByteCount + $0] } }

    static func == (a: RingMemory, b: RingMemory) -> Bool {
        unsafe a.byteCount == b.byteCount && memcmp(a.bytes, b.bytes, a.byteCount) == 0
    }

    /// A ring whose indices are all `index`, as after so many requests and responses.
    func wind(to index: UInt32) {
        for offset in [0, 8] { store(index, at: offset) }
        for offset in [4, 12] { store(index &+ 1, at: offset) }
        for offset in 16..<64 { self[offset] = 0 }
    }
}

extension Request {
    /// Any request at all, with the fields that its operation has.
    static func random(using generator: inout SeededGenerator) -> Request {
        var request = Request()
        request.rawOperation = Bool.random(using: &generator) ? .random(in: 0...7, using: &generator) : .random(in: 0...255, using: &generator)
        request.handle = .random(in: 0 ... .max, using: &generator)
        request.id = generator.next()
        request.sector = generator.next()
        switch request.operation {
        case .indirect:
            request.rawInnerOperation = .random(in: 0 ... .max, using: &generator)
            request.indirectSegmentCount = .random(in: 0 ... .max, using: &generator)
            for i in 0..<8 { request.indirectGrefs[i] = .random(in: 0 ... .max, using: &generator) }
        case .discard:
            request.discardFlag = .random(in: 0 ... .max, using: &generator)
            request.discardSectorCount = generator.next()
        default:
            request.segmentCount = .random(in: 0 ... .max, using: &generator)
            for i in 0..<11 {
                request.segments[i] = Segment(
                    gref: .random(in: 0 ... .max, using: &generator), firstSector: .random(in: 0 ... .max, using: &generator),
                    lastSector: .random(in: 0 ... .max, using: &generator))
            }
        }
        return request
    }

    /// A transfer of whole pages.
    static func transfer(_ operation: Operation, id: UInt64 = 0, sector: UInt64 = 0, pages: Int = 1) -> Request {
        var request = Request()
        request.rawOperation = operation.rawValue
        request.id = id
        request.sector = sector
        request.segmentCount = UInt8(pages)
        for i in 0..<min(pages, 11) { request.segments[i] = Segment(gref: UInt32(i + 1), firstSector: 0, lastSector: 7) }
        return request
    }

    /// All fields, to be compared.
    var fields: [UInt64] {
        var fields: [UInt64] = [
            UInt64(rawOperation), UInt64(handle), id, sector, UInt64(segmentCount), UInt64(discardFlag),
            discardSectorCount, UInt64(rawInnerOperation), UInt64(indirectSegmentCount),
        ]
        for i in 0..<11 {
            fields += [UInt64(segments[i].gref), UInt64(segments[i].firstSector), UInt64(segments[i].lastSector)]
        }
        for i in 0..<8 { fields.append(UInt64(indirectGrefs[i])) }
        return fields
    }
}
