import BlockModel
import Foundation
import System
import TestSupport

/// How fast an image that is half duplicates is taken in, here and by other programs that keep such images.
struct Ingest {
    let plan: Plan
    private var comparison = Comparison()
    /// Programs that took so long, or failed, that they are not measured again.
    private var slow: Set<String> = []

    init(_ plan: Plan) { self.plan = plan }

    private var byteCount: Int { plan.size(1 << 30, short: 16 << 20) }
    private var image: String { plan.disk + "/image" }
    private var target: String { plan.disk + "/target" }
    /// Seconds: whoever takes longer in a round is not measured again.
    private static let patience = 30.0

    /// A program that takes in the image, into `target`, which is not there yet.
    private struct Keeper {
        let name: String
        let program: String
        let package: String
        var environment: [String: String] = [:]
        /// Programs and arguments; the first ones make a repository, the last one is what is measured.
        var prepare: [[String]] = []
        let command: [String]
    }

    private var keepers: [Keeper] { plan.isAlone ? Array(allKeepers.prefix(1)) : allKeepers }

    private var allKeepers: [Keeper] {
        // Their own settings but for what is said; nothing of theirs outside the run's directory.
        let home = [
            "HOME": plan.disk + "/home", "BORG_BASE_DIR": plan.disk + "/home", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": plan.disk + "/home",
        ]
        let borg = [["borg", "init", "--encryption=none", target]]
        return [
            Keeper(
                name: "dedupdisk import", program: plan.program ?? "dedupdisk", package: "dedupdisk",
                command: [plan.program ?? "dedupdisk", "import", "--store", target, image, "disk"]),
            Keeper(
                name: "borg create, fixed 4 KiB, no compression", program: "borg", package: "borgbackup", environment: home, prepare: borg,
                command: ["borg", "create", "--chunker-params=fixed,4096", "--compression=none", target + "::a", image]),
            Keeper(
                name: "borg create", program: "borg", package: "borgbackup", environment: home, prepare: borg,
                command: ["borg", "create", target + "::a", image]),
            Keeper(
                name: "restic backup", program: "restic", package: "restic", environment: home,
                prepare: [["restic", "init", "--quiet", "--repo", target]],
                command: ["restic", "backup", "--quiet", "--repo", target, image]),
            Keeper(
                name: "casync make, 4 KiB", program: "casync", package: "casync", environment: home, prepare: [["mkdir", target]],
                command: ["casync", "make", "--chunk-size=4096", "--store=\(target)/store", target + "/image.caibx", image]),
        ]
    }

    mutating func section() throws -> Section {
        var section = Section(
            name: "ingest", title: "Taking in an image of \(Unit.bytes.text(Double(byteCount))), half of it duplicates",
            caveat: """
                The image is in the page cache. cp ends with an fsync of the copy; each other is as durable at its end as it \
                makes itself. borg (but for fixed) and restic compress or try to, restic encrypts: they do more for the time. \
                Space is what du counts, of \(Unit.bytes.text(Double(byteCount / 2))) that are unique.
                """)
        say("ingest: making the image")
        try ImageFile.write(image, blocks: byteCount / blockSize, isHalfDuplicate: true)
        try FileManager.default.createDirectory(atPath: plan.disk + "/home", withIntermediateDirectories: true)
        defer { for path in [image, target, plan.disk + "/home"] { removeAll(path) } }
        let present = keepers.filter { keeper in
            let isPresent = find(keeper.program) != nil
            if !isPresent { section.missing.append("\(keeper.name) (package \(keeper.package))") }
            return isPresent
        }
        for round in 0..<plan.rounds {
            for keeper in present where !slow.contains(keeper.name) {
                say("ingest: round \(round + 1), \(keeper.name)")
                // Its own limit right before it: what the device does changes from minute to minute.
                let copy = try copyImage()
                do {
                    try measure(keeper, copy)
                } catch {
                    slow.insert(keeper.name)
                    section.missing.append("\(keeper.name): \(error)")
                }
            }
        }
        section.rows = comparison.rows
        return section
    }

    private mutating func copyImage() throws -> Double {
        guard !plan.isAlone else { return .nan }
        removeAll(target)
        let rate =
            try Double(byteCount)
            / time {
                try succeed("cp", ["--sparse=never", "--reflink=never", image, target])
                try succeed("sync", [target])
            }
        removeAll(target)
        return rate
    }

    private mutating func measure(_ keeper: Keeper, _ copy: Double) throws {
        for command in keeper.prepare { try succeed(command[0], Array(command.dropFirst()), environment: keeper.environment) }
        let spent = try time { try succeed(keeper.command[0], Array(keeper.command.dropFirst()), environment: keeper.environment) }
        if spent > Self.patience { slow.insert(keeper.name) }
        comparison.add(
            keeper.name, Double(byteCount) / spent, .bytesPerSecond, of: ("cp + sync", copy),
            goal: keeper.name.hasPrefix("dedupdisk") ? .ingest : nil,
            remark: spent > Self.patience ? "one round only" : nil)
        comparison.add("space after \(keeper.name)", try diskUsage(target), .bytes, of: ("unique content", Double(byteCount / 2)))
        removeAll(target)
    }
}

/// Bytes that a directory takes on its filesystem: du(1).
func diskUsage(_ path: String) throws -> Double {
    let text = try succeed("du", ["--summarize", "--block-size=1", path])
    guard let bytes = text.split(separator: "\t").first.flatMap({ Double($0) }) else { throw Failure(.system, "du \(path)", text) }
    return bytes
}
