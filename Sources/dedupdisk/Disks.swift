import ArgumentParser
import BlockModel
import Catalogue
import Disk
import Store
import System

struct Create: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "create", abstract: "Make an empty disk; it takes no space until it is written.")
    @OptionGroup var options: StoreOptions
    @Argument(help: "Name of the new disk.", transform: CommandLineText.name) var disk: String
    @Option(help: ArgumentHelp("Size that the guest sees: 20G, 512MiB, bytes.", valueName: "size")) var size: ByteSize
    @Option(
        help: ArgumentHelp(
            "How the store compresses blocks from now on, whatever disk they are of: none, lz4, zstd, or background: zstd, when maintenance writes them anew. A new store compresses nothing.",
            valueName: "codec"))
    var compression: CompressionName?

    func run() throws {
        let store = try options.openOrCreate()
        try store.removeLeftovers()
        try store.create(disk, byteCount: size.bytes)
        if let compression = compression?.compression, try store.settings().compression != compression { try store.change { $0.compression = compression } }
    }
}

struct Resize: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resize", abstract: "Change the size of a disk.",
        discussion:
            "A disk that is in use can grow, and its guest sees it within seconds. One with data beyond its new end does not shrink, unless --discard-data says so."
    )
    @OptionGroup var options: StoreOptions
    @Argument(help: "Name of the disk.", transform: CommandLineText.name) var disk: String
    @Argument(help: "The new size: 20G, 512MiB, bytes.") var size: ByteSize
    @Flag(help: "Throw away what lies beyond the end of a smaller disk.") var discardData = false

    func run() throws {
        try StoreDisk.resize(disk, of: try options.open(), to: size.bytes, discardingData: discardData)
    }
}

struct Delete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete", abstract: "Delete disks or snapshots.",
        discussion: """
            Blocks that others share stay; the space of the others comes back by and by. A disk with snapshots is deleted with \
            --recursive alone. Nothing is deleted that is in use.
            """)
    @OptionGroup var options: StoreOptions
    @Argument(help: ArgumentHelp("The disks and snapshots.", valueName: "disk[@name]"), transform: CommandLineText.name) var disks: [String]
    @Flag(help: "Delete the disks' snapshots, too.") var recursive = false

    func run() throws {
        let store = try options.open()
        // A name that is mistyped is found before anything is gone.
        for disk in disks where try store.disk(disk) == nil { throw store.noSuchDisk(disk) }
        for disk in disks { try store.delete(try store.lock(disk), recursive: recursive) }
        try store.removeLeftovers()
    }
}

struct List: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "List the disks of a store.")
    @OptionGroup var options: StoreOptions
    @Argument(help: "List this disk alone.", transform: CommandLineText.name) var disk: String?
    @Flag(help: "List snapshots, too, each behind its disk, the oldest first.") var snapshots = false
    @Flag(help: "Print JSON.") var json = false

    struct Row: Encodable {
        let name: String
        let size, mappedBytes, created: UInt64
        let snapshots: [Row]?

        init(_ disk: DiskRecord, _ snapshots: [Row]? = nil) {
            name = disk.name
            size = disk.byteCount
            mappedBytes = disk.mappedBlocks * UInt64(blockSize)
            created = disk.created
            self.snapshots = snapshots
        }
    }

    func run() throws {
        let store = try options.open(for: .reading)
        let disks: [DiskRecord]
        if let disk {
            guard let found = try store.disk(disk) else { throw store.noSuchDisk(disk) }
            disks = [found]
        } else {
            disks = try store.disks()
        }
        let rows = try disks.map { disk in Row(disk, snapshots ? try store.snapshots(of: disk.name).map { Row($0) } : nil) }
        if json { return try Console.printJSON(rows) }
        if rows.isEmpty { return }
        try Console.put(
            Console.table(
                [["NAME", "SIZE", "MAPPED"]]
                    + rows.flatMap { [$0] + ($0.snapshots ?? []) }.map { [$0.name, Console.size($0.size), Console.size($0.mappedBytes)] }))
    }
}

struct Map: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "map", abstract: "Print a disk's map, from sector to hash.",
        discussion: "A line for each mapped block: its first sector and its SHA-256. Of a disk in use, it is the map of one moment.")
    @OptionGroup var options: StoreOptions
    @Argument(help: "Name of the disk.", transform: CommandLineText.name) var disk: String
    @Option(help: ArgumentHelp("Begin at this byte of the disk.", valueName: "n")) var offset: ByteSize?
    @Option(help: ArgumentHelp("Look at no more than this many bytes.", valueName: "n")) var length: ByteSize?
    @Flag(help: "Print JSON, an object a line.") var json = false

    func run() throws {
        let store = try options.open(for: .reading)
        guard try store.disk(disk) != nil else { throw store.noSuchDisk(disk) }
        try CopiedDisk.with(disk, of: store) { (disk) throws(Failure) in try print(disk, of: store) }
    }

    private func print(_ disk: String, of store: Store) throws(Failure) {
        let first = (offset?.bytes ?? 0) / UInt64(blockSize)
        let (end, overflow) = (offset?.bytes ?? 0).addingReportingOverflow(length?.bytes ?? .max)
        // Rounded up without a sum that may not fit.
        let last = overflow ? UInt64.max : end / UInt64(blockSize) + (end % UInt64(blockSize) == 0 ? 0 : 1)
        var reader = try BlockReader(store, disk: disk)
        var next = first
        while true {
            let (blocks, after) = try reader.mapped(from: next, to: last, limit: 4096)
            var text = ""
            for mapped in blocks {
                let sector = mapped.block * UInt64(sectorsPerBlock)
                let digest = mapped.digest.map { "\($0)" }
                text += json ? #"{"sector":\#(sector),"sha256":\#(digest.map { "\"\($0)\"" } ?? "null")}"# + "\n" : "\(sector) \(digest ?? "damaged")\n"
            }
            try Console.put(text)
            guard after > next, !blocks.isEmpty else { return }
            next = after
        }
    }
}
