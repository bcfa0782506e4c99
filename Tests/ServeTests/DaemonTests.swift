import BlockModel
import DiskExercise
import FrontEnd
import Glibc
import Serve
import Synchronization
import System
import Testing
import TestSupport
import XenBus
import XenSimulation

/// A daemon whose devices the toolstack makes and removes.
@Suite struct DaemonTests {
    let machine: SimulatedMachine
    let disks = Disks(["root", "data"])
    let guest: SimulatedGuest

    init() throws {
        machine = try SimulatedMachine()
        guest = try SimulatedGuest(machine, id: 7, name: "web")
    }

    @Test(arguments: ["qdisk", "vbd", "vbd3"]) func attachAndDetach(className: String) throws {
        let daemon = try RunningDaemon(machine, disks)
        let toolstack = try Toolstack(machine, className: className)
        let target = className == "qdisk" ? "dedupdisk:data" : "data"
        for round in 1..<4 as Range<UInt8> {
            try toolstack.attach(7, target: target)
            try toolstack.wait(7, "state", "2")
            try toolstack.wait(7, "hotplug-status", "connected")
            #expect(try toolstack.value(7, "multi-queue-max-queues") == "4")
            let frontEnd = SimulatedFrontEnd(guest, number: 51728, queueCount: 3)
            try frontEnd.connect()
            #expect(try frontEnd.read(0, 8) == pattern(round - 1, sectors: 8))
            try frontEnd.write(0, pattern(round, sectors: 8))
            try toolstack.beginDetach(7)
            try frontEnd.letGo()
            try toolstack.finishDetach(7)
            #expect(machine.mappedPageCount(of: 7) == 0)
        }
        try daemon.end()
        #expect(disks.openCount == 0)
        #expect(machine.openPortCount(of: 0) == 0)
        #expect(try SimulatedXen(machine).list("/local/domain/0/backend/\(className)/7") ?? [] == [])
    }

    @Test func whatIsNotOursIsLeftAlone() throws {
        let qdisk = try Toolstack(machine), vbd = try Toolstack(machine, className: "vbd")
        try qdisk.attach(7, 51744, target: "/srv/disk.img")
        try vbd.attach(7, 51760, target: "/dev/sdb", script: "/etc/xen/scripts/block")
        let xen = try SimulatedXen(machine)
        for path in ["qdisk/7/bad", "qdisk/seven/51712", "vbd/7/99999999999", "qdisk/7/51808/params"] {
            try xen.write("/local/domain/0/backend/\(path)", [0, 0xff, 0x0a], in: .none)
        }
        let daemon = try RunningDaemon(machine, disks)
        try qdisk.attach(7, target: "dedupdisk:data")
        try qdisk.wait(7, "state", "2")
        #expect(try qdisk.value(7, "state", number: 51744) == "1")
        #expect(try vbd.value(7, "state", number: 51760) == "1")
        try daemon.end()
    }

    /// xl and the log are told in the program's words.
    @Test func whatCannotBeServedSaysWhatToDo() throws {
        let daemon = try RunningDaemon(machine, disks) { "\($0) (see: list)" }
        let toolstack = try Toolstack(machine)
        try toolstack.attach(7, target: "dedupdisk:nothing")
        try toolstack.wait(7, "hotplug-status", "error")
        #expect(try toolstack.value(7, "hotplug-error") == "disk nothing: there is none (see: list)")
        #expect(daemon.log.lines.contains { $0.hasSuffix(": disk nothing: there is none (see: list)") })
        try toolstack.beginDetach(7)
        try toolstack.finishDetach(7)
        try daemon.end()
    }

    @Test(arguments: ["qdisk", "vbd"]) func whatCannotBeServedSaysWhy(className: String) throws {
        let daemon = try RunningDaemon(machine, disks)
        let toolstack = try Toolstack(machine, className: className)
        let prefix = className == "qdisk" ? "dedupdisk:" : ""
        try toolstack.attach(7, target: prefix + "nothing")
        try toolstack.wait(7, "hotplug-status", "error")
        // With a script, xl waits for state 2 before it asks.
        try toolstack.wait(7, "state", className == "qdisk" ? "6" : "2")
        #expect(try toolstack.value(7, "hotplug-error") == "disk nothing: there is none")
        try toolstack.beginDetach(7)
        try toolstack.finishDetach(7)
        // And the right one under the same number.
        try toolstack.attach(7, target: prefix + "data")
        try toolstack.wait(7, "hotplug-status", "connected")
        #expect(try toolstack.value(7, "hotplug-error") == nil)
        try daemon.end()
    }

    @Test func readOnlyIsWhatTheToolstackSays() throws {
        let daemon = try RunningDaemon(machine, disks)
        let toolstack = try Toolstack(machine)
        try toolstack.attach(7, target: "dedupdisk:data", mode: "r")
        let frontEnd = SimulatedFrontEnd(guest, number: 51728)
        try frontEnd.connect()
        #expect(try frontEnd.backendValue("info") == "4")
        #expect(throws: Failure.self) { try frontEnd.write(0, pattern(1, sectors: 8)) }
        try daemon.end()
    }

    /// The new domain's device comes before the old one's has gone.
    @Test func theGuestReboots() throws {
        let daemon = try RunningDaemon(machine, disks)
        let toolstack = try Toolstack(machine)
        try toolstack.attach(7, target: "dedupdisk:root")
        var frontEnd = SimulatedFrontEnd(guest, number: 51728)
        try frontEnd.connect()
        for id in 8..<12 as Range<DomainID> {
            try frontEnd.write(UInt64(id), pattern(UInt8(id), sectors: 1))
            let next = try SimulatedGuest(machine, id: id, name: "web")
            try toolstack.attach(id, target: "dedupdisk:root")
            try toolstack.destroy(id - 1)
            frontEnd = SimulatedFrontEnd(next, number: 51728)
            try frontEnd.connect()
            #expect(try frontEnd.read(UInt64(id), 1) == pattern(UInt8(id), sectors: 1))
            #expect(machine.mappedPageCount(of: id - 1) == 0)
        }
        try daemon.end()
    }

    /// Boot loaders close the disk before the kernel opens it again.
    @Test func theGuestClosesAndComesBack() throws {
        let daemon = try RunningDaemon(machine, disks)
        let toolstack = try Toolstack(machine)
        try toolstack.attach(7, target: "dedupdisk:root")
        let frontEnd = SimulatedFrontEnd(guest, number: 51728)
        for _ in 0..<3 {
            try frontEnd.connect()
            try frontEnd.disconnect()
            try frontEnd.setState(1)
        }
        try frontEnd.connect()
        try frontEnd.disconnect()
        try toolstack.destroy(7)
        try daemon.end()
        #expect(disks.openCount == 0)
    }

    @Test(arguments: [false, true]) func guestsWaitForTheNextDaemon(killed: Bool) throws {
        var daemon = try RunningDaemon(machine, disks)
        let toolstack = try Toolstack(machine)
        let other = try SimulatedGuest(machine, id: 8, name: "db")
        try toolstack.attach(7, target: "dedupdisk:root")
        try toolstack.attach(8, target: "dedupdisk:data")
        let frontEnds = [
            SimulatedFrontEnd(guest, number: 51728, queueCount: 2), SimulatedFrontEnd(other, number: 51728, ringOrder: 1, queueCount: 4),
        ]
        for frontEnd in frontEnds { try frontEnd.connect() }
        for round in 1..<6 as Range<UInt8> {
            for frontEnd in frontEnds {
                try frontEnd.begin((0..<60).map { .write(sector: UInt64($0) * 8, pattern(round, sectors: 8)) })
            }
            if killed { try daemon.kill() } else { try daemon.end() }
            #expect(machine.openPortCount(of: 0) == 0)
            // What comes meanwhile is taken up, too.
            if round == 3 { try toolstack.beginDetach(8) }
            daemon = try RunningDaemon(machine, disks)
            for (index, frontEnd) in frontEnds.enumerated() where index == 0 || round < 3 {
                #expect(try frontEnd.finish().allSatisfy { $0.status == .okay })
                #expect(try frontEnd.read(59 * 8, 8) == pattern(round, sectors: 8))
                #expect(try frontEnd.backendState() == 4)
            }
            if round == 3 {
                try toolstack.finishDetach(8)
                break
            }
        }
        try daemon.end()
    }

    /// What is a device's own is kept for it as long as it is there: over the ends of daemons, and no longer.
    @Test func whatIsADevicesOwn() throws {
        let toolstack = try Toolstack(machine)
        var daemon = try RunningDaemon(machine, disks)
        #expect(try daemon.own.wait(1) == ["these: "])
        try toolstack.attach(7, target: "dedupdisk:root")
        let frontEnd = SimulatedFrontEnd(guest, number: 51728)
        try frontEnd.connect()
        #expect(try daemon.own.wait(2).last == "new 7-51728")
        for isKilled in [true, false] {
            if isKilled { try daemon.kill() } else { try daemon.end() }
            daemon = try RunningDaemon(machine, disks)
            #expect(try frontEnd.read(0, 8) == pattern(0, sectors: 8))
            #expect(try daemon.own.wait(2) == ["these: 7-51728", "again 7-51728"])
        }
        try toolstack.beginDetach(7)
        try frontEnd.letGo()
        try toolstack.finishDetach(7)
        #expect(try daemon.own.wait(3).last == "forget 7-51728")
        try toolstack.attach(7, target: "dedupdisk:root")
        try frontEnd.connect()
        #expect(try daemon.own.wait(4).last == "new 7-51728")
        try toolstack.destroy(7)
        #expect(try daemon.own.wait(5).last == "forget 7-51728")
        // One that goes while there is no daemon.
        let other = try SimulatedGuest(machine, id: 8, name: "db")
        try toolstack.attach(8, target: "dedupdisk:root")
        let second = SimulatedFrontEnd(other, number: 51728)
        try second.connect()
        try daemon.kill()
        try toolstack.beginDetach(8)
        try second.letGo()
        daemon = try RunningDaemon(machine, disks)
        try toolstack.finishDetach(8)
        #expect(try daemon.own.wait(2).contains("forget 8-51728"))
        try daemon.end()
    }

    /// A device's thread that can't reach Xen can't say so: the daemon does.
    @Test(arguments: ["qdisk", "vbd"]) func withoutAConnectionOfItsOwn(className: String) throws {
        let faults = Faults()
        faults.connections.set(1)
        let daemon = try RunningDaemon(machine, disks, faults)
        let toolstack = try Toolstack(machine, className: className)
        let target = className == "qdisk" ? "dedupdisk:data" : "data"
        try toolstack.attach(7, target: target)
        try toolstack.wait(7, "hotplug-status", "error")
        try toolstack.wait(7, "state", className == "qdisk" ? "6" : "2")
        #expect(try toolstack.value(7, "hotplug-error") == "connect to Xen: told to fail")
        #expect(daemon.log.lines.contains("xvdb of domain 7: connect to Xen: told to fail"))
        try toolstack.beginDetach(7)
        try toolstack.finishDetach(7)
        try toolstack.attach(7, target: target)
        try toolstack.wait(7, "hotplug-status", "connected")
        try daemon.end()
    }

    /// A guest that uses its disk waits until it can be served, and notices nothing else.
    @Test(arguments: [false, true]) func whatAGuestUsesIsTriedAgain(isConnection: Bool) throws {
        let toolstack = try Toolstack(machine)
        var daemon = try RunningDaemon(machine, disks)
        try toolstack.attach(7, target: "dedupdisk:root")
        let frontEnd = SimulatedFrontEnd(guest, number: 51728, queueCount: 2)
        try frontEnd.connect()
        try daemon.end()
        try frontEnd.begin((0..<60).map { .write(sector: UInt64($0) * 8, pattern(1, sectors: 8)) })
        let faults = Faults()
        let fault = isConnection ? faults.connections : faults.disks
        fault.set(4)
        daemon = try RunningDaemon(machine, disks, faults)
        #expect(try frontEnd.finish().allSatisfy { $0.status == .okay })
        #expect(try frontEnd.read(59 * 8, 8) == pattern(1, sectors: 8))
        // So it is when its connection breaks later.
        faults.disks.set(3)
        daemon.breakConnectionsOfDevices()
        #expect(try frontEnd.read(59 * 8, 8) == pattern(1, sectors: 8))
        #expect(try frontEnd.backendState() == 4)
        // Once, not for each try. What fails later has a pause that is not the first either.
        let said = daemon.log.lines.filter { $0.contains("it is tried again") }
        #expect(
            said == ["xvdb of domain 7: \(isConnection ? "connect to Xen" : "open a disk"): told to fail; its guest waits, and it is tried again"], "\(said)")
        try toolstack.beginDetach(7)
        try frontEnd.letGo()
        try toolstack.finishDetach(7)
        try daemon.end()
        #expect(disks.openCount == 0)
        #expect(machine.openPortCount(of: 0) == 0)
    }

    @Test func whatIsTriedAgainCanBeDetached() throws {
        let toolstack = try Toolstack(machine)
        var daemon = try RunningDaemon(machine, disks)
        try toolstack.attach(7, target: "dedupdisk:root")
        let frontEnd = SimulatedFrontEnd(guest, number: 51728)
        try frontEnd.connect()
        try daemon.end()
        let faults = Faults()
        faults.disks.set(.max)
        daemon = try RunningDaemon(machine, disks, faults)
        #expect(waitUntil { daemon.log.lines.contains { $0.contains("it is tried again") } })
        try toolstack.beginDetach(7)
        try frontEnd.setState(6)
        try toolstack.finishDetach(7)
        #expect(waitUntil { daemon.own.lines.contains("forget 7-51728") })
        // The next one in its place.
        faults.disks.set(0)
        try toolstack.attach(7, target: "dedupdisk:data")
        try toolstack.wait(7, "hotplug-status", "connected")
        try daemon.end()
        #expect(disks.openCount == 0)
    }

    @Test func manyAtOnce() throws {
        let disks = Disks((0..<20).map { "disk\($0)" })
        let daemon = try RunningDaemon(machine, disks)
        let toolstack = try Toolstack(machine)
        let numbers: [UInt32] = (0..<20).map { $0 < 16 ? 51712 + 16 * $0 : 268_439_552 + 256 * $0 }
        for (index, number) in numbers.enumerated() { try toolstack.attach(7, number, target: "dedupdisk:disk\(index)") }
        for number in numbers { try toolstack.wait(7, "state", "2", number: number) }
        for number in numbers { try toolstack.beginDetach(7, number) }
        for number in numbers { try toolstack.finishDetach(7, number) }
        try daemon.end()
        #expect(disks.openCount == 0)
    }
}

/// Disks by name, each for one user at a time.
final class Disks: Sendable {
    private let disks: [String: MemoryDisk]
    private let open = Mutex<Set<String>>([])
    var openCount: Int { open.withLock { $0.count } }

    init(_ names: [String]) { disks = Dictionary(uniqueKeysWithValues: names.map { ($0, MemoryDisk(sectorCount: 1000)) }) }

    func open(_ wanted: ToolstackDisk) throws(Failure) -> OpenDisk {
        guard let disk = disks[wanted.name] else { throw Failure(.notFound, "disk \(wanted.name)", "there is none") }
        guard open.withLock({ $0.insert(wanted.name).inserted }) else { throw Failure(.busy, "disk \(wanted.name)", "in use") }
        return OpenDisk(disk, isReadOnly: wanted.isReadOnly) { [self] in open.withLock { _ = $0.remove(wanted.name) } }
    }
}

/// A disk that is let go of when it is closed, or when its process is killed.
final class OpenDisk: ForwardingDisk {
    let next: MemoryDisk
    private let letGo: @Sendable () -> Void
    let isReadOnly: Bool

    init(_ disk: MemoryDisk, isReadOnly: Bool, letGo: @escaping @Sendable () -> Void) {
        next = disk
        self.isReadOnly = isReadOnly
        self.letGo = letGo
    }

    func close() throws(Failure) { letGo() }
}

/// What can't be had, and how many times: a device's connection to Xen, or its disk.
final class Faults: Sendable {
    let connections = Counter(), disks = Counter()

    final class Counter: Sendable {
        private let left = Mutex(0)
        func set(_ count: Int) { left.withLock { $0 = count } }

        func fail(_ operation: Failure.Operation, _ subject: Subject) throws(Failure) {
            let fails = left.withLock { left in
                left = max(0, left) - 1
                return left >= 0
            }
            if fails { throw Failure(.system, operation, subject, "told to fail") }
        }
    }
}

/// A daemon on a thread, with all its connections to the simulated machine.
final class RunningDaemon {
    private let stop: StopRequest
    private let hosts: Hosts
    private let thread: BackgroundThread<Failure?>
    let log = Log()
    /// What it says of the devices that it has, and opens.
    let own = Log()

    final class Log: Sendable {
        private let text = Mutex<[String]>([])
        func append(_ line: String) { text.withLock { $0.append(line) } }
        var lines: [String] { text.withLock { $0 } }

        /// Its lines, when there are so many.
        func wait(_ count: Int) throws -> [String] {
            waitUntil { lines.count >= count }
            return lines
        }
    }

    private final class Hosts: Sendable {
        let all = Mutex<[SimulatedXen]>([])
    }

    init(
        _ machine: SimulatedMachine, _ disks: Disks, _ faults: Faults = Faults(), describe: @escaping @Sendable (Failure) -> String = { "\($0)" }
    ) throws(Failure) {
        stop = try StopRequest()
        let hosts = Hosts()
        self.hosts = hosts
        var configuration = BackendDaemon<SimulatedXen, OpenDisk>.Configuration(log: { [log] in log.append($0) })
        configuration.maximumQueues = 4
        configuration.firstPause = .milliseconds(10)
        configuration.describe = describe
        configuration.begin = { [own] in own.append("these: " + $0.sorted().joined(separator: " ")) }
        configuration.forget = { [own] in own.append("forget \($0.device)") }
        let daemon = try BackendDaemon(
            configuration, stop: stop,
            makeHost: { () throws(Failure) in
                // The daemon's own is the first.
                if !hosts.all.withLock({ $0.isEmpty }) { try faults.connections.fail("connect to", "Xen") }
                let host = try SimulatedXen(machine)
                hosts.all.withLock { $0.append(host) }
                return host
            },
            open: { [own] (disk) throws(Failure) in
                try faults.disks.fail("open", "a disk")
                let opened = try disks.open(disk)
                own.append((disk.isNew ? "new " : "again ") + disk.device)
                return opened
            })
        thread = BackgroundThread {
            do throws(Failure) {
                try daemon.run()
                return nil
            } catch {
                return error
            }
        }
    }

    func end() throws(Failure) {
        stop.sendHandOver()
        guard let result = thread.join() else { throw Failure(.system, "daemon", "still running") }
        if let failure = result { throw failure }
    }

    /// As when a device's connections to Xen die, and the daemon's does not.
    func breakConnectionsOfDevices() {
        for host in hosts.all.withLock({ Array($0.dropFirst()) }) { host.kill() }
    }

    func kill() throws(Failure) {
        for host in hosts.all.withLock({ $0 }) { host.kill() }
        guard thread.join() != nil else { throw Failure(.system, "daemon", "still running, though killed") }
    }
}
