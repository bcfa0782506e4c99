import Blkif
import DiskExercise
import FrontEnd
import Glibc
import Serve
import System
import Testing
import TestSupport
import XenBus
import XenSimulation

/// Frontends of other systems than Linux: each goes through the states, and reads and writes the nodes, as its driver does.
@Suite struct OtherFrontEndTests {
    let disk = MemoryDisk(sectorCount: 1000)

    /// What every driver gives up without, as a number.
    private func required(_ frontEnd: SimulatedFrontEnd, _ key: String) throws -> UInt64 {
        try #require(try frontEnd.backendValue(key).flatMap { UInt64($0) }, "\(key)")
    }

    private func use(_ frontEnd: SimulatedFrontEnd, _ seed: UInt8) throws {
        try frontEnd.write(3, pattern(seed, sectors: 40))
        try frontEnd.flush()
        #expect(try frontEnd.read(3, 40) == pattern(seed, sectors: 40))
    }

    /// NetBSD (sys/arch/xen/xen/xbd_xenbus.c) does not wait for the backend before it offers its ring. It panics without
    /// some nodes, ends without a word between Connected and Closed, and then waits for its ring's page.
    @Test func netBSD() throws {
        let machine = try SimulatedMachine(), guest = try SimulatedGuest(machine, id: 7, name: "web")
        let disks = Disks(["root"]), toolstack = try Toolstack(machine)
        try toolstack.attach(7, target: "dedupdisk:root")
        let frontEnd = SimulatedFrontEnd(guest, number: 51728)
        let offer = try frontEnd.makeRings().filter { ["ring-ref", "event-channel", "protocol"].contains($0.key) }
        try guest.xen.transaction("offer") { transaction throws(Failure) in
            for (key, value) in offer { try guest.xen.write("\(frontEnd.directory)/\(key)", value, in: transaction) }
        }
        try frontEnd.setState(3)
        let daemon = try RunningDaemon(machine, disks)
        try frontEnd.waitForBackend(4)
        #expect(try required(frontEnd, "sectors") * required(frontEnd, "sector-size") == 512_000)
        #expect(try required(frontEnd, "info") == 0)
        #expect(try required(frontEnd, "feature-flush-cache") == 1)
        try frontEnd.setState(4)
        try use(frontEnd, 1)

        try toolstack.beginDetach(7)
        try frontEnd.waitForBackend(5)
        // What it still has to write.
        try use(frontEnd, 2)
        try frontEnd.setState(6)
        try frontEnd.waitForBackend(6)
        #expect(machine.mappedPageCount(of: 7) == 0)
        try toolstack.finishDetach(7)
        try daemon.end()
        #expect(disks.openCount == 0)
    }

    /// FreeBSD (sys/dev/xen/blkfront/blkfront.c) writes its nodes one by one, says in two ways how many pages a ring has,
    /// pays no heed to another size, and refuses to close while somebody has the disk open.
    @Test(arguments: ["ring-ref0", "ring-ref"]) func freeBSD(firstPage: String) throws {
        let served = try ServedDisk(ringOrder: 3), frontEnd = served.frontEnd
        var configuration = served.configuration()
        configuration.patience = .milliseconds(20)
        try served.start(as: configuration) { [disk] () throws(Failure) in disk }
        try frontEnd.waitForBackend(2)
        #expect(try required(frontEnd, "max-ring-pages") == 1 << required(frontEnd, "max-ring-page-order"))
        let nodes = try Dictionary(uniqueKeysWithValues: frontEnd.makeRings().map { ($0.key, $0.value) })
        for page in 0..<8 { try frontEnd.set(page == 0 ? firstPage : "ring-ref\(page)", #require(nodes["ring-ref\(page)"])) }
        for (key, value) in [
            ("num-ring-pages", "8"), ("ring-page-order", "3"), ("max-requests", "256"), ("max-request-segments", "11"),
            ("max-request-size", "40960"), ("event-channel", nodes["event-channel"]), ("protocol", nodes["protocol"]), ("state", "3"),
        ] { try frontEnd.set(key, #require(value)) }
        try frontEnd.waitForBackend(4)
        #expect(try required(frontEnd, "sectors") == 1000)
        #expect(try required(frontEnd, "sector-size") == 512)
        for key in ["info", "feature-barrier", "feature-flush-cache"] { _ = try required(frontEnd, key) }
        try frontEnd.setState(4)
        #expect(served.machine.mappedPageCount(of: 7) == 8)
        try use(frontEnd, 1)

        disk.resize(sectorCount: 2000)
        try waitUntil { try frontEnd.backendValue("sectors") == "2000" }
        #expect(try required(frontEnd, "sectors") == 2000)
        try use(frontEnd, 2)

        served.stop.send()
        try frontEnd.waitForBackend(5)
        #expect(waitUntil { served.log.contains("has not let go of xvdb") })
        try use(frontEnd, 3)
        // Closed by whoever had it open: both states at once.
        try frontEnd.setState(5)
        try frontEnd.setState(6)
        #expect(try served.join() == .unplugged)
        #expect(try served.remainingNodes() == [])
        #expect(served.isLetGo)
    }

    /// Windows (win-xenvbd, src/xenvbd/frontend.c and ring.c) first closes whatever it finds. When the device is to go, it
    /// looks for `online` and the state at once, and ejects the disk. Its crash dump driver does the same with one ring.
    @Test func windows() throws {
        let served = try ServedDisk(ringOrder: 1, queueCount: 2), frontEnd = served.frontEnd
        try served.start { [disk] () throws(Failure) in disk }
        try frontEnd.waitForBackend(2)
        for round in 1...2 as ClosedRange<UInt8> {
            // Once more: back from a suspend.
            try windowsConnects(served, frontEnd)
            #expect(served.machine.mappedPageCount(of: 7) == 4)
            try use(frontEnd, round)
        }
        // It reads what the disk is after each change of the backend's nodes.
        disk.resize(sectorCount: 2000)
        try waitUntil { try frontEnd.backendValue("sectors") == "2000" }
        try frontEnd.write(1992, pattern(3, sectors: 8))
        // A flush has the address of what is to be flushed, and no segment.
        var flush = Request()
        flush.rawOperation = Blkif.Operation.flush.rawValue
        flush.sector = 1992
        flush.id = 5
        #expect(try frontEnd.exchange([flush], on: 1).map(\.rawStatus) == [0])

        let dump = SimulatedFrontEnd(served.guest, number: 51728)
        try windowsCloses(dump)
        for key in ["ring-page-order", "feature-online-resize", "feature-surprise-remove", "multi-queue-num-queues"] {
            try served.guest.xen.remove("\(dump.directory)/\(key)")
        }
        try windowsConnects(served, dump)
        #expect(served.machine.mappedPageCount(of: 7) == 1)
        try use(dump, 4)

        served.stop.send()
        try dump.waitForBackend(5)
        #expect(try dump.backendValue("online") == "0")
        try use(dump, 5)
        try windowsCloses(dump)
        #expect(try served.join() == .unplugged)
        #expect(try served.remainingNodes() == [])
        #expect(served.isLetGo)
    }

    private func windowsCloses(_ frontEnd: SimulatedFrontEnd) throws {
        if try ![5, 6].contains(frontEnd.backendState()) {
            try frontEnd.setState(5)
            try frontEnd.waitForBackend(5, 6)
        }
        if try frontEnd.backendState() != 6 {
            try frontEnd.setState(6)
            // Gone as well, when the device was unplugged.
            try frontEnd.waitForBackend(6, 0)
        }
    }

    private func windowsConnects(_ served: ServedDisk, _ frontEnd: SimulatedFrontEnd) throws {
        try windowsCloses(frontEnd)
        try frontEnd.setState(1)
        // It gives up if this comes to be any other state.
        #expect(try frontEnd.stateAfter(6, 1) == 2)
        #expect(try required(frontEnd, "multi-queue-max-queues") >= UInt64(frontEnd.queueCount))
        #expect(try required(frontEnd, "max-ring-page-order") >= UInt64(frontEnd.ringOrder))
        let nodes =
            try frontEnd.makeRings().filter { $0.key != "feature-persistent" } + [
                ("multi-queue-num-queues", "\(frontEnd.queueCount)"), ("target-id", "1"), ("feature-surprise-remove", "1"),
                ("feature-online-resize", "1"), ("feature-large-sector-size", "1"),
            ]
        try served.guest.xen.transaction("connect") { transaction throws(Failure) in
            for (key, value) in nodes { try served.guest.xen.write("\(frontEnd.directory)/\(key)", value, in: transaction) }
        }
        try frontEnd.setState(3)
        #expect(try frontEnd.stateAfter(2, 1, 3) == 4)
        for key in ["sectors", "sector-size", "physical-sector-size"] { #expect(try required(frontEnd, key) > 0) }
        #expect(try required(frontEnd, "info") == 0)
        // Else it would flush by barriers.
        #expect(try required(frontEnd, "feature-flush-cache") == 1)
        try frontEnd.setState(4)
    }
}

extension SimulatedFrontEnd {
    /// The backend's first state that is none of these.
    fileprivate func stateAfter(_ states: Int...) throws -> Int {
        for _ in 0..<120_000 {
            let state = try backendState()
            if !states.contains(state) { return state }
            usleep(1000)
        }
        return -1
    }
}
