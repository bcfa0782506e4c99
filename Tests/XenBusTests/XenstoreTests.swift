import Glibc
import System
import Testing
import XenBus
import XenSimulation

@Suite struct XenstoreTests {
    let machine: SimulatedMachine
    let guest: SimulatedGuest
    let xen: SimulatedXen

    init() throws {
        machine = try SimulatedMachine(pageLimit: 64)
        guest = try SimulatedGuest(machine, id: 7, name: "web", uuid: "c0ffee00-1234-5678-9abc-def012345678")
        xen = try SimulatedXen(machine)
    }

    @Test func valuesAreAnyBytes() throws {
        let value = (0..<5000).map { UInt8(truncatingIfNeeded: $0) }
        try xen.write("/a/b", value, in: .none)
        #expect(try xen.read("/a/b") == value)
        #expect(try xen.read("/a") == [])
        #expect(try xen.read("/a/c") == nil)
        #expect(try xen.list("/a") == ["b"])
        #expect(try xen.list("/c") == nil)
        try xen.write("/a/b", [], in: .none)
        #expect(try xen.read("/a/b") == [])
    }

    @Test(
        arguments: [
            ("0", 0), ("51728", 51728), ("18446744073709551615", UInt64.max), ("18446744073709551616", nil), ("", nil),
            ("-1", nil), ("+1", nil), ("1 ", nil), ("0x10", nil), ("999999999999999999999", nil),
        ] as [(String, UInt64?)])
    func numbers(text: String, number: UInt64?) throws {
        try xen.write("/n", text)
        #expect(try xen.number("/n") == number)
    }

    @Test func removalTakesAllBelow() throws {
        try xen.write("/a/b/c", "1")
        try xen.write("/a/bc", "2")
        try xen.remove("/a/b")
        try xen.remove("/a/b")
        #expect(try xen.read("/a/b/c") == nil)
        #expect(try xen.list("/a") == ["bc"])
    }

    @Test func aGuestSeesAndChangesOnlyWhatItMay() throws {
        try xen.makeDirectory("/secret", in: .none)
        try xen.makeDirectory("/local/domain/7/device/vbd/51728", in: .none)
        try xen.setPermissions("/local/domain/7/device/vbd/51728", owner: 7, readers: [0], in: .none)
        #expect(throws: Failure.self) { try guest.xen.read("/secret") }
        #expect(throws: Failure.self) { try guest.xen.read("/absent") }
        #expect(throws: Failure.self) { try guest.xen.write("name", "root") }
        #expect(try guest.xen.text("name") == "web")
        try guest.xen.write("device/vbd/51728/state", "3")
        #expect(try xen.text("/local/domain/7/device/vbd/51728/state") == "3")
        // What dom0 adds there belongs to the guest, too.
        try xen.write("/local/domain/7/device/vbd/51728/backend", "x")
        try guest.xen.remove("device/vbd/51728/backend")
    }

    @Test func transactionsShowAllOrNothing() throws {
        try xen.transaction("test") { transaction throws(Failure) in
            try xen.write("/a", "1", in: transaction)
            #expect(try xen.read("/a") == nil)
            try xen.write("/b", "2", in: transaction)
        }
        #expect(try xen.text("/a") == "1")
        #expect(try xen.text("/b") == "2")
        #expect(throws: Failure.self) {
            try xen.transaction("test") { transaction throws(Failure) in
                try xen.write("/c", "3", in: transaction)
                throw Failure(.usage, "test", "given up")
            }
        }
        #expect(try xen.read("/c") == nil)
    }

    @Test func transactionsThatConflictRunAgain() throws {
        let other = try SimulatedXen(machine)
        try xen.write("/count", "0")
        try xen.write("/elsewhere", "0")
        var runs = 0
        try xen.transaction("test") { transaction throws(Failure) in
            runs += 1
            let count = try xen.number("/count", in: transaction) ?? 0
            if runs == 1 { try other.write("/count", "10") }
            if runs == 2 { try other.write("/elsewhere", "1") }
            try xen.write("/count", "\(count + 1)", in: transaction)
        }
        #expect(runs == 2)
        #expect(try xen.text("/count") == "11")
        #expect(try xen.text("/elsewhere") == "1")
    }

    @Test func transactionsThatAlwaysConflictEnd() throws {
        let other = try SimulatedXen(machine)
        let failure = #expect(throws: Failure.self) {
            try xen.transaction("test") { transaction throws(Failure) in
                let count = try xen.number("/count", in: transaction) ?? 0
                try other.write("/count", "\(count + 1)")
            }
        }
        #expect(failure?.kind == .busy)
    }

    @Test func watchesFireForTheNodeAndWhatIsBelow() throws {
        try xen.watch("/a/b", token: "t")
        #expect(try events() == [WatchEvent("/a/b", "t")])
        try xen.write("/a/b/c", "1")
        try xen.write("/a/bc", "1")
        #expect(isReadable(xen.storeDescriptor))
        #expect(try Set(events().map(\.path)) == ["/a/b", "/a/b/c"])
        #expect(!isReadable(xen.storeDescriptor))
        try xen.remove("/a")
        #expect(try Set(events().map(\.path)) == ["/a/b", "/a/b/c"])
        try xen.transaction("test") { transaction throws(Failure) in
            try xen.write("/a/b", "2", in: transaction)
            #expect(try events() == [])
        }
        #expect(try events() == [WatchEvent("/a/b", "t")])
        try xen.unwatch("/a/b", token: "t")
        try xen.write("/a/b", "3")
        #expect(try events() == [])
    }

    @Test func guestsAreNotToldOfWhatTheyMayNotRead() throws {
        try guest.xen.watch("/secret", token: "t")
        #expect(try guest.xen.nextWatchEvent() != nil)
        try xen.write("/secret", "1")
        #expect(try guest.xen.nextWatchEvent() == nil)
    }

    @Test func domainsComeAndGo() throws {
        try xen.watch("@introduceDomain", token: "in")
        try xen.watch("@releaseDomain", token: "out")
        _ = try events()
        _ = try SimulatedGuest(machine, id: 8, name: "db")
        #expect(try events() == [WatchEvent("@introduceDomain", "in")])
        machine.destroy(8)
        #expect(try events() == [WatchEvent("@releaseDomain", "out")])
        #expect(!xen.isIntroduced(8))
        #expect(xen.isIntroduced(7))
        #expect(try xen.read("/local/domain/8/name") == nil)
    }

    @Test(arguments: ["web", "7", "c0ffee00-1234-5678-9abc-def012345678", "C0FFEE00-1234-5678-9ABC-DEF012345678"])
    func domainsAreFound(designation: String) throws {
        #expect(try xen.domain(designation).id == 7)
        #expect(try xen.domain(designation).name == "web")
    }

    @Test(arguments: ["", "we", "70000", "8", "+7", "c0ffee00-1234-5678-9abc-def012345679", "../7", "-1"])
    func unknownDomainsAreNamed(designation: String) throws {
        let failure = #expect(throws: Failure.self) { try xen.domain(designation) }
        #expect(failure?.kind == .notFound)
        #expect(failure?.what == "VM \(designation)")
        #expect(failure?.remedy?.contains("xl list") == true)
    }

    @Test func ownDomain() throws {
        #expect(try xen.ownDomain() == 0)
        #expect(try guest.xen.ownDomain() == 7)
    }

    @Test func aKilledProcessHasNothingLeft() throws {
        try xen.watch("/a", token: "t")
        let transaction = try xen.beginTransaction()
        try xen.write("/a", "1", in: transaction)
        xen.kill()
        #expect(throws: Failure.self) { try xen.read("/a") }
        #expect(throws: Failure.self) { try xen.endTransaction(transaction, commit: true) }
        #expect(try SimulatedXen(machine).read("/a") == nil)
    }

    @Test func killingCanWait() throws {
        xen.kill(afterCalls: 2)
        try xen.write("/a", "1")
        try xen.write("/a", "2")
        #expect(throws: Failure.self) { try xen.write("/a", "3") }
        #expect(throws: Failure.self) { try xen.write("/a", "4") }
        #expect(try SimulatedXen(machine).text("/a") == "2")
    }

    private func events() throws(Failure) -> [WatchEvent] {
        var events: [WatchEvent] = []
        while let event = try xen.nextWatchEvent() { events.append(event) }
        return events
    }
}

func isReadable(_ descriptor: Int32) -> Bool {
    var request = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    return unsafe poll(&request, 1, 0) == 1
}

extension WatchEvent {
    init(_ path: String, _ token: String) { self.init(path: path, token: token) }
}
