import Blkif
import BlockModel
import DiskExercise
import FrontEnd
import Glibc
@testable import Serve
import Synchronization
import System
import Testing
import TestSupport
import XenBus

/// Several rings of one disk.
@Suite struct QueueTests {
    let served: ServedDisk
    let disk = MemoryDisk(sectorCount: 1000)

    init() throws { served = try ServedDisk(ringOrder: 1, queueCount: 4) }

    private func start() throws { try served.start { [disk] () throws(Failure) in disk } }

    @Test func allServeOneDisk() throws {
        try start()
        try served.frontEnd.connect()
        #expect(served.machine.openPortCount(of: 0) == 4)
        #expect(served.machine.mappedPageCount(of: 7) == 8)
        for queue in 0..<4 {
            let bytes = pattern(UInt8(queue + 1), sectors: 8)
            try served.frontEnd.begin([.write(sector: UInt64(queue * 8), bytes)], on: [queue])
            #expect(try served.frontEnd.finish().map(\.status) == [.okay])
            try served.frontEnd.begin([.read(sector: UInt64(queue * 8), count: 8)], on: [queue + 1])
            #expect(try served.frontEnd.finish().map(\.data) == [bytes])
        }
        #expect(try served.unplug() == .unplugged)
        #expect(served.isLetGo)
    }

    /// A ring whose request takes long leaves the others alone.
    @Test func eachHasAThread() throws {
        let slow = SlowDisk(disk)
        try served.start { () throws(Failure) in slow }
        try served.frontEnd.connect()
        try served.frontEnd.begin([.read(sector: SlowDisk.slowSector, count: 1)], on: [0])
        let page = try served.guest.allocatePages(1)[0]
        for queue in 1..<4 {
            var read = Request()
            read.id = 99
            read.segmentCount = 1
            read.segments[0] = Segment(gref: served.guest.grant(page), firstSector: 0, lastSector: 7)
            #expect(try served.frontEnd.exchange([read], on: queue).map(\.rawStatus) == [0])
        }
        #expect(served.frontEnd.underWayCount == 1)
        slow.goOn()
        #expect(try served.frontEnd.finish().map(\.status) == [.okay])
        #expect(try served.unplug() == .unplugged)
    }

    /// What asks for the end interrupts no call to the disk.
    @Test func signalsAreForOtherThreads() throws {
        let noting = NotingDisk(disk)
        try served.start { () throws(Failure) in noting }
        try served.frontEnd.connect()
        _ = try served.frontEnd.read(0, 1)
        #expect(noting.blockedSignals.withLock { $0 } == [SIGINT, SIGTERM, SIGHUP])
        #expect(try served.unplug() == .unplugged)
    }

    /// Requests wait on all rings when the process is killed; its successor answers each once.
    @Test func allAreContinued() throws {
        try start()
        try served.frontEnd.connect()
        served.kill()
        try served.joinKilled()
        try served.frontEnd.begin((0..<300).map { .write(sector: UInt64($0), pattern(UInt8($0 % 200 + 1), sectors: 1)) })
        #expect(served.frontEnd.underWayCount == 256)
        try start()
        let ends = try served.frontEnd.finish()
        #expect(ends.count == 300 && ends.allSatisfy { $0.status == .okay })
        for sector in [0, 1, 2, 3, 298, 299] {
            #expect(try served.frontEnd.read(UInt64(sector), 1) == pattern(UInt8(sector % 200 + 1), sectors: 1))
        }
        // It is said once the rings are continued, which their requests may have been faster than.
        #expect(waitUntil { served.log.contains("where another process stopped") })
        #expect(try served.unplug() == .unplugged)
        #expect(served.isLetGo)
    }

    /// The predecessor was killed while each of its threads was writing a response.
    @Test func eachHasItsRecordOfTheResponseBeingWritten() throws {
        try start()
        try served.frontEnd.connect()
        served.kill()
        try served.joinKilled()
        try served.frontEnd.begin((0..<4).map { .write(sector: UInt64($0), pattern(9, sectors: 1)) }, on: [0, 1, 2, 3])
        for (queue, connection) in served.frontEnd.connections.enumerated() {
            let page = connection.pages[0]
            let id = unsafe page.pointer.load(fromByteOffset: 64 + 8, as: UInt64.self)
            unsafe ResponseRecord(ring: page.pointer).set(
                index: 0, id: id, rawOperation: Blkif.Operation.write.rawValue, status: queue % 2 == 0 ? .okay : .error)
            unsafe connection.ring.writeSlot(0, Array(repeating: 0x5a as UInt8, count: 12).span.bytes)
        }
        let transfers = disk.transfers
        try start()
        #expect(try served.frontEnd.finish().map(\.status) == [.okay, .error, .okay, .error])
        // What was answered had been done.
        #expect(disk.transfers == transfers)
        #expect(try served.unplug() == .unplugged)
    }

    @Test func oneThatBreaksClosesTheDevice() throws {
        try start()
        try served.frontEnd.connect()
        let connection = served.frontEnd.connections[2]
        connection.ring.setRequestProducer(1000)
        try served.guest.xen.notify(connection.port)
        try served.frontEnd.waitForBackend(5)
        #expect(served.isLetGo)
        #expect(try served.frontEnd.backendValue("error")?.contains("req_prod") == true)
        try served.frontEnd.disconnect()
        try served.frontEnd.setState(1)
        try served.frontEnd.connect()
        #expect(try served.unplug() == .unplugged)
    }

    /// Two rings that are one page: nonsense to their guest, and to nobody else.
    @Test func oneRingOfferedTwice() throws {
        try start()
        try served.frontEnd.waitForBackend(2)
        try served.frontEnd.offer()
        try served.frontEnd.waitForBackend(4)
        try served.frontEnd.setState(5)
        try served.frontEnd.waitForBackend(5)
        let directory = served.frontEnd.directory
        for index in 0..<2 {
            let reference = try served.guest.xen.read("\(directory)/queue-0/ring-ref\(index)") ?? []
            try served.guest.xen.write("\(directory)/queue-1/ring-ref\(index)", reference, in: .none)
        }
        try served.frontEnd.setState(6)
        try served.frontEnd.waitForBackend(6)
        try served.frontEnd.setState(3)
        try served.frontEnd.waitForBackend(4)
        for connection in served.frontEnd.connections {
            connection.ring.setRequestProducer(64)
            try served.guest.xen.notify(connection.port)
        }
        #expect(try served.unplug() == .unplugged)
        #expect(served.isLetGo)
    }
}

/// A disk one of whose sectors takes its time.
private final class SlowDisk: ForwardingDisk {
    static let slowSector: UInt64 = 500
    let next: MemoryDisk
    private let isReleased = Atomic(false)

    init(_ disk: MemoryDisk) { next = disk }
    func goOn() { isReleased.store(true, ordering: .releasing) }

    func read(at sector: UInt64, into buffer: inout MutableRawSpan) throws(Failure) {
        if sector == Self.slowSector { waitUntil { isReleased.load(ordering: .acquiring) } }
        try next.read(at: sector, into: &buffer)
    }
}

/// One that notes which signals the thread that reads it does not take.
private final class NotingDisk: ForwardingDisk {
    let next: MemoryDisk
    let blockedSignals = Mutex<[Int32]>([])

    init(_ disk: MemoryDisk) { next = disk }

    func read(at sector: UInt64, into buffer: inout MutableRawSpan) throws(Failure) {
        blockedSignals.withLock { $0 = blocked([SIGINT, SIGTERM, SIGHUP]) }
        try next.read(at: sector, into: &buffer)
    }
}
