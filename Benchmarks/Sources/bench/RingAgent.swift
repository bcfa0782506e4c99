import ArgumentParser
import BlockModel
import Disk
import Serve
import Store
import XenBus

/// The back end's process: serves a disk to the guest whose memory it inherited, until it is unplugged.
struct RingAgent: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "ring")
    static let guest: DomainID = 7
    static let guestName = "web"

    @Option(help: "A store.") var store: String?
    @Option(help: "A disk of the store.") var name = "a"
    @Option(help: "Instead of a store's disk: one that forgets, of so many bytes.") var discard: UInt64?

    func run() throws {
        Store.tuneAllocator()
        if let store {
            try serve(StoreDisk(Store(path: store), name))
        } else {
            try serve(DiscardDisk(byteCount: discard ?? 1 << 30))
        }
    }

    private func serve<Device: BlockDevice & SendableMetatype>(_ device: Device) throws {
        let xen = try SharedXen(SharedDescriptors(memory: 3, store: 4, events: 5, guestEvents: 6, calls: 7))
        let stop = try StopRequest()
        stop.sendOnSignals()
        let configuration = BackendConfiguration(
            domain: Domain(id: Self.guest, name: Self.guestName), device: VirtualDevice(name: "xvdb"), disk: name, isResumable: true, log: { _ in })
        var backend = try Backend.attach(xen, device, configuration, stop: stop)
        _ = try backend.run()
        try device.close()
    }
}
