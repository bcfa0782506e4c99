import ArgumentParser
import BlockModel
import Catalogue
import Control
import Disk
import Store
import System

/// A snapshot's name on the command line: DISK@NAME.
struct SnapshotArgument: ExpressibleByArgument {
    let name: SnapshotName

    init?(argument: String) {
        // What is no text is no snapshot either: the parser says what it should be.
        guard let text = try? CommandLineText.name(argument), let name = SnapshotName(text), !name.disk.isEmpty, !name.name.isEmpty else { return nil }
        self.name = name
    }
}

struct Snapshot: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "snapshot", abstract: "Keep what disks are at this moment.",
        discussion: """
            Takes no time and no space, whatever the disk's size; what changes later takes some. A disk may be in use: its snapshot has \
            every write that was answered before, as after a loss of power. Of several disks, all are of one instant: those of a \
            VM's data and its log, say.

              dedupdisk snapshot web1@monday
              dedupdisk snapshot data@1 log@1
              dedupdisk clone web1@monday web2

            A snapshot is read as DISK@NAME: export, map, stats, diff, serve --read-only, connect --ephemeral.
            """)
    @OptionGroup var options: StoreOptions
    @Argument(help: ArgumentHelp("The disks, and what their snapshots are called.", valueName: "disk@name")) var snapshots: [SnapshotArgument]

    func run() throws {
        let store = try options.open()
        try store.removeLeftovers()
        let names = snapshots.map(\.name)
        guard Set(names.map { PathText.bytes($0.disk) }).count == names.count else {
            throw Failure(.usage, "snapshot", "the disks", "one is named twice", remedy: "take one snapshot of each")
        }
        // Before any server is asked to hold still.
        for name in names { try store.checkIsFree(.snapshot(name)) }
        let copier = Copier(store)
        try copier.name(copier.copies(of: names.map(\.disk)), names.map { .snapshot($0) })
    }
}

struct Clone: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "clone", abstract: "Make a disk that begins as another one, or a snapshot.",
        discussion: "Takes no time and no space, whatever the disk's size. Neither needs the other: each can be changed and deleted.")
    @OptionGroup var options: StoreOptions
    @Argument(help: ArgumentHelp("What it begins as; a disk may be in use.", valueName: "disk[@name]"), transform: CommandLineText.name) var disk: String
    @Argument(help: "Name of the new disk.", transform: CommandLineText.name) var new: String

    func run() throws {
        let store = try options.open()
        try store.removeLeftovers()
        try store.checkIsFree(.disk(new))
        let copier = Copier(store)
        try copier.name([copier.copy(of: disk)], [.disk(new)])
    }
}

struct Rollback: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rollback", abstract: "Make a disk what it was.",
        discussion: "All that was written since is lost, unless a snapshot has it. Newer snapshots stay. The disk must not be in use.")
    @OptionGroup var options: StoreOptions
    @Argument(help: ArgumentHelp("A snapshot of the disk.", valueName: "disk@name")) var snapshot: SnapshotArgument

    func run() throws { try StoreDisk.rollBack(snapshot.name, of: try options.open()) }
}

struct Rename: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rename", abstract: "Give a disk, or a snapshot, another name.", discussion: "A disk keeps its snapshots. It must not be in use.")
    @OptionGroup var options: StoreOptions
    @Argument(help: ArgumentHelp("The disk or snapshot.", valueName: "disk[@name]"), transform: CommandLineText.name) var disk: String
    @Argument(help: ArgumentHelp("Its new name.", valueName: "new[@name]"), transform: CommandLineText.name) var new: String

    func run() throws {
        let store = try options.open()
        try store.removeLeftovers()
        let lock = try store.lock(disk)
        guard !lock.record.isIncomplete else { throw store.noSuchDisk(disk) }
        try store.rename(lock, to: new)
    }
}

struct Diff: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "diff", abstract: "List where a disk differs from a snapshot.",
        discussion: """
            A line for each run of bytes: offset, length, and data or hole, as the second one has it. What both share is not read, so that \
            it takes as long as there are differences.
            """)
    @OptionGroup var options: StoreOptions
    @Argument(help: ArgumentHelp("What it was.", valueName: "disk@name"), transform: CommandLineText.name) var old: String
    @Argument(help: ArgumentHelp("What it is; the snapshot's disk, when not given.", valueName: "disk[@name]"), transform: CommandLineText.name) var new:
        String?
    @Flag(help: "Print JSON, an object a line.") var json = false

    func run() throws {
        let store = try options.open(for: .reading)
        guard let new = new ?? SnapshotName(old)?.disk else { throw ValidationError("name a snapshot, DISK@NAME, or two disks") }
        try CopiedDisk.with(old, of: store) { (old) throws(Failure) in
            try CopiedDisk.with(new, of: store) { (new) throws(Failure) in try print(old, new, of: store) }
        }
    }

    private func print(_ old: String, _ new: String, of store: Store) throws(Failure) {
        var next: UInt64? = 0
        while let start = next {
            let (runs, end) = try store.differences(old, new, from: start, limit: 4096)
            try Console.put(
                runs.map { run in
                    let kind = run.isHole ? "hole" : "data"
                    return json ? #"{"offset":\#(run.offset),"length":\#(run.length),"type":"\#(kind)"}"# + "\n" : "\(run.offset) \(run.length) \(kind)\n"
                }.joined())
            next = end
        }
    }
}
