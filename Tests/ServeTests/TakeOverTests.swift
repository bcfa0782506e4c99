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
import XenSimulation

/// What a process finds that comes after another one.
@Suite struct TakeOverTests {
    let served: ServedDisk
    let disk = MemoryDisk(sectorCount: 1000)

    init() throws { served = try ServedDisk() }

    private func start(_ configuration: BackendConfiguration? = nil) throws {
        try served.start(as: configuration) { [disk] () throws(Failure) in disk }
    }

    private func connectAndKill() throws {
        try start()
        try served.frontEnd.connect()
        try served.frontEnd.write(0, pattern(1, sectors: 8))
        served.kill()
        try served.joinKilled()
    }

    @Test func requestsUnderWayAreAnsweredOnce() throws {
        try connectAndKill()
        try served.frontEnd.begin((0..<40).map { .write(sector: UInt64($0), pattern(UInt8($0 + 1), sectors: 1)) })
        #expect(served.frontEnd.underWayCount == 32)
        try start()
        let ends = try served.frontEnd.finish()
        #expect(ends.count == 40)
        #expect(ends.allSatisfy { $0.status == .okay })
        #expect(try served.frontEnd.read(39, 1) == pattern(40, sectors: 1))
        #expect(try served.frontEnd.backendState() == 4)
        #expect(try served.unplug() == .unplugged)
        #expect(served.isLetGo)
    }

    /// An orderly end for a successor: no state changes, and requests wait.
    @Test func aProcessMayHandOver() throws {
        try start()
        try served.frontEnd.connect()
        try served.frontEnd.write(0, pattern(1, sectors: 8))
        for round in 2..<8 as Range<UInt8> {
            try served.frontEnd.begin((0..<40).map { .write(sector: UInt64($0) * 8, pattern(round, sectors: 8)) })
            served.stop.sendHandOver()
            #expect(try served.join() == .handedOver)
            #expect(served.isLetGo)
            #expect(try served.frontEnd.backendState() == 4)
            try start()
            #expect(try served.frontEnd.finish().allSatisfy { $0.status == .okay })
            #expect(try served.frontEnd.read(39 * 8, 8) == pattern(round, sectors: 8))
        }
        #expect(try served.unplug() == .unplugged)
    }

    /// What waits for room when a process hands over is not answered: the next one does it, and the guest sees no error.
    @Test func writesThatWaitForRoomAreHandedOver() throws {
        let waiting = WaitingDisk(disk)
        try served.start { () throws(Failure) in waiting }
        try served.frontEnd.connect()
        waiting.isFull.store(true, ordering: .relaxed)
        try served.frontEnd.begin((0..<40).map { .write(sector: UInt64($0) * 8, pattern(UInt8($0 + 1), sectors: 8)) })
        #expect(waitUntil { waiting.waiting.load(ordering: .relaxed) > 0 })
        served.stop.sendHandOver()
        #expect(try served.join() == .handedOver)
        #expect(try served.frontEnd.backendState() == 4)
        try start()
        let ends = try served.frontEnd.finish()
        #expect(ends.count == 40 && ends.allSatisfy { $0.status == .okay }, "\(ends.map(\.status))")
        for place in 0..<40 as Range<UInt64> { #expect(try served.frontEnd.read(place * 8, 8) == pattern(UInt8(place + 1), sectors: 8)) }
        #expect(try served.unplug() == .unplugged)
    }

    /// A guest that lets go of a disk with writes that wait is answered.
    @Test func writesThatWaitForRoomFailWhenTheGuestLetsGo() throws {
        let waiting = WaitingDisk(disk)
        try served.start { () throws(Failure) in waiting }
        try served.frontEnd.connect()
        waiting.isFull.store(true, ordering: .relaxed)
        try served.frontEnd.begin([.write(sector: 8, pattern(1, sectors: 8))])
        #expect(waitUntil { waiting.waiting.load(ordering: .relaxed) > 0 })
        served.stop.send()
        try served.frontEnd.setState(6)
        #expect(try served.join() == .unplugged)
        #expect(try disk.sectors(at: 8, count: 8) == [UInt8](repeating: 0, count: 4096))
    }

    @Test func withoutADeviceAskedForTheAbandonedOneIsContinued() throws {
        try connectAndKill()
        var configuration = served.configuration()
        configuration.device = nil
        try start(configuration)
        #expect(try served.frontEnd.read(0, 8) == pattern(1, sectors: 8))
        #expect(try served.remainingNodes() == ["backend 51728", "frontend 51728"])
        #expect(try served.unplug() == .unplugged)
    }

    /// The predecessor was killed between writing a response over its request and showing it.
    @Test(arguments: [Status.okay, .error], [8, 16])
    func aHalfWrittenResponseIsFinished(status: Status, written: Int) throws {
        try connectAndKill()
        try served.frontEnd.begin([.write(sector: 16, pattern(2, sectors: 8)), .write(sector: 24, pattern(3, sectors: 8))])
        let connection = try #require(served.frontEnd.connection)
        let page = connection.pages[0]
        let index = unsafe page.pointer.load(fromByteOffset: 8, as: UInt32.self)
        let id = unsafe page.pointer.load(fromByteOffset: 64 + 112 * Int(index) + 8, as: UInt64.self)
        let record = unsafe ResponseRecord(ring: page.pointer)
        record.set(index: index, id: id, rawOperation: Blkif.Operation.write.rawValue, status: status)
        unsafe connection.ring.writeSlot(index, Array(repeating: 0x5a as UInt8, count: written).span.bytes)

        let transfers = disk.transfers
        try start()
        #expect(try served.frontEnd.finish().map(\.status) == [status, .okay])
        // What was answered had been done.
        #expect(disk.transfers == transfers + 1)
        #expect(try served.frontEnd.read(24, 8) == pattern(3, sectors: 8))
        #expect(try served.unplug() == .unplugged)
    }

    @Test func anotherDiskMayNotTakeTheDevice() throws {
        try connectAndKill()
        try start(served.configuration(disk: "other"))
        let failure = #expect(throws: Failure.self) { try served.join() }
        #expect(failure?.description == "xvdb of VM web: in use by disk root (xvdc is free)")
        #expect(failure?.kind == .busy)
        #expect(try served.frontEnd.backendState() == 4)
        // The right one still may.
        try start()
        #expect(try served.frontEnd.read(0, 8) == pattern(1, sectors: 8))
        #expect(try served.unplug() == .unplugged)
    }

    @Test func whatDoesNotSurviveItsProcessIsNotContinued() throws {
        try connectAndKill()
        try start(served.configuration(resumable: false))
        #expect(throws: Failure.self) { try served.join() }
    }

    @Test func aLivingProcessKeepsItsDevice() throws {
        try start()
        try served.frontEnd.connect()
        let second = try SimulatedXen(served.machine)
        let stop = try StopRequest()
        #expect(throws: Failure.self) {
            _ = try Backend.attach(second, MemoryDisk(sectorCount: 1000), served.configuration(), stop: stop)
        }
        try served.frontEnd.write(0, pattern(3, sectors: 8))
        #expect(try served.unplug() == .unplugged)
    }

    enum Moment: CaseIterable { case connecting, takingOver, resizing }

    /// The toolstack says once that a device is to go: at whichever moment it comes, that is not written over.
    @Test(arguments: Moment.allCases) func anEndThatIsAskedForMeanwhile(moment: Moment) throws {
        let asked = AskedDisk(disk, served.machine), toolstack = try SimulatedXen(served.machine)
        let backend = "/local/domain/0/backend/dedupdisk/7/51728"
        let detach: @Sendable () -> Void = {
            do throws(Failure) {
                try toolstack.transaction("detach") { transaction throws(Failure) in
                    for (key, value) in [("online", "0"), ("state", "5")] { try toolstack.write("\(backend)/\(key)", value, in: transaction) }
                }
            } catch { Issue.record("\(error)") }
        }
        if moment == .takingOver { try connectAndKill() }
        if moment != .resizing { asked.whenAsked(detach) }
        try served.start { [asked] () throws(Failure) in asked }
        switch moment {
        case .connecting:
            try served.frontEnd.waitForBackend(2)
            try served.frontEnd.offer()
        case .takingOver:
            // Who looks earlier sees the state before it is written over.
            #expect(waitUntil { served.log.contains("continuing xvdb") })
        case .resizing:
            try served.frontEnd.connect()
            asked.whenAsked(detach)
            disk.resize(sectorCount: 2000)
        }
        try served.frontEnd.letGo()
        #expect(try served.join() == .unplugged)
        #expect(served.isLetGo)
    }

    @Test func theDiskMayHaveGrown() throws {
        try connectAndKill()
        disk.resize(sectorCount: 2000)
        #expect(try disk.refresh())
        try start()
        try served.frontEnd.write(1990, pattern(4, sectors: 10))
        // It is said once the rings are continued, which the write may have been faster than.
        #expect(try waitUntil { try served.frontEnd.backendValue("sectors") == "2000" })
        #expect(try served.unplug() == .unplugged)
    }

    @Test func whatDeadGuestsLeftIsRemoved() throws {
        try connectAndKill()
        served.machine.destroy(7)
        #expect(try served.remainingNodes() == ["backend 51728"])
        let successor = try SimulatedGuest(served.machine, id: 7, name: "web")
        try start(served.configuration(disk: "other"))
        let frontEnd = SimulatedFrontEnd(successor, number: 51728)
        try frontEnd.connect()
        try frontEnd.write(0, pattern(5, sectors: 8))
        served.stop.send()
        try frontEnd.letGo()
        #expect(try served.join() == .unplugged)
    }

    @Test func aDeviceOfAnotherBackEndIsLeftAlone() throws {
        let xen = try SimulatedXen(served.machine)
        for (device, number) in [("xvdb", 51728), ("xvdc", 51744)] {
            let backend = "/local/domain/0/backend/vbd/7/\(number)"
            try xen.write(backend + "/dev", device)
            try xen.write("/local/domain/7/device/vbd/\(number)/backend", backend)
            try xen.write("/local/domain/7/device/vbd/\(number)/state", "4")
        }
        try start()
        let failure = #expect(throws: Failure.self) { try served.join() }
        #expect(failure?.description == "xvdb of VM web: in use by /local/domain/0/backend/vbd/7/51728 (xvdd is free)")

        // Without a device asked for, the first free one is taken.
        var configuration = served.configuration()
        configuration.device = nil
        try start(configuration)
        let frontEnd = SimulatedFrontEnd(served.guest, number: 51760)
        try frontEnd.connect()
        #expect(try frontEnd.backendValue("dev") == "xvdd")
        served.stop.send()
        try frontEnd.letGo()
        #expect(try served.join() == .unplugged)
        #expect(try served.remainingNodes().sorted() == ["frontend 51728", "frontend 51744"])
    }

    @Test func whatIsBeingUnpluggedIsNotContinued() throws {
        try connectAndKill()
        let xen = try SimulatedXen(served.machine)
        try xen.write("/local/domain/0/backend/dedupdisk/7/51728/online", "0")
        try start()
        let failure = #expect(throws: Failure.self) { try served.join() }
        #expect(failure?.why.contains("being unplugged") == true)
        try served.frontEnd.setState(6)
        try start()
        try served.frontEnd.waitForBackend(2)
        served.stop.send()
        #expect(try served.join() == .unplugged)
    }
}

/// Has something done when it is asked for its size next, with rings there: that is in the middle of saying what the disk is.
private final class AskedDisk: ForwardingDisk {
    let next: MemoryDisk
    private let machine: SimulatedMachine
    private let body = Mutex<(@Sendable () -> Void)?>(nil)

    init(_ next: MemoryDisk, _ machine: SimulatedMachine) { (self.next, self.machine) = (next, machine) }

    func whenAsked(_ new: @escaping @Sendable () -> Void) { body.withLock { $0 = new } }

    var sectorCount: UInt64 {
        if machine.openPortCount(of: 0) > 0 {
            let taken = body.withLock { body in
                defer { body = nil }
                return body
            }
            taken?()
        }
        return next.sectorCount
    }
}

/// Writes to it wait while it is full and they may.
private final class WaitingDisk: ForwardingDisk {
    let next: MemoryDisk
    let isFull = Atomic(false)
    let waiting = Atomic(0)
    private let mayWait = Atomic(false)

    init(_ next: MemoryDisk) { self.next = next }

    func allowWaiting(_ isAllowed: Bool) { mayWait.store(isAllowed, ordering: .relaxed) }

    private func wait() throws(Failure) {
        guard isFull.load(ordering: .relaxed) else { return }
        waiting.add(1, ordering: .relaxed)
        while mayWait.load(ordering: .relaxed) { usleep(500) }
        throw Failure(.interrupted, "write to", "the disk", "told to wait no longer")
    }

    func write(at sector: UInt64, _ bytes: RawSpan) throws(Failure) {
        try wait()
        try next.write(at: sector, bytes)
    }

    func write(_ parts: Span<WritePart>, of bytes: RawSpan) throws(Failure) {
        try wait()
        try next.write(parts, of: bytes)
    }
}
