import Activity
import ArgumentParser
import BlockModel
import Glibc
import Serve
import System

struct Serve: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve", abstract: "Serve a disk to NBD clients: QEMU, nbd-client, nbdcopy.",
        discussion: """
            Clients ask for the disk by its name, or for the default export. Any number of connections share it. Prints the \
            disk's URI when it is ready. Runs until SIGINT or SIGTERM, which finish the requests at work; a second signal \
            does not wait for them.

            NBD neither encrypts nor asks for a password. A socket of --socket is its owner's alone. A port of \
            --listen is open to everybody on this machine, and to nobody else.

              dedupdisk serve web1 --size 20G --socket /run/web1.sock &
              nbdcopy debian.img 'nbd+unix:///web1?socket=/run/web1.sock'
              qemu-img info 'nbd+unix:///web1?socket=/run/web1.sock'
              nbd-client -unix /run/web1.sock /dev/nbd0
            """)
    @Argument(help: "Name of the disk; with --path or --discard, what clients call it.", transform: CommandLineText.name) var disk: String
    @Option(help: ArgumentHelp("Listen on a UNIX socket, which appears there.", valueName: "path")) var socket: String?
    @Option(help: ArgumentHelp("Listen on a port of the loopback interface; 0: any that is free. Default: 127.0.0.1:10809.", valueName: "address:port"))
    var listen: String?
    @OptionGroup var source: DiskSource

    func validate() throws {
        if socket != nil, listen != nil { throw ValidationError("--socket and --listen exclude each other") }
        guard (1...4096).contains(disk.utf8.count) else { throw ValidationError("the protocol's names have 1 to 4096 bytes") }
    }

    func run() throws {
        // When nobody reads the messages any more, the disk is served all the same.
        _ = signal(SIGPIPE, SIG_IGN)
        let address =
            if let socket { NBDAddress.unix(path: socket) } else if let listen { try NBDAddress(listen: listen) } else { NBDAddress.standard }
        try source.serve(disk, by: Listening(name: disk, address: address))
    }
}

/// Serves a disk to NBD clients.
private struct Listening: DiskServer {
    /// What clients call the disk.
    let name: String
    let address: NBDAddress

    func serve<Device: BlockDevice>(_ device: Device, named place: String, isResumable: Bool, _ activity: Activity) throws {
        let stop = try StopRequest()
        stop.sendOnSignals()
        let outcome: NBDOutcome
        do {
            let listener = try NBDListener(address)
            Console.log("disk \(name) is at \(listener.address.uri(export: name))")
            outcome = NBDServer(device, name: name, on: listener, stop: stop, activity: activity, log: { Console.log($0) }).run()
        } catch {
            close(device)
            throw error
        }
        if outcome == .forced {
            Console.log("disk \(name) was left with requests at work")
            // Threads are still at work on the disk: what they use must stay as long as the process does.
            Console.end(0)
        }
        try close(device, named: name, unlessForced: stop)
        Console.log("disk \(name) is closed")
    }
}
