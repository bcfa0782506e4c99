import Blkif
import DiskExercise
import FrontEnd
import Serve
import Synchronization
import System
import Testing
import XenBus

/// What no honest guest does. Each time the process goes on, and an honest guest is served afterwards.
@Suite struct HostileTests {
    let served: ServedDisk
    let disk = MemoryDisk(sectorCount: 1000)

    init() throws {
        served = try ServedDisk()
        try served.start { [disk] () throws(Failure) in disk }
    }

    private func request(
        _ operation: UInt8, sector: UInt64 = 0, id: UInt64 = 77, _ segments: [(gref: UInt32, first: UInt8, last: UInt8)] = [],
        count: UInt8? = nil
    ) -> Request {
        var request = Request()
        request.rawOperation = operation
        request.id = id
        request.sector = sector
        request.segmentCount = count ?? UInt8(segments.count)
        for (index, segment) in segments.enumerated() {
            request.segments[index] = Segment(gref: segment.gref, firstSector: segment.first, lastSector: segment.last)
        }
        return request
    }

    /// A page that is granted, for requests that are wrong in something else.
    private func page() throws -> GrantReference { served.guest.grant(try served.guest.allocatePages(1)[0]) }

    private func isStillServed() throws {
        try served.frontEnd.disconnect()
        try served.frontEnd.setState(1)
        try served.frontEnd.connect()
        try served.frontEnd.write(8, pattern(9, sectors: 8))
        #expect(try served.frontEnd.read(8, 8) == pattern(9, sectors: 8))
        #expect(try served.frontEnd.backendValue("error") == nil)
        #expect(try served.unplug() == .unplugged)
        #expect(served.isLetGo)
    }

    @Test func badRequestsFailAlone() throws {
        try served.frontEnd.connect()
        let good = try page()
        var discard = request(5)
        discard.discardSectorCount = 1001
        var hugeDiscard = request(5, sector: 8)
        hugeDiscard.discardSectorCount = .max
        var secureDiscard = request(5)
        secureDiscard.discardSectorCount = 8
        secureDiscard.discardFlag = 1
        let segments = try served.guest.allocatePages(1)[0]
        func indirect(_ operation: UInt8, sector: UInt64 = 0, _ list: [Segment], count: UInt16? = nil, granted: Bool = true) -> Request {
            var indirect = request(operation, sector: sector)
            // One page for all of them: they differ in what their slots say.
            indirect.makeIndirect(list, in: segments, granted ? served.guest.grant(segments) : 54321)
            if let count { indirect.indirectSegmentCount = count }
            return indirect
        }
        let whole = Segment(gref: good, firstSector: 0, lastSector: 7)
        let cases: [(Request, Int16)] = [
            (request(0, count: 0), -1), (request(1, count: 0), -1), (request(1, [(good, 0, 7)], count: 12), -1),
            (request(1, [(good, 0, 7)], count: 255), -1), (request(1, [(good, 5, 4)]), -1), (request(1, [(good, 0, 8)]), -1),
            (request(1, [(good, 255, 255)]), -1), (request(1, [(good, 0, 255)]), -1), (request(1, [(good, 1, 0)]), -1),
            (request(1, [(12345, 0, 7)]), -1), (request(0, [(12345, 0, 7)]), -1), (request(0, [(good, 0, 7), (0, 0, 7)]), -1),
            (request(1, sector: 993, [(good, 0, 7)]), -1), (request(0, sector: .max, [(good, 0, 7)]), -1),
            (request(0, sector: .max - 6, [(good, 0, 7)]), -1), (request(3, sector: 1000, [(good, 0, 7)]), -1),
            (request(2, [(12345, 0, 7)]), -1), (discard, -1), (hugeDiscard, -1), (secureDiscard, -2),
            (indirect(1, [whole], count: 0), -1), (indirect(1, [whole], count: 257), -1), (indirect(1, [whole], count: 65535), -1),
            (indirect(1, [whole], granted: false), -1), (indirect(1, sector: 1000, [whole]), -1), (indirect(1, sector: .max, [whole]), -1),
            (indirect(3, [whole]), -1), (indirect(5, [whole]), -1), (indirect(6, [whole]), -1), (indirect(1, sector: 993, [whole]), -1),

            (request(4), -2), (request(7), -2), (request(255, count: 255), -2),
            (request(1, sector: 992, [(good, 0, 7)]), 0), (request(0, [(good, 7, 7)]), 0), (request(3), 0), (request(2), 0),
        ]
        var requests: [Request] = []
        for (index, (request, _)) in cases.enumerated() {
            var request = request
            request.id = UInt64(index) << 40 | 3
            requests.append(request)
        }
        // As many as the ring has room for, then the rest.
        let responses = try served.frontEnd.exchange(Array(requests[..<32])) + served.frontEnd.exchange(Array(requests[32...]))
        for (index, (response, (request, status))) in zip(responses, cases).enumerated() {
            #expect(response == Response(id: UInt64(index) << 40 | 3, rawOperation: request.responseOperation, rawStatus: status), "\(index)")
        }
        // Nothing was written but what was right.
        #expect(disk.bytes.allSatisfy { $0 == 0 })
        try isStillServed()
        // Those that failed name pages that are not granted.
        #expect(served.log.lines.last == "xvdb of VM web: requests refused: 29, failed: 4")
    }

    @Test func badSegmentsOfIndirectRequestsFailThem() throws {
        try served.frontEnd.connect()
        let good = try page()
        let whole = Segment(gref: good, firstSector: 0, lastSector: 7)
        let bad = [
            Segment(gref: good, firstSector: 0, lastSector: 8), Segment(gref: good, firstSector: 7, lastSector: 6),
            Segment(gref: good, firstSector: 255, lastSector: 255), Segment(gref: 54321, firstSector: 0, lastSector: 7),
        ]
        var requests: [Request] = []
        for (index, segment) in (bad + [whole]).enumerated() {
            let page = try served.guest.allocatePages(1)[0]
            var write = request(UInt8(index % 2), id: UInt64(index))
            write.makeIndirect(Array(repeating: whole, count: 12) + [segment], in: page, served.guest.grant(page))
            requests.append(write)
        }
        // More than the disk has.
        let page = try served.guest.allocatePages(1)[0]
        var write = request(1, id: 5)
        write.makeIndirect(Array(repeating: whole, count: 256), in: page, served.guest.grant(page))
        let responses = try served.frontEnd.exchange(requests + [write])
        #expect(responses.map(\.rawStatus) == [-1, -1, -1, -1, 0, -1])
        #expect(responses.map(\.rawOperation) == [0, 1, 0, 1, 0, 1])
        #expect(disk.bytes.allSatisfy { $0 == 0 })
        try isStillServed()
    }

    @Test(arguments: [33, 1000, 0x8000_0000, 0xffff_ffff] as [UInt32])
    func aRingThatIsOverrunIsClosed(producer: UInt32) throws {
        try served.frontEnd.connect()
        let connection = try #require(served.frontEnd.connection)
        connection.ring.setRequestProducer(producer)
        try served.guest.xen.notify(connection.port)
        try served.frontEnd.waitForBackend(5)
        #expect(served.isLetGo)
        #expect(served.log.contains("closing xvdb"))
        #expect(try served.frontEnd.backendValue("error")?.contains("ring") == true)
        try isStillServed()
    }

    @Test func grantsThatVanishFailTheirRequestsOnly() throws {
        try served.frontEnd.connect()
        let references = try (0..<8).map { _ in try page() }
        for reference in references[4...] { served.guest.revoke(reference) }
        var requests: [Request] = []
        for index in 0..<24 {
            requests.append(request(UInt8(index % 2), sector: UInt64(index * 8), id: UInt64(index), [(references[index % 8], 0, 7)]))
        }
        let responses = try served.frontEnd.exchange(requests)
        #expect(responses.map(\.rawStatus) == (0..<24).map { $0 % 8 < 4 ? 0 : -1 })
        try isStillServed()
    }

    @Test(arguments: [
        ("ring-ref", ""), ("ring-ref", "x"), ("ring-ref", "-1"), ("ring-ref", "4294967296"), ("ring-ref", "99999"),
        ("ring-ref", "99999999999999999999999999"), ("ring-ref", "8\0"), ("event-channel", "0"), ("event-channel", "4000"),
        ("event-channel", "4294967295"), ("event-channel", "\u{fffd}"), ("protocol", ""), ("protocol", "vax-abi"),
        ("multi-queue-num-queues", "0"), ("multi-queue-num-queues", "5"), ("multi-queue-num-queues", "4294967297"),
        ("multi-queue-num-queues", "two"), ("multi-queue-num-queues", ""), ("multi-queue-num-queues", "2"),
        ("num-ring-pages", "0"), ("num-ring-pages", "3"), ("num-ring-pages", "32"), ("num-ring-pages", "16"), ("num-ring-pages", "-1"),
        ("ring-page-order", "5"), ("ring-page-order", "64"), ("ring-page-order", "4"), ("ring-page-order", "zero"),
    ])
    func anythingMayStandInTheStore(key: String, value: String) throws {
        try served.frontEnd.waitForBackend(2)
        let frontEnd = served.frontEnd
        try frontEnd.set("ring-ref", "8")
        try frontEnd.set("event-channel", "1")
        try frontEnd.set(key, value)
        try frontEnd.setState(3)
        try frontEnd.waitForBackend(5)
        #expect(served.isLetGo)
        try frontEnd.setState(6)
        try frontEnd.waitForBackend(6)
        for node in ["ring-ref", "event-channel", "protocol", "ring-page-order", "num-ring-pages", "multi-queue-num-queues"] {
            try served.guest.xen.remove("\(frontEnd.directory)/\(node)")
        }
        try frontEnd.setState(1)
        try frontEnd.connect()
        try isStillServed()
    }

    /// Several queues, one of which is not as it should be: none of them is kept.
    @Test(
        arguments: [
            ("queue-1/ring-ref", nil), ("queue-1/event-channel", nil), ("queue-1/ring-ref", "99999"), ("queue-1/event-channel", "0"),
            ("queue-1/event-channel", "1"), ("queue-0/ring-ref", "x"), ("ring-page-order", "1"), ("num-ring-pages", "2"),
            ("queue-1", nil),
        ] as [(String, String?)])
    func queuesAreTakenAllOrNone(key: String, value: String?) throws {
        try served.frontEnd.waitForBackend(2)
        let frontEnd = served.frontEnd, xen = served.guest.xen
        try frontEnd.set("multi-queue-num-queues", "2")
        for queue in 0..<2 {
            try frontEnd.set("queue-\(queue)/ring-ref", "\(try page())")
            try frontEnd.set("queue-\(queue)/event-channel", "\(try xen.openPort(to: 0))")
        }
        if let value { try frontEnd.set(key, value) } else { try xen.remove("\(frontEnd.directory)/\(key)") }
        // Port 1 is the first queue's, which can't be had twice.
        try frontEnd.setState(3)
        try frontEnd.waitForBackend(5)
        #expect(served.isLetGo)
        try frontEnd.setState(6)
        try frontEnd.waitForBackend(6)
        for node in ["multi-queue-num-queues", "ring-page-order", "num-ring-pages"] { try xen.remove("\(frontEnd.directory)/\(node)") }
        try frontEnd.setState(1)
        try frontEnd.connect()
        try isStillServed()
    }

    @Test(arguments: ["", "7", "0", "-4", "four", "99999999999999999999", "4 ", String(repeating: "4", count: 5000)])
    func statesMayBeAnything(state: String) throws {
        try served.frontEnd.connect()
        try served.frontEnd.set("state", state)
        try served.frontEnd.write(0, pattern(1, sectors: 8))
        try served.frontEnd.setState(4)
        try isStillServed()
    }

    @Test func storms() throws {
        try served.frontEnd.connect()
        let connection = try #require(served.frontEnd.connection)
        for round in 0..<3000 {
            try served.guest.xen.notify(connection.port)
            try served.frontEnd.setState(4)
            if round % 500 == 0 { try served.frontEnd.write(0, pattern(UInt8(round / 500 + 1), sectors: 8)) }
        }
        try isStillServed()
    }

    /// Each request is as large as it may be; the ring is full of them all the time.
    @Test func discardsOfEverything() throws {
        try served.frontEnd.connect()
        var discard = request(5)
        discard.discardSectorCount = 1000
        for _ in 0..<30 {
            #expect(try served.frontEnd.exchange(Array(repeating: discard, count: 32)).allSatisfy { $0.rawStatus == 0 })
        }
        try isStillServed()
    }

    /// Requests that are merged because they are neighbours on the disk have their data in any pages, in any order.
    @Test func neighboursOnTheDiskMayLieAnywhere() throws {
        try served.frontEnd.connect()
        let pages = try served.guest.allocatePages(32), order = (0..<16).map { $0 * 7 % 16 * 2 }
        for (index, page) in order.enumerated() {
            var bytes = unsafe MutableRawSpan(_unsafeStart: pages[page].pointer, byteCount: xenPageSize)
            bytes.copy(pattern(UInt8(index + 1), sectors: 8).rawBytes, to: 0)
        }
        let references = order.map { served.guest.grant(pages[$0]) }
        func requests(_ operation: UInt8) -> [Request] {
            (0..<8).map { index in
                let segments = [references[2 * index], references[2 * index + 1]].map { (gref: $0, first: 0 as UInt8, last: 7 as UInt8) }
                return request(operation, sector: UInt64(index * 16), id: UInt64(index), segments)
            }
        }
        let all = (1...16).flatMap { pattern($0, sectors: 8) }
        #expect(try served.frontEnd.exchange(requests(1)).allSatisfy { $0.rawStatus == 0 })
        #expect(disk.largestTransfer == all.count)
        #expect(Array(disk.bytes.prefix(all.count)) == all)
        // And back, into the same pages, emptied, with those between them left alone.
        for page in pages {
            var bytes = unsafe MutableRawSpan(_unsafeStart: page.pointer, byteCount: xenPageSize)
            bytes.zero(at: 0, count: xenPageSize)
        }
        #expect(try served.frontEnd.exchange(requests(0)).allSatisfy { $0.rawStatus == 0 })
        for (page, memory) in pages.enumerated() {
            let expected = order.firstIndex(of: page).map { pattern(UInt8($0 + 1), sectors: 8) } ?? pattern(0, sectors: 8)
            let found = unsafe Array(UnsafeRawBufferPointer(start: memory.pointer, count: xenPageSize))
            #expect(found == expected, "page \(page)")
        }
        #expect(disk.transfers == 2)
        try isStillServed()
    }

    /// Segments that change while they are read: each request is done as some moment had it, or fails, and nothing is
    /// written beyond its range.
    @Test func segmentsThatChangeWhileTheyAreRead() throws {
        try served.frontEnd.connect()
        let good = try page(), segments = try served.guest.allocatePages(1)[0]
        let whole = Segment(gref: good, firstSector: 0, lastSector: 7), wrong = Segment(gref: good, firstSector: 9, lastSector: 200)
        var write = request(1, sector: 8)
        write.makeIndirect(Array(repeating: whole, count: 64), in: segments, served.guest.grant(segments))
        let isDone = Atomic(false)
        let rewriter = BackgroundThread {
            var bytes = unsafe MutableRawSpan(_unsafeStart: segments.pointer, byteCount: xenPageSize)
            var round = 0
            while !isDone.load(ordering: .relaxed) {
                round += 1
                (round % 2 == 0 ? whole : wrong).store(into: &bytes, at: round % 64 * 8)
            }
            return true
        }
        for _ in 0..<50 {
            let responses = try served.frontEnd.exchange(Array(repeating: write, count: 32))
            #expect(responses.allSatisfy { $0.rawStatus == 0 || $0.rawStatus == -1 })
        }
        isDone.store(true, ordering: .relaxed)
        #expect(rewriter.join() == true)
        try isStillServed()
    }

    @Test func connectionsInRapidSequence() throws {
        try served.frontEnd.waitForBackend(2)
        for _ in 0..<100 {
            try served.frontEnd.setState(3)
            try served.frontEnd.setState(6)
            try served.frontEnd.setState(1)
        }
        try served.frontEnd.waitForBackend(2, 5, 6)
        try served.frontEnd.setState(6)
        try served.frontEnd.waitForBackend(6)
        try served.frontEnd.setState(1)
        try served.frontEnd.connect()
        try isStillServed()
    }
}
