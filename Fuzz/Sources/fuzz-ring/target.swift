import Blkif
import DiskExercise
import FuzzDriver
import System

/// The bytes are a life of a ring: what its frontend writes, and when the backend looks.
@main struct RingTarget {
    static func main() { fuzz { live($0) } }
}

private func live(_ script: Script) {
    var script = script
    let abi = ABI.allCases[script.number(below: 3)]
    let byteCount = 4096 << script.number(below: 5)
    let memory = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: 4096)
    defer { memory.deallocate() }
    memory.initializeMemory(as: UInt8.self, repeating: script.byte(), count: byteCount)
    let isResumed = script.byte() % 2 == 1
    guard
        var ring = try? isResumed
            ? BackRing(resuming: memory, byteCount: byteCount, abi: abi) : BackRing(page: memory, byteCount: byteCount, abi: abi)
    else { return }
    if !isResumed { memory.initializeMemory(as: UInt8.self, repeating: 0, count: 64) }
    var producer: UInt32 = 0
    while !script.isAtEnd {
        switch script.byte() % 6 {
        case 4, 5:
            guard var front = try? FrontRing(attaching: memory, byteCount: byteCount, abi: abi, at: producer), front.post(request(&script))
            else { continue }
            _ = front.pushRequests()
            producer &+= 1
        case 0: write(&script, into: memory, byteCount)
        case 1: memory.storeBytes(of: UInt32(truncatingIfNeeded: script.word()), toByteOffset: script.number(below: 4) * 4, as: UInt32.self)
        case 2:
            var taken = 0
            while let request = try? ring.nextRequest() {
                taken += 1
                require(taken <= ring.entries && ring.unanswered <= ring.entries, "more requests than slots")
                check(request)
            }
        default:
            for _ in 0..<script.byte() { ring.respond(id: script.word(), rawOperation: script.byte(), status: .okay) }
            _ = ring.pushResponses()
            _ = try? ring.finalCheckForRequests()
        }
    }
}

private func write(_ script: inout Script, into memory: UnsafeMutableRawPointer, _ byteCount: Int) {
    let offset = (Int(script.byte()) << 8 | Int(script.byte())) % byteCount
    let bytes = script.run(atMost: byteCount - offset)
    bytes.withUnsafeBytes { if let base = $0.baseAddress { (memory + offset).copyMemory(from: base, byteCount: $0.count) } }
}

/// One that is nearly right.
private func request(_ script: inout Script) -> Request {
    var request = Request()
    request.rawOperation = script.byte() % 8
    request.sector = script.word()
    request.segmentCount = script.byte() % 14
    for index in 0..<min(11, Int(request.segmentCount)) {
        request.segments[index] = Segment(gref: UInt32(script.byte()), firstSector: script.byte() % 10, lastSector: script.byte() % 10)
    }
    request.discardSectorCount = script.word()
    request.rawInnerOperation = script.byte() % 4
    request.indirectSegmentCount = UInt16(truncatingIfNeeded: script.word())
    return request
}

/// What a request that was found right may do: only what lies within the disk and the pages.
private func check(_ request: Request) {
    for (diskSectors, readOnly, maxIndirect) in [(1000, false, 256), (UInt64.max, true, 0), (1, false, 4096)] as [(UInt64, Bool, Int)] {
        guard let range = try? request.validate(diskSectors: diskSectors, readOnly: readOnly, maxIndirect: maxIndirect) else { continue }
        require(range.end <= diskSectors && range.end >= range.start, "outside the disk")
        require(!readOnly || request.effectiveOperation == .read || request.effectiveOperation == .flush, "a change to a read-only disk")
        guard request.operation != .discard else { continue }
        var sectors: UInt64 = 0
        for index in 0..<Int(request.segmentCount) {
            let segment = request.segments[index]
            require(segment.firstSector <= segment.lastSector && segment.lastSector <= 7, "outside the page")
            sectors += UInt64(segment.sectorCount)
        }
        require(sectors == range.count && sectors <= 88, "of another size than its segments")
    }
}
