import ArgumentParser
import Control
import Serve
import Store
import System

struct Stats: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stats", abstract: "Say what a store holds and what deduplication saves.",
        discussion: """
            Exact as of the last commit; what a guest has just written is on its way for a second at most.
            mapped: 4096 bytes for each block that a disk maps; zero blocks are never mapped. unique: 4096 bytes for each \
            distinct block of disks and snapshots. dedup ratio: mapped divided by the distinct blocks of disks. exclusive: what deleting \
            a disk with its snapshots, or a snapshot alone, would free. stored: bytes that the store's files occupy, as du \
            counts. reclaimable: stored blocks that nothing maps any more; they are found again when the same content is written. \
            Of disks that are served, a second table says what their servers do: requests that wait for their answer, what was read \
            and written since they are served, how long it took in the last ten seconds or so (the median, and 99% of it), and \
            what was answered and is not in the store yet. \
            filesystem: how full it is, as df says; servers warn at 80, 90 and 95%.
            """)
    @OptionGroup var options: StoreOptions
    @Argument(help: "Show this disk alone.", transform: CommandLineText.name) var disk: String?
    @Flag(help: "Print JSON.") var json = false

    struct Report: Encodable {
        struct Disk: Encodable {
            let name: String
            let size, mappedBytes, exclusiveBytes, created: UInt64
            let attached: Bool
            let snapshots: [Disk]
            let live: LiveDisk?

            init(_ disk: Statistics.Disk, _ live: [String: LiveFigures]) {
                self.live = live[disk.name].map { LiveDisk($0) }
                (name, size, mappedBytes, exclusiveBytes) = (disk.name, disk.size, disk.mappedBytes, disk.exclusiveBytes)
                (created, attached, snapshots) = (disk.created, disk.isAttached, disk.snapshots.map { Disk($0, [:]) })
            }
        }
        let format, storeFormat: Int
        let store: String
        let provisionedBytes, mappedBytes, uniqueBytes, storedBytes, reclaimableBytes, snapshotBytes: UInt64
        let dedupRatio, fill: Double
        let damagedBlobs: Int
        let compression: String
        let disks: [Disk]
    }

    func run() throws {
        let store = try options.open(for: .reading)
        let found = try store.statistics(of: disk)
        let live = LiveFigures.ask(for: found.disks.filter(\.isAttached).map(\.name), of: store)
        if json {
            return try Console.printJSON(
                Report(
                    format: 1, storeFormat: found.format, store: PathText.shown(found.store), provisionedBytes: found.provisionedBytes,
                    mappedBytes: found.mappedBytes,
                    uniqueBytes: found.uniqueBytes, storedBytes: found.storedBytes, reclaimableBytes: found.reclaimableBytes,
                    snapshotBytes: found.snapshotBytes, dedupRatio: found.dedupRatio,
                    fill: (found.filesystem.fill * 10).rounded() / 10, damagedBlobs: found.damagedBlobs,
                    compression: found.settings.compression.name,
                    disks: found.disks.map { .init($0, live) }))
        }
        if disk == nil { try printStore(found) }
        if !found.disks.isEmpty {
            let rows = found.disks.flatMap { [$0] + $0.snapshots }.map {
                [$0.name, Console.size($0.size), Console.size($0.mappedBytes), Console.size($0.exclusiveBytes), $0.isAttached ? "in use" : ""]
            }
            try Console.put((disk == nil ? "\n" : "") + Console.table([["DISK", "SIZE", "MAPPED", "EXCLUSIVE", ""]] + rows))
        }
        if !live.isEmpty { try Console.put("\n" + Console.table(LiveDisk.table(found.disks.compactMap { disk in live[disk.name].map { (disk.name, $0) } }))) }
    }

    private func compression(_ compression: Settings.Compression) -> String {
        switch compression {
        case .atOnce(.raw): ""
        case .atOnce(let codec): ", compressed with \(codec.name)"
        case .background: ", compressed in the background"
        }
    }

    private func printStore(_ found: Statistics) throws(Failure) {
        let saved = found.mappedBytes - min(found.mappedBytes, found.uniqueOfDisksBytes)
        try Console.put(
            "dedup ratio  \(Console.fixed(found.dedupRatio, 2))\nsaved        \(Console.size(saved)) of \(Console.size(found.mappedBytes)) written\n\n")
        var rows = [
            ["provisioned", Console.size(found.provisionedBytes), "what the guests see"],
            ["mapped", Console.size(found.mappedBytes), "what they have written and not discarded"],
            ["unique", Console.size(found.uniqueBytes), "the distinct blocks of it" + (found.snapshotBytes > 0 ? ", and of snapshots" : "")],
            [
                "stored", Console.size(found.storedBytes),
                "on the filesystem, in \(PathText.shown(found.store))" + compression(found.settings.compression),
            ],
            ["reclaimable", Console.size(found.reclaimableBytes), "stored, and mapped by nothing"],
            ["filesystem", "\(Console.fixed(found.filesystem.fill, 0))%", "full, \(Console.size(found.filesystem.freeBytes)) left"],
        ]
        if found.damagedBlobs > 0 { rows.append(["damaged", Console.count(found.damagedBlobs, "block"), "see: dedupdisk check --read-data"]) }
        let width = rows.map { $0[1].count }.max() ?? 0
        for row in rows {
            let name = row[0] + String(repeating: " ", count: 11 - row[0].count)
            try Console.print("\(name)  \(String(repeating: " ", count: width - row[1].count))\(row[1])  \(row[2])")
        }
    }
}

struct Check: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Recompute everything that can be recomputed, and compare.",
        discussion: "Exit status 3 when there is damage that was not repaired.")
    @OptionGroup var options: StoreOptions
    @Flag(help: "Read every block and compare it with its digest.") var readData = false
    @Flag(help: "Make digest index, reference counts and totals anew when they are wrong.") var repair = false

    func run() throws {
        let store = try options.open(for: repair ? .writing : .reading)
        let progress = Progress("read")
        let report = try store.check(readData: readData, repair: repair) {
            progress.update(UInt64($0), of: UInt64($1)) { "\($0) packs" }
        }
        progress.end()
        for problem in report.problems { Console.complain(problem) }
        if report.problemCount > report.problems.count { Console.complain("and \(report.problemCount - report.problems.count) more") }
        try Console.print(
            "\(Console.count(report.disks, "disk")), \(report.snapshots > 0 ? Console.count(report.snapshots, "snapshot") + ", " : "")\(Console.count(report.mappedBlocks, "mapped block")), "
                + "\(Console.count(report.blobs, "blob")) in \(Console.count(report.packs, "pack")): "
                + (report.problemCount == 0 ? "no damage" : report.isRepaired ? "repaired" : Console.count(report.problemCount, "problem")))
        if report.problemCount > 0, !report.isRepaired { throw ExitCode(3) }
    }
}

struct Collect: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gc",
        abstract: "Free the space of blocks that no disk maps any more.",
        discussion: "Works while disks are in use. Can be interrupted; what is done stays done.")
    @OptionGroup var options: StoreOptions

    func run() throws {
        let store = try options.open()
        let stop = try StopRequest()
        stop.sendOnSignals()
        try store.removeLeftovers()
        let before = try store.storedBytes()
        let progress = Progress("collected")
        var isStopped = false
        let freed = try store.collect(shouldStop: {
            isStopped = isStopped || stop.take() > 0
            return isStopped
        }) { progress.update(UInt64($0), of: UInt64($1)) { "\($0) packs" } }
        progress.end()
        let after = try store.storedBytes()
        try Console.print("freed \(Console.size(freed)) of blocks; the store's files take \(Console.size(before - min(before, after))) less")
        if isStopped { throw Failure(.interrupted, "gc", "interrupted", remedy: "run it again to go on") }
    }
}

struct Maintain: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "maintain", abstract: "Do the maintenance that is due, and end.",
        discussion: """
            What nothing refers to any more is collected, and its space given back, as whoever serves a disk does it all the time. For a \
            timer, where a store is not always in use. Ends at once where another process is at it, or `set maintenance=off` says so.
            """)
    @OptionGroup var options: StoreOptions

    private static let patience = Patience(limit: 0.1, limitWhenStopped: 0.1)

    func run() throws {
        let store = try options.open()
        guard try store.settings().isMaintained else { return }
        let stop = try StopRequest()
        stop.sendOnSignals()
        do throws(Failure) {
            try collect(store, stop)
        } catch where error.kind == .busy {
            // Whoever has it does the same.
        }
    }

    private func collect(_ store: Store, _ stop: StopRequest) throws(Failure) {
        _ = try store.collect(patience: Self.patience, shouldStop: { stop.take() > 0 }) { _, _ in }
    }
}
