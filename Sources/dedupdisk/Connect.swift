import Activity
import ArgumentParser
import BlockModel
import Glibc
import Serve
import System
import XenBus

struct Connect: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "connect", abstract: "Plug a disk into a running VM, and serve it.",
        discussion: """
            Runs until SIGINT or SIGTERM, which unplug the disk: unmount it in the guest first. A second signal does not \
            wait for the guest. Ends by itself when the guest is gone. SIGHUP ends it and leaves the disk plugged: the \
            guest waits. After that, or a kill -9, the same command goes on where that one stopped, and the guest sees \
            no error.
            """)
    @Argument(help: "Name, domain id or UUID of the VM.", transform: CommandLineText.name) var vm: String
    @Option(help: ArgumentHelp("The disk of the store; the VM's name when not given.", valueName: "name"), transform: CommandLineText.name) var disk: String?
    @Option(help: ArgumentHelp("What the guest calls it: xvdb. The first that is free when not given.", valueName: "device")) var device: String?
    @Option(
        help: ArgumentHelp(
            "Rings that the guest may use, each with a thread: 1 to 64. As many as there are processors, up to 8, when not given.", valueName: "n"))
    var queues = BackendConfiguration.defaultQueues
    @OptionGroup var source: DiskSource

    func validate() throws {
        if disk != nil, !source.isStored { throw ValidationError("--disk names a disk of the store: it does not go with --path or --discard") }
        if !(1...64).contains(queues) { throw ValidationError("--queues is a number from 1 to 64") }
        if let device, VirtualDevice(name: device) == nil { throw ValidationError("'\(device)' is no device; xvdb is one") }
    }

    func run() throws {
        // When nobody reads the messages any more, the disk is served all the same.
        _ = signal(SIGPIPE, SIG_IGN)
        let xen = try LibXen()
        let domain = try xen.domain(vm)
        let server = Attaching(xen: xen, domain: domain, device: device.flatMap { VirtualDevice(name: $0) }, queues: queues)
        try source.serve(disk ?? domain.name, by: server)
    }
}

/// Serves a disk to a VM.
private struct Attaching: DiskServer {
    let xen: LibXen
    let domain: Domain
    let device: VirtualDevice?
    let queues: Int

    /// Serves until the end, and closes the disk, however that end came.
    func serve<Device: BlockDevice>(_ device: Device, named name: String, isResumable: Bool, _ activity: Activity) throws {
        let stop = try StopRequest()
        stop.sendOnSignals(handOver: [SIGHUP])
        let outcome: BackendOutcome
        do {
            var configuration = BackendConfiguration(
                domain: domain, device: self.device, disk: name, isResumable: isResumable,
                log: { Console.log($0) })
            configuration.maximumQueues = queues
            configuration.activity = activity
            var backend = try Backend.attach(xen, device, configuration, stop: stop)
            outcome = try backend.run()
        } catch {
            close(device)
            throw error
        }
        try close(device, named: name, unlessForced: stop)
        switch outcome {
        case .unplugged: Console.log("unplugged disk \(name)")
        case .forced: Console.complain("disk \(name) was taken from the guest without its consent", .warning)
        case .guestGone: Console.log("VM \(domain.name) is gone; disk \(name) is closed")
        case .handedOver:
            Console.log("disk \(name) stays plugged; VM \(domain.name) waits for the same command to serve it again")
            // It dies of the signal that asked for it, so that a supervisor can tell this end from others.
            Console.drain()
            _ = signal(SIGHUP, SIG_DFL)
            _ = raise(SIGHUP)
        }
    }
}
