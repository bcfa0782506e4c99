import Activity
import ArgumentParser
import BlockModel
import Control
import Disk
import Glibc
import Store
import System

/// Which disk is served, and how: the options are the same for a VM and for NBD clients.
struct DiskSource: ParsableArguments {
    @OptionGroup var options: StoreOptions
    @Option(help: ArgumentHelp("Size of a new disk: 20G, 512MiB, bytes.", valueName: "size")) var size: ByteSize?
    @Flag(help: "The guest or client can't write.") var readOnly = false
    @Flag(
        help:
            "What is written is gone at the end; the disk, or --path's file, stays as it is. Until then it is kept in the store; with --path, in $TMPDIR, else /var/tmp."
    )
    var ephemeral = false
    @Option(help: ArgumentHelp("A raw file or block device instead of a disk of the store.", valueName: "file")) var path: String?
    @Flag(help: "Serve --path's file or device also when it is mounted, or in use elsewhere.") var force = false
    @Flag(help: "A disk of --size that accepts and forgets everything.") var discard = false

    func validate() throws {
        if path != nil, discard { throw ValidationError("--path and --discard exclude each other") }
        if path != nil, size != nil { throw ValidationError("a file has its size: --size does not go with --path") }
        if discard, size == nil { throw ValidationError("--discard needs --size") }
        if discard, ephemeral { throw ValidationError("--discard keeps nothing that is written: --ephemeral does not go with it") }
        if force, path == nil { throw ValidationError("--force is for --path's file or device: it does not go without --path") }
    }

    /// Whether it is a disk of the store.
    var isStored: Bool { path == nil && !discard }

    /// Opens the disk, which is called `name` in the store, and lets `server` serve it.
    func serve(_ name: String, by server: some DiskServer) throws {
        let activity = Activity()
        if discard, let size {
            try server.serve(try DiscardDisk(byteCount: size.bytes, readOnly: readOnly), named: "discard", isResumable: false, activity)
        } else if let path {
            let file = try RawFileDisk(path: path, readOnly: readOnly || ephemeral, isForced: force)
            if let format = file.foreignFormat {
                // A guest may have written such bytes itself, and must find its disk again.
                Console.complain(
                    "\(path) looks like \(format.title), and is served raw, as the bytes that it has (if that is not meant, end this before they are changed)",
                    .warning)
            }
            try serve(file, named: Self.absolute(path), ephemeralName: path, by: server, activity)
        } else {
            let store = try openStore()
            let maintainer = Maintainer(store)
            try maintainer.start()
            defer { maintainer.stop() }
            if ephemeral {
                try checkSize(of: name, in: store)
                // What is written goes there; where there can be no copy, beside the disk.
                if let copy = try CopiedDisk.copy(of: name, in: store) {
                    defer { copy.remove() }
                    return try server.serve(try copy.open(readOnly: readOnly), named: name, isResumable: false, activity)
                }
            }
            let disk = try open(name, in: store, activity)
            try serve(disk, named: "\(Self.absolute(store.path)):\(name)", ephemeralName: name, by: server, activity)
        }
    }

    private func serve<Device: BlockDevice>(
        _ disk: Device, named name: String, ephemeralName: String, by server: some DiskServer, _ activity: Activity
    ) throws {
        // Where nobody writes, there is nothing to keep apart.
        if ephemeral, !readOnly {
            let copy = try EphemeralDisk(over: disk, scratchDirectory: Self.scratchDirectory)
            try server.serve(copy, named: ephemeralName, isResumable: false, activity)
        } else {
            try server.serve(disk, named: name, isResumable: !readOnly, activity)
        }
    }

    private func openStore() throws -> Store {
        guard size != nil, !ephemeral, !readOnly else {
            let store = try options.open(for: ephemeral || readOnly ? .reading : .writing)
            // Copies of `--ephemeral` that were killed. That they can't be removed now is no reason not to serve.
            if !store.isReadOnly { try? store.removeLeftovers() }
            return store
        }
        let store = try options.openOrCreate()
        try store.removeLeftovers()
        return store
    }

    private func open(_ name: String, in store: Store, _ activity: Activity) throws -> StoreDisk {
        if try store.disk(name) == nil, let size, !ephemeral, !readOnly { try store.create(name, byteCount: size.bytes) }
        try checkSize(of: name, in: store)
        let disk = try StoreDisk(store, name, readOnly: readOnly || ephemeral)
        if !readOnly, !ephemeral { ControlServer.start(for: disk, of: store, activity) }
        return disk
    }

    private func checkSize(of name: String, in store: Store) throws(Failure) {
        guard let old = try store.disk(name) else {
            // A disk that is only read, or copied, is never made.
            let remedy = readOnly || ephemeral ? "create it first, or name another disk" : "give --size to make it, or name another disk"
            throw Failure(.notFound, .disk(name), "there is none in store \(store.path)", remedy: remedy)
        }
        if let size, size.bytes != old.byteCount {
            throw Failure(.usage, .disk(name), "it has \(old.byteCount) bytes, not \(size.bytes)", remedy: "leave --size out")
        }
    }

    /// Where `--ephemeral` keeps what is written: $TMPDIR, else /var/tmp, which is rarely in memory, else /tmp.
    private static var scratchDirectory: String {
        if let directory = CommandLineText.variable("TMPDIR") { return directory }
        return unsafe access("/var/tmp", W_OK) == 0 ? "/var/tmp" : "/tmp"
    }

    /// The path of a file that is the same whatever directory a process runs in: realpath(3). What is served is known by it.
    private static func absolute(_ path: String) -> String {
        guard let real = unsafe realpath(path, nil) else { return path }
        defer { unsafe free(real) }
        return unsafe PathText.text(real)
    }
}

/// A way to serve a disk of any kind.
protocol DiskServer {
    /// Serves until the end, and closes the disk.
    /// - Parameters:
    ///   - name: what the disk is known by: store and name, or the path of its file; of a copy, the name alone, as no later process finds it.
    ///   - isResumable: the same command, given again after this process was killed, serves the same disk.
    ///   - activity: notes what is done for the guest or the clients.
    func serve<Device: BlockDevice>(_ device: Device, named name: String, isResumable: Bool, _ activity: Activity) throws
}
