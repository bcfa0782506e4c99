import BlockModel
import DiskExercise
import Glibc
import Serve
import System
import Testing
import TestSupport
import XenBus
import XenSimulation

@Suite struct LifeCycleTests {
    let served: ServedDisk
    let disk = MemoryDisk(sectorCount: 1000)

    init() throws { served = try ServedDisk() }

    private func start(_ configuration: BackendConfiguration? = nil) throws { try start(disk, configuration) }

    private func start(_ disk: MemoryDisk, _ configuration: BackendConfiguration? = nil) throws {
        try served.start(as: configuration) { () throws(Failure) in disk }
    }

    @Test func plugAndUnplug() throws {
        try start()
        try served.frontEnd.waitForBackend(2)
        #expect(try served.remainingNodes() == ["backend 51728", "frontend 51728"])
        #expect(try served.frontEnd.backendDirectory() == "/local/domain/0/backend/dedupdisk/7/51728")
        #expect(try served.frontEnd.backendValue("frontend") == served.frontEnd.directory)
        try served.frontEnd.connect()
        let expected = [
            "sectors": "1000", "sector-size": "512", "physical-sector-size": "4096", "info": "0", "mode": "w", "online": "1",
            "feature-flush-cache": "1", "feature-barrier": "1", "feature-discard": "1", "discard-granularity": "4096",
            "feature-max-indirect-segments": "256", "discard-alignment": "0", "discard-secure": "0", "multi-queue-max-queues": "4", "max-ring-page-order": "4",
            "max-ring-pages": "16",
        ]
        for (key, value) in expected { #expect(try served.frontEnd.backendValue(key) == value, "\(key)") }
        #expect(try served.frontEnd.backendValue("feature-persistent") == nil)

        try served.frontEnd.write(3, pattern(1, sectors: 20))
        #expect(try served.frontEnd.read(3, 20) == pattern(1, sectors: 20))
        served.stop.send()
        try served.frontEnd.waitForBackend(5)
        #expect(try served.frontEnd.backendValue("online") == "0")
        // As long as the guest has not let go, it is served.
        #expect(try served.frontEnd.read(3, 20) == pattern(1, sectors: 20))
        try served.frontEnd.letGo()
        #expect(try served.join() == .unplugged)
        #expect(try served.remainingNodes() == [])
        #expect(served.isLetGo)
    }

    /// Whenever a process dies while the guest connects, the store never shows a connected device without its
    /// properties, nor a new one in the state that makes others take it.
    @Test(arguments: 0..<50)
    func statesNeverComeBeforeWhatTheyMean(calls: Int) throws {
        try served.start(killedAfterCalls: calls) { [disk] () throws(Failure) in disk }
        try waitUntil { try served.frontEnd.backendState() == 2 || isDead }
        if try served.frontEnd.backendState() == 2 { try served.frontEnd.offer() }
        try waitUntil { try served.frontEnd.backendState() >= 4 || isDead }
        let state = try served.frontEnd.backendState()
        #expect([0, 2, 4].contains(state))
        if state > 0 { #expect(try served.frontEnd.backendValue("max-ring-page-order") == "4") }
        if state == 4 {
            #expect(try served.frontEnd.backendValue("sectors") == "1000")
            #expect(try served.frontEnd.backendValue("feature-flush-cache") == "1")
            try served.frontEnd.setState(4)
        }
        served.kill()
        try served.joinKilled()

        // Whatever was left, another process goes on with it.
        try start()
        if state != 4 {
            if try served.frontEnd.backendState() != 2 || state == 0 { try served.frontEnd.waitForBackend(2, 4) }
            if state == 0 { try served.frontEnd.offer() }
            try served.frontEnd.waitForBackend(4)
            try served.frontEnd.setState(4)
        }
        try served.frontEnd.write(0, pattern(2, sectors: 8))
        #expect(try served.unplug() == .unplugged)
        #expect(try served.remainingNodes() == [])
    }

    private var isDead: Bool { (try? served.process.read("domid")) == nil }

    @Test func theGuestShutsDown() throws {
        try start()
        try served.frontEnd.connect()
        try served.frontEnd.disconnect()
        #expect(served.isLetGo)
        served.machine.destroy(7)
        #expect(try served.join() == .guestGone)
        #expect(try served.remainingNodes() == [])
    }

    @Test func theGuestIsDestroyed() throws {
        try start()
        try served.frontEnd.connect()
        try served.frontEnd.write(0, pattern(1, sectors: 8))
        #expect(!served.isLetGo)
        served.machine.destroy(7)
        #expect(try served.join() == .guestGone)
        #expect(try served.remainingNodes() == [])
        #expect(served.isLetGo)
    }

    @Test func theGuestRemovesItsNodes() throws {
        try start()
        try served.frontEnd.connect()
        try served.guest.xen.remove(served.frontEnd.directory)
        #expect(try served.join() == .guestGone)
        #expect(try served.remainingNodes() == [])
        #expect(served.isLetGo)
    }

    @Test func ourNodesAreRemoved() throws {
        try start()
        try served.frontEnd.connect()
        try SimulatedXen(served.machine).remove("/local/domain/0/backend/dedupdisk/7/51728")
        #expect(try served.join() == .unplugged)
        #expect(try served.remainingNodes() == [])
    }

    @Test func aSecondStopForces() throws {
        try start()
        try served.frontEnd.connect()
        served.stop.send()
        try served.frontEnd.waitForBackend(5)
        served.stop.send()
        #expect(try served.join() == .forced)
        #expect(try served.remainingNodes() == [])
        #expect(served.isLetGo)
    }

    @Test func thatTheGuestTakesLongIsSaid() throws {
        var configuration = served.configuration()
        configuration.patience = .milliseconds(20)
        try start(configuration)
        try served.frontEnd.connect()
        served.stop.send()
        try served.frontEnd.waitForBackend(5)
        #expect(waitUntil { served.log.contains("has not let go of xvdb") })
        try served.frontEnd.letGo()
        #expect(try served.join() == .unplugged)
    }

    @Test(arguments: [1, 6])
    func aGuestThatHasNothingOpenIsNotWaitedFor(state: Int) throws {
        try start()
        try served.frontEnd.waitForBackend(2)
        if state == 6 {
            try served.frontEnd.connect()
            try served.frontEnd.disconnect()
        }
        served.stop.send()
        #expect(try served.join() == .unplugged)
        #expect(try served.remainingNodes() == [])
    }

    @Test func somebodyElseUnplugs() throws {
        try start()
        try served.frontEnd.connect()
        let xen = try SimulatedXen(served.machine)
        try xen.write("/local/domain/0/backend/dedupdisk/7/51728/online", "0")
        try xen.write("/local/domain/0/backend/dedupdisk/7/51728/state", "5")
        try served.frontEnd.letGo()
        #expect(try served.join() == .unplugged)
        #expect(try served.remainingNodes() == [])
    }

    @Test func theGuestComesBack() throws {
        try start()
        for round in 0..<5 as Range<UInt8> {
            try served.frontEnd.connect()
            #expect(try served.frontEnd.read(0, 8) == pattern(round, sectors: 8))
            try served.frontEnd.write(0, pattern(round + 1, sectors: 8))
            try served.frontEnd.disconnect()
            #expect(served.isLetGo)
            try served.frontEnd.setState(1)
        }
        try served.frontEnd.waitForBackend(2)
        served.stop.send()
        #expect(try served.join() == .unplugged)
    }

    @Test func theGuestComesBackWithoutWaiting() throws {
        try start()
        try served.frontEnd.connect()
        try served.frontEnd.disconnect()
        try served.frontEnd.offer()
        try served.frontEnd.waitForBackend(4)
        try served.frontEnd.setState(4)
        try served.frontEnd.write(0, pattern(1, sectors: 8))
        #expect(try served.unplug() == .unplugged)
    }

    /// A guest's crash kernel finds the device as the old kernel left it.
    @Test func theGuestStartsAnewWithoutClosing() throws {
        try start()
        try served.frontEnd.connect()
        try served.frontEnd.setState(1)
        try served.frontEnd.connect()
        try served.frontEnd.write(0, pattern(1, sectors: 8))
        #expect(try served.unplug() == .unplugged)
    }

    /// A guest that was suspended may come back with other rings, and say so by state 3 alone.
    @Test func theGuestMovesItsRings() throws {
        try start()
        try served.frontEnd.connect()
        try served.frontEnd.write(0, pattern(1, sectors: 8))
        try served.frontEnd.offer()
        #expect(try served.frontEnd.read(0, 8) == pattern(1, sectors: 8))
        try served.frontEnd.setState(4)
        try served.frontEnd.write(0, pattern(2, sectors: 8))
        #expect(try served.unplug() == .unplugged)
        #expect(served.isLetGo)
    }

    /// The first frontends had 32 bits, and no name for that.
    @Test func aGuestThatNamesNoProtocolHas32Bits() throws {
        let served = try ServedDisk(abi: .x86_32)
        served.frontEnd.namesProtocol = false
        try served.start { [disk] () throws(Failure) in disk }
        try served.frontEnd.connect()
        try served.frontEnd.write(5, pattern(1, sectors: 30))
        #expect(try served.frontEnd.read(5, 30) == pattern(1, sectors: 30))
        #expect(try served.unplug() == .unplugged)
    }

    /// Older frontends count pages where newer ones give an order.
    @Test func pagesOfARingMayBeCounted() throws {
        let served = try ServedDisk(ringOrder: 2)
        try served.start { [disk] () throws(Failure) in disk }
        served.frontEnd.countsPages = true
        try served.frontEnd.connect()
        #expect(served.machine.mappedPageCount(of: 7) == 4)
        try served.frontEnd.write(0, pattern(1, sectors: 8))
        #expect(try served.unplug() == .unplugged)
    }

    @Test(arguments: [1, 3]) func aDiskThatGrowsIsToldOf(queueCount: Int) throws {
        let served = try ServedDisk(queueCount: queueCount)
        try served.start { [disk] () throws(Failure) in disk }
        try served.frontEnd.connect()
        #expect(throws: Failure.self) { try served.frontEnd.write(1990, pattern(1, sectors: 10)) }
        disk.resize(sectorCount: 2000)
        try waitUntil { try served.frontEnd.backendValue("sectors") == "2000" }
        #expect(try served.frontEnd.backendValue("sectors") == "2000")
        #expect(try served.frontEnd.backendState() == 4)
        try served.frontEnd.write(1990, pattern(1, sectors: 10))
        // And shrinks.
        disk.resize(sectorCount: 500)
        try waitUntil { try served.frontEnd.backendValue("sectors") == "500" }
        #expect(throws: Failure.self) { try served.frontEnd.read(500, 1) }
        #expect(try served.frontEnd.read(499, 1) == pattern(0, sectors: 1))
        #expect(try served.unplug() == .unplugged)
    }

    /// While nobody is connected, there is nobody to tell; who connects sees the new size.
    @Test func aDiskMayGrowUnseen() throws {
        try start()
        try served.frontEnd.waitForBackend(2)
        disk.resize(sectorCount: 2000)
        waitUntil { disk.sectorCount == 2000 }
        #expect(try served.frontEnd.backendState() == 2)
        try served.frontEnd.connect()
        #expect(try served.frontEnd.backendValue("sectors") == "2000")
        #expect(try served.unplug() == .unplugged)
    }

    @Test func readOnly() throws {
        let disk = MemoryDisk(sectorCount: 100, isReadOnly: true)
        try start(disk)
        try served.frontEnd.connect()
        #expect(try served.frontEnd.backendValue("info") == "4")
        #expect(try served.frontEnd.backendValue("mode") == "r")
        #expect(try served.frontEnd.backendValue("feature-discard") == nil)
        let ends = try served.frontEnd.perform([
            .write(sector: 0, pattern(1, sectors: 8)), .discard(sector: 0, count: 8), .barrier(sector: 0, pattern(1, sectors: 8)),
            .read(sector: 0, count: 8), .flush,
        ])
        #expect(ends.map(\.status) == [.error, .error, .error, .okay, .okay])
        // Indirect ones, too.
        served.frontEnd.maximumSegments = 12
        let indirect = try served.frontEnd.perform([.write(sector: 0, pattern(1, sectors: 96)), .read(sector: 0, count: 96)])
        #expect(indirect.map(\.status) == [.error, .okay])
        #expect(disk.transfers == 2)
        #expect(try served.unplug() == .unplugged)
    }
}

/// Sectors that tell their number.
func pattern(_ seed: UInt8, sectors: Int) -> [UInt8] {
    guard seed > 0 else { return Array(repeating: 0, count: sectors * sectorSize) }
    return (0..<sectors * sectorSize).map { seed &* 31 &+ UInt8(truncatingIfNeeded: $0 / sectorSize) &+ UInt8(truncatingIfNeeded: $0) }
}
