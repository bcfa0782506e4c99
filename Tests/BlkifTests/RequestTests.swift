import Blkif
import BlockModel
import System
import Testing
import TestSupport

@Suite struct RequestTests {
    private func rejection(_ request: Request, disk: UInt64 = 1000, readOnly: Bool = false, maxIndirect: Int = 256) -> Rejection? {
        do throws(Rejection) {
            try request.validate(diskSectors: disk, readOnly: readOnly, maxIndirect: maxIndirect)
            return nil
        } catch {
            return error
        }
    }

    @Test(arguments: [Operation.read, .write, .barrier, .flush]) func transfers(_ operation: Operation) throws {
        var request = Request.transfer(operation, sector: 100, pages: 11)
        #expect(try request.validate(diskSectors: 188, readOnly: false, maxIndirect: 0) == SectorRange(start: 100, count: 88))
        #expect(rejection(request, disk: 187) == .outsideDisk)

        for (first, last, expected) in [
            (0, 7, nil), (7, 7, nil), (3, 5, nil), (5, 3, Rejection.segmentBounds),
            (0, 8, .segmentBounds), (8, 8, .segmentBounds), (255, 255, .segmentBounds), (255, 0, .segmentBounds),
        ] as [(UInt8, UInt8, Rejection?)] {
            request.segments[10] = Segment(gref: 1, firstSector: first, lastSector: last)
            #expect(rejection(request) == expected, "\(first)...\(last)")
        }
        // Only the segments that count are looked at.
        request.segmentCount = 10
        #expect(rejection(request) == nil)
        for count in [12, 13, 128, 255] as [UInt8] {
            request.segmentCount = count
            #expect(rejection(request) == .segmentCount)
        }
        request.segmentCount = 0
        let mayBeEmpty = operation == .barrier || operation == .flush
        #expect(rejection(request) == (mayBeEmpty ? nil : .segmentCount))
        // Linux flushes at sector 2⁶⁴ − 1.
        request.sector = .max
        #expect(rejection(request) == (mayBeEmpty ? nil : .segmentCount))
    }

    @Test func sectorsThatOverflow() {
        for sector in [.max, .max - 7, .max - 8, 1 << 63, 993, 1000, 1001] as [UInt64] {
            #expect(rejection(.transfer(.read, sector: sector)) == .outsideDisk, "\(sector)")
            #expect(rejection(.transfer(.write, sector: sector, pages: 11)) == .outsideDisk, "\(sector)")
        }
        #expect(rejection(.transfer(.read, sector: 992)) == nil)
        #expect(rejection(.transfer(.read, sector: .max - 8), disk: .max) == nil)
    }

    @Test func discards() throws {
        var request = Request()
        request.rawOperation = Operation.discard.rawValue
        request.sector = 10
        request.discardSectorCount = 990
        #expect(try request.validate(diskSectors: 1000, readOnly: false, maxIndirect: 0) == SectorRange(start: 10, count: 990))
        request.discardFlag = 0xFF
        #expect(rejection(request) == nil)
        #expect(rejection(request, readOnly: true) == .readOnly)
        for count in [991, .max, .max - 9, .max - 10] as [UInt64] {
            request.discardSectorCount = count
            #expect(rejection(request) == .outsideDisk, "\(count)")
        }
    }

    @Test func readOnlyDisksRefuseEveryChange() {
        #expect(rejection(.transfer(.read), readOnly: true) == nil)
        for operation in [Operation.write, .barrier, .flush] {
            #expect(rejection(.transfer(operation), readOnly: true) == .readOnly)
        }
        #expect(rejection(.transfer(.flush, pages: 0), readOnly: true) == nil)
        #expect(rejection(.transfer(.barrier, pages: 0), readOnly: true) == nil)
        var indirect = indirectRequest(.write, 1)
        #expect(rejection(indirect, readOnly: true) == .readOnly)
        indirect.rawInnerOperation = Operation.read.rawValue
        #expect(rejection(indirect, readOnly: true) == nil)
    }

    private func indirectRequest(_ operation: Operation, _ count: UInt16) -> Request {
        var request = Request()
        request.rawOperation = Operation.indirect.rawValue
        request.rawInnerOperation = operation.rawValue
        request.indirectSegmentCount = count
        return request
    }

    @Test func indirectRequests() {
        for (count, expected) in [(0, Rejection.segmentCount), (1, nil), (256, nil), (257, .segmentCount), (65535, .segmentCount)] as [(UInt16, Rejection?)] {
            #expect(rejection(indirectRequest(.read, count)) == expected, "\(count)")
        }
        // Never more than the pages hold, whatever was offered.
        #expect(rejection(indirectRequest(.write, 4096), maxIndirect: 65536) == nil)
        #expect(rejection(indirectRequest(.write, 4097), maxIndirect: 65536) == .segmentCount)
        #expect(rejection(indirectRequest(.read, 1), maxIndirect: 0) == .unknownOperation)
        for inner in [Operation.barrier, .flush, .discard, .indirect] {
            #expect(rejection(indirectRequest(inner, 1)) == .innerOperation)
        }
        var request = indirectRequest(.read, 1)
        request.rawInnerOperation = 77
        #expect(rejection(request) == .innerOperation)
        #expect(request.responseOperation == 77)
        #expect([1, 512, 513, 4096].map { indirectRequest(.read, $0).indirectPageCount } == [1, 1, 2, 8])
    }

    @Test func unknownOperations() {
        for raw in [4, 7, 8, 128, 255] as [UInt8] {
            var request = Request.transfer(.read)
            request.rawOperation = raw
            #expect(request.operation == nil)
            #expect(rejection(request) == .unknownOperation)
            #expect(rejection(request)?.status == .unsupported)
            #expect(request.responseOperation == raw)
        }
        for other in [Rejection.innerOperation, .segmentCount, .segmentBounds, .outsideDisk, .readOnly] {
            #expect(other.status == .error)
        }
        #expect([Status.okay, .error, .unsupported].map(\.rawValue) == [0, -1, -2])
    }

    @Test func indirectPages() throws {
        var bytes = [UInt8](repeating: 0xFF, count: 4096)
        let segments = (0..<512).map { Segment(gref: UInt32($0 * 3), firstSector: UInt8($0 % 8), lastSector: 7) }
        var span = bytes.mutableSpan
        var page = unsafe span.mutableBytes
        for (i, segment) in segments.enumerated() { segment.store(into: &page, at: i * 8) }

        var decoded = [Segment](repeating: Segment(gref: 9, firstSector: 9, lastSector: 9), count: 700)
        var target = decoded.mutableSpan
        var next = unsafe Segment.decode(indirectPage: bytes.span.bytes, into: &target, from: 0)
        #expect(next == 512)
        next = unsafe Segment.decode(indirectPage: bytes.span.bytes, into: &target, from: next)
        #expect(next == 700)
        next = unsafe Segment.decode(indirectPage: bytes.span.bytes, into: &target, from: next)
        #expect(next == 700)
        #expect(decoded == segments + segments[..<188])

        let total = UInt64(segments.map(\.sectorCount).reduce(0, +))
        #expect(try Segment.range(of: segments.span, at: 5, diskSectors: 5 + total) == SectorRange(start: 5, count: total))
        #expect(throws: Rejection.outsideDisk) { try Segment.range(of: segments.span, at: 6, diskSectors: 5 + total) }
        #expect(throws: Rejection.outsideDisk) { try Segment.range(of: segments.span, at: .max, diskSectors: .max) }
        #expect(throws: Rejection.segmentBounds) {
            try Segment.range(of: [Segment(gref: 0, firstSector: 2, lastSector: 1)].span, at: 0, diskSectors: 100)
        }
    }

    /// Whatever the bytes, validation ends in a range within the disk or in a rejection.
    @Test(arguments: 0..<20 as Range<UInt64>) func anyRequestIsJudged(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<2000 {
            var request = Request.random(using: &generator)
            if Bool.random(using: &generator) { request.sector %= 2000 }
            if Bool.random(using: &generator) { request.segmentCount %= 12 }
            let disk = UInt64.random(in: 0...2000, using: &generator)
            if let range = try? request.validate(diskSectors: disk, readOnly: false, maxIndirect: 256) {
                #expect(range.fits(in: disk), "seed \(seed): \(request)")
            }
        }
    }
}
