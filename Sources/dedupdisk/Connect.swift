import ArgumentParser
import BlockModel
import Disk
import Glibc
import Serve
import Store
import XenBus

struct Connect: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Plug a disk into a running VM, and serve it.",
        discussion: """
            Runs until SIGINT or SIGTERM, which unplug the disk: unmount it in the guest first. A second signal does not \
            wait for the guest. Ends by itself when the guest is gone. SIGHUP ends it and leaves the disk plugged: the \
            guest waits. After that, or a kill -9, the same command goes on where that one stopped, and the guest sees \
            no error.
            """)
    @OptionGroup var options: StoreOptions
    @Argument(help: "Name, domain id or UUID of the VM.") var vm: String
    @Option(help: ArgumentHelp("The disk of the store; the VM's name when not given.", valueName: "name")) var disk: String?
    @Option(help: ArgumentHelp("Size of a new disk: 20G, 512MiB, bytes.", valueName: "size")) var size: ByteSize?
    @Option(help: ArgumentHelp("What the guest calls it: xvdb. The first that is free when not given.", valueName: "device")) var device: String?
    @Option(help: ArgumentHelp("Rings that the guest may use, each with a thread: 1 to 64. As many as there are processors, up to 8, when not given.", valueName: "n"))
    var queues = BackendConfiguration.defaultQueues
    @Flag(help: "The guest can't write.") var readOnly = false
    @Flag(help: "What the guest writes is gone at disconnect; the disk, or --path's file, stays as it is. It is kept in $TMPDIR, else /var/tmp, meanwhile.") var ephemeral = false
    @Option(help: ArgumentHelp("A raw file or block device instead of a disk of the store.", valueName: "file")) var path: String?
    @Flag(help: "A disk of --size that accepts and forgets everything.") var discard = false

    func validate() throws {
        if path != nil, discard { throw ValidationError("--path and --discard exclude each other") }
        if disk != nil, path != nil || discard { throw ValidationError("--disk names a disk of the store: it does not go with --path or --discard") }
        if path != nil, size != nil { throw ValidationError("a file has its size: --size does not go with --path") }
        if discard, size == nil { throw ValidationError("--discard needs --size") }
        if !(1...64).contains(queues) { throw ValidationError("--queues is a number from 1 to 64") }
        if let device, VirtualDevice(name: device) == nil { throw ValidationError("'\(device)' is no device; xvdb is one") }
    }

    func run() throws {
        // Whoever read our messages may go; the guest's disk stays.
        _ = signal(SIGPIPE, SIG_IGN)
        let xen = try LibXen()
        let domain = try xen.domain(vm)
        if discard, let size {
            try serve(DiscardDisk(byteCount: size.bytes), named: "discard", xen, domain)
        } else if let path {
            let file = try RawFileDisk(path: path, readOnly: readOnly || ephemeral)
            if ephemeral {
                try serve(try EphemeralDisk(over: file, scratchDirectory: Self.scratchDirectory), named: path, xen, domain)
            } else {
                try serve(file, named: Self.absolute(path), xen, domain, isResumable: !readOnly)
            }
        } else {
            try serveStoreDisk(xen, domain)
        }
    }

    /// Where `--ephemeral` keeps what the guest writes: $TMPDIR, else /var/tmp, which is rarely in memory, else /tmp.
    private static var scratchDirectory: String {
        if let directory = unsafe getenv("TMPDIR") { return unsafe String(cString: directory) }
        return unsafe access("/var/tmp", W_OK) == 0 ? "/var/tmp" : "/tmp"
    }

    /// The path that a later process, elsewhere, would call the same file: realpath(3). What is served is known by it.
    private static func absolute(_ path: String) -> String {
        guard let real = unsafe realpath(path, nil) else { return path }
        defer { unsafe free(real) }
        return unsafe String(cString: real)
    }

    private func serveStoreDisk(_ xen: LibXen, _ domain: Domain) throws {
        let name = disk ?? domain.name
        let store: Store
        if size != nil, !ephemeral, !readOnly {
            store = try options.openOrCreate()
            try store.removeLeftovers()
        } else {
            store = try options.open()
        }
        if let old = try store.disk(name) {
            if let size, size.bytes != old.byteCount {
                throw Failure(.usage, "connect disk \(name)", "it has \(old.byteCount) bytes, not \(size.bytes)", remedy: "leave --size out")
            }
        } else {
            guard let size, !ephemeral, !readOnly else {
                throw Failure(.notFound, "disk \(name)", "there is none in store \(store.path)", remedy: "give --size to make it, or --disk to name another")
            }
            try store.create(name, byteCount: size.bytes)
        }
        let found = try StoreDisk(store, name, readOnly: readOnly || ephemeral)
        if ephemeral {
            try serve(try EphemeralDisk(over: found, scratchDirectory: Self.scratchDirectory), named: name, xen, domain)
        } else {
            try serve(found, named: "\(Self.absolute(store.path)):\(name)", xen, domain, isResumable: !readOnly)
        }
    }

    /// Serves until the end, then writes out what is pending, whatever the end was.
    private func serve<Device: BlockDevice>(
        _ device: Device, named name: String, _ xen: LibXen, _ domain: Domain, isResumable: Bool = false
    ) throws {
        let stop = try StopRequest()
        stop.sendOnSignals(handOver: [SIGHUP])
        let outcome: BackendOutcome
        do {
            var configuration = BackendConfiguration(
                domain: domain, device: self.device.flatMap { VirtualDevice(name: $0) }, disk: name, isResumable: isResumable,
                log: { Console.complain($0) })
            configuration.maximumQueues = queues
            var backend = try Backend.attach(xen, device, configuration, stop: stop)
            outcome = try backend.run()
        } catch {
            try? device.close()
            throw error
        }
        try device.close()
        switch outcome {
        case .unplugged: Console.complain("unplugged disk \(name)")
        case .forced: Console.complain("disk \(name) was taken from the guest without its consent")
        case .guestGone: Console.complain("VM \(domain.name) is gone; disk \(name) is closed")
        case .handedOver:
            Console.complain("disk \(name) stays plugged; VM \(domain.name) waits for the same command to serve it again")
            // What asked for it is what it ends of: a supervisor can tell.
            _ = signal(SIGHUP, SIG_DFL)
            _ = raise(SIGHUP)
        }
    }
}
