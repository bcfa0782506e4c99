import System
import Testing
import XenBus
import XenSimulation

@Suite struct EventChannelTests {
    let machine: SimulatedMachine
    let guest: SimulatedGuest
    let xen: SimulatedXen

    init() throws {
        machine = try SimulatedMachine(pageLimit: 64)
        guest = try SimulatedGuest(machine, id: 7, name: "web")
        xen = try SimulatedXen(machine)
    }

    @Test func eventsAreBitsNotCounts() throws {
        let guestPort = try guest.xen.openPort(to: 0)
        let channel = try EventChannel(xen, domain: 7, remotePort: guestPort)
        // A new port begins with an event.
        #expect(try xen.pendingEvent() == channel.port)
        #expect(try xen.pendingEvent() == nil)
        #expect(!isReadable(xen.eventDescriptor))

        // While it is masked, events wait for `unmask`.
        try guest.xen.notify(guestPort)
        #expect(try xen.pendingEvent() == nil)
        try channel.unmask()
        #expect(isReadable(xen.eventDescriptor))
        #expect(try xen.pendingEvent() == channel.port)
        try channel.unmask()

        for _ in 0..<3 { try guest.xen.notify(guestPort) }
        #expect(try xen.pendingEvent() == channel.port)
        try channel.unmask()
        #expect(try xen.pendingEvent() == nil)

        #expect(!guest.wait(milliseconds: 0))
        try channel.notify()
        #expect(guest.wait(milliseconds: 0))
        #expect(try guest.xen.pendingEvent() == guestPort)
    }

    @Test func aPortIsBoundOnceAndFreeAgainWhenItsPeerDies() throws {
        let guestPort = try guest.xen.openPort(to: 0)
        for attempt in 0..<2 {
            let process = try SimulatedXen(machine)
            let port = try process.bindInterdomain(7, remotePort: guestPort)
            #expect(throws: Failure.self, "attempt \(attempt)") { try xen.bindInterdomain(7, remotePort: guestPort) }
            if attempt == 0 { process.kill() } else { process.unbind(port) }
            try guest.xen.notify(guestPort)
        }
        #expect(machine.openPortCount(of: 0) == 0)
        #expect(throws: Failure.self) { try xen.bindInterdomain(7, remotePort: 99) }
        #expect(throws: Failure.self) { try xen.bindInterdomain(9, remotePort: guestPort) }
        let toOther = try guest.xen.openPort(to: 3)
        #expect(throws: Failure.self) { try xen.bindInterdomain(7, remotePort: toOther) }
    }

    @Test func aDeadDomainsPortsAreGone() throws {
        let guestPort = try guest.xen.openPort(to: 0)
        do {
            let channel = try EventChannel(xen, domain: 7, remotePort: guestPort)
            machine.destroy(7)
            try channel.notify()
            #expect(throws: Failure.self) { try guest.xen.notify(guestPort) }
        }
        #expect(machine.openPortCount(of: 0) == 0)
    }
}
