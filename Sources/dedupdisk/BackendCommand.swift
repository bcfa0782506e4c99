import ArgumentParser
import Catalogue
import Control
import Disk
import Glibc
import Serve
import Store
import System
import XenBus

struct BackendCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "backend", abstract: "Serve the disks that the toolstack attaches.",
        discussion: """
            A disk of the store is named in a VM's configuration, or to xl block-attach, as \
            'format=raw,vdev=xvdb,access=rw,backendtype=qdisk,target=dedupdisk:DISK' or, where the kernel's xen-blkback is \
            not loaded, 'format=raw,vdev=xvda,access=rw,script=block-dedupdisk,target=DISK'; target comes last. The disks \
            must exist. DISK@NAME is a snapshot: with access=ro it is read, and with access=rw what the guest writes is its \
            own, and gone when the disk is detached.

            Runs until SIGTERM, SIGINT or SIGHUP, which leave all disks plugged: their guests wait, and go on without an \
            error when it is started again. So they do after a kill -9.
            """)
    @OptionGroup var options: StoreOptions
    @Option(
        help: ArgumentHelp("Rings that a guest may use, each with a thread: 1 to 64. As many as there are processors, up to 8, when not given.", valueName: "n")
    )
    var queues = BackendConfiguration.defaultQueues

    func validate() throws {
        if !(1...64).contains(queues) { throw ValidationError("--queues is a number from 1 to 64") }
    }

    func run() throws {
        _ = signal(SIGPIPE, SIG_IGN)
        let store = try options.open()
        // Held until the process ends: two daemons would take each other's devices.
        let lock = try File(path: Self.lockPath, options: [.write, .create], mode: 0o600)
        guard try lock.tryLock(exclusive: true) else {
            throw Failure(.busy, "start", "dedupdisk backend", "another one runs on this machine", remedy: "end that one first")
        }
        // If it can't be unlocked, it ends with the process.
        defer { try? lock.unlock() }
        let stop = try StopRequest()
        stop.sendOnSignals(handOver: [SIGTERM, SIGINT, SIGHUP])
        var configuration = BackendDaemon<LibXen, StoreDisk>.Configuration(log: { Console.log($0) })
        configuration.maximumQueues = queues
        configuration.describe = { "\($0.advised)" }
        configuration.obstacle = { Self.obstacle($0) }
        configuration.begin = { (devices) throws(Failure) in try store.removeKeptCopies(butOf: devices) }
        // A copy that can't be removed now is removed when the next daemon begins.
        configuration.forget = { if Self.isEphemeral($0) { try? store.removeKeptCopy(of: $0.device) } }
        let daemon = try BackendDaemon(configuration, stop: stop, makeHost: { () throws(Failure) in try LibXen() }) { (disk) throws(Failure) in
            try Self.open(disk, of: store)
        }
        let maintainer = Maintainer(store)
        try maintainer.start()
        defer { maintainer.stop() }
        Console.log("serving the disks of \(store.path)")
        try daemon.run()
        Console.log("ended; disks stay plugged until it is started again")
    }

    /// Whether the disk is a snapshot that a guest may write to: what it writes goes into a copy that is its device's, and is removed with that.
    private static func isEphemeral(_ disk: ToolstackDisk) -> Bool { SnapshotName(disk.name) != nil && !disk.isReadOnly }

    private static func open(_ disk: ToolstackDisk, of store: Store) throws(Failure) -> StoreDisk {
        guard isEphemeral(disk) else {
            let opened = try StoreDisk(store, disk.name, readOnly: disk.isReadOnly)
            if !disk.isReadOnly { ControlServer.start(for: opened, of: store, disk.activity) }
            return opened
        }
        if !disk.isNew {
            // The guest has written to its copy, and goes on with it.
            if let copy = try Copy(keptFor: disk.device, in: store) { return try copy.open(readOnly: false) }
            throw Failure(.notFound, "open", .disk(disk.name), "what its guest has written to it is gone", remedy: "detach it, and attach it anew")
        }
        return try Copier(store).copy(of: disk.name, keptFor: disk.device).open(readOnly: false)
    }

    private static let lockPath = "/run/dedupdisk-backend.lock"

    /// The kernel's backend takes every device of class vbd as soon as it sees it.
    private static func obstacle(_ className: String) -> String? {
        guard className == "vbd", unsafe access("/sys/bus/xen-backend/drivers/vbd", F_OK) == 0 else { return nil }
        return "the kernel's xen-blkback is loaded, and takes it; use backendtype=qdisk,target=dedupdisk:DISK"
    }
}
