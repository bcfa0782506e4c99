import Glibc
import System
import Testing
import XenBus
import XenSimulation

/// A domain in another process, whose part another thread plays: what it inherits are descriptors either way.
@Suite struct SharedXenTests {
    let guest: SimulatedGuest
    let xen: SharedXen
    private let served: Served

    /// Answers calls until the last descriptor of the other end is closed.
    private final class Served: Sendable {
        let server: SharedXenServer
        init(_ server: SharedXenServer) throws {
            self.server = server
            var thread = pthread_t()
            let context = unsafe Unmanaged.passRetained(server).toOpaque()
            let code = unsafe pthread_create(
                &thread, nil,
                { context in
                    if let context = unsafe context { unsafe Unmanaged<SharedXenServer>.fromOpaque(context).takeRetainedValue().run() }
                    return nil
                }, context)
            guard code == 0 else { throw Failure(systemCall: "start", "a thread", errno: code) }
            pthread_detach(thread)
        }
        deinit { close(server.descriptors.calls) }
    }

    init() throws {
        guest = try SimulatedGuest(SimulatedMachine(pageLimit: 64), id: 7, name: "web")
        served = try Served(SharedXenServer(guest, channelCount: 2))
        xen = try SharedXen(served.server.descriptors)
    }

    @Test func theXenstoreIsTheMachines() throws {
        try SimulatedXen(guest.machine).write("/local/domain/7/device/vbd/1/state", "1")
        #expect(try xen.text("/local/domain/7/device/vbd/1/state") == "1")
        #expect(try xen.text("/local/domain/7/nothing") == nil)
        #expect(try xen.list("/local/domain/7/device/vbd") == ["1"])
        try xen.watch("/local/domain/7/device", token: "t")
        #expect(try xen.nextWatchEvent()?.token == "t")
        try xen.transaction("write") { transaction throws(Failure) in try xen.write("/local/domain/0/x", "y", in: transaction) }
        #expect(try SimulatedXen(guest.machine).text("/local/domain/0/x") == "y")
        #expect(xen.isIntroduced(7))
        #expect(!xen.isIntroduced(8))
        // A refusal comes across as what it was.
        #expect(throws: Failure.self) { _ = try xen.openChannels().bindInterdomain(8, remotePort: 1) }
    }

    @Test func pagesAreSharedAndCopied() throws {
        let pages = try guest.allocatePages(2)
        let references = pages.map { guest.grant($0) }
        let mapping = try GrantMapping(xen, domain: 7, references: references.reversed())
        unsafe pages[1].pointer.storeBytes(of: 0xabcd, as: UInt32.self)
        #expect(unsafe mapping.pointer.load(as: UInt32.self) == 0xabcd)
        #expect(throws: Failure.self) { _ = try GrantMapping(xen, domain: 7, references: [999]) }

        let local = UnsafeMutableRawPointer.allocate(byteCount: xenPageSize, alignment: 8)
        defer { unsafe local.deallocate() }
        var batch = GrantCopyBatch(capacity: 3)
        unsafe batch.copy(from: references[1], of: 7, offset: 0, byteCount: 8, to: local)
        unsafe batch.copy(local, to: references[0], of: 7, offset: 16, byteCount: 8)
        unsafe batch.copy(local, to: 999, of: 7, offset: 0, byteCount: 8)
        try xen.perform(&batch)
        let areDone = batch.succeeded(0..<2), isRefused = !batch.succeeded(2)
        #expect(areDone && isRefused)
        #expect(unsafe pages[0].pointer.load(fromByteOffset: 16, as: UInt32.self) == 0xabcd)
    }

    @Test func eventsGoBothWays() throws {
        let guestPort = try guest.xen.openPort(to: 0)
        let channels = try xen.openChannels()
        let channel = try EventChannel(channels, domain: 7, remotePort: guestPort)
        #expect(try channels.pendingEvent() == channel.port)
        #expect(try channels.pendingEvent() == nil)
        try channel.notify()
        #expect(guest.wait(milliseconds: 120_000))
        // Not the first one alone.
        for _ in 0..<3 {
            try guest.xen.notify(guestPort)
            #expect(try channels.pendingEvent() == channel.port)
            #expect(try channels.pendingEvent() == nil)
        }
    }

    @Test func eachChannelHasItsEvents() throws {
        let guestPorts = try (0..<2).map { _ in try guest.xen.openPort(to: 0) }
        var channels = try guestPorts.map { _ in try xen.openChannels() }
        #expect(throws: Failure.self) { _ = try xen.openChannels() }
        let first = try EventChannel(channels[0], domain: 7, remotePort: guestPorts[0])
        let second = try EventChannel(channels[1], domain: 7, remotePort: guestPorts[1])
        #expect(try channels[0].pendingEvent() == first.port)
        #expect(try channels[1].pendingEvent() == second.port)
        try guest.xen.notify(guestPorts[1])
        #expect(try channels[0].pendingEvent() == nil)
        #expect(try channels[1].pendingEvent() == second.port)
        _ = consume first
        _ = consume second
        // What is let go of can be had again.
        channels = []
        _ = try EventChannel(try xen.openChannels(), domain: 7, remotePort: guestPorts[1])
    }

    /// What is left of a process that ends is let go.
    @Test func theOtherProcessEnds() throws {
        let guestPort = try guest.xen.openPort(to: 0)
        _ = try xen.openChannels().bindInterdomain(7, remotePort: guestPort)
        #expect(guest.machine.openPortCount(of: 0) == 1)
        shutdown(served.server.descriptors.calls, Int32(SHUT_RDWR))
        for _ in 0..<120_000 where guest.machine.openPortCount(of: 0) > 0 { usleep(1000) }
        #expect(guest.machine.openPortCount(of: 0) == 0)
    }
}
