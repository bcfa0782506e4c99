import ArgumentParser
import Catalogue
import Glibc
import Store
import System

struct Prune: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "prune", abstract: "Delete old snapshots, but for some.",
        discussion: """
            Each rule keeps the newest snapshot of each of the last so many hours, days, weeks (from Monday) or months that have one; \
            --keep-last the newest of all. What no rule keeps is deleted. A snapshot in use stays.

              dedupdisk prune web1 --keep-last 3 --keep-daily 7 --keep-weekly 4 --dry-run
            """)
    @OptionGroup var options: StoreOptions
    @Argument(help: "The disks.", transform: CommandLineText.name) var disks: [String]
    @Option(help: ArgumentHelp("Keep the newest ones.", valueName: "n")) var keepLast: Int?
    @Option(help: ArgumentHelp("Keep one an hour.", valueName: "n")) var keepHourly: Int?
    @Option(help: ArgumentHelp("Keep one a day.", valueName: "n")) var keepDaily: Int?
    @Option(help: ArgumentHelp("Keep one a week.", valueName: "n")) var keepWeekly: Int?
    @Option(help: ArgumentHelp("Keep one a month.", valueName: "n")) var keepMonthly: Int?
    @Flag(help: "Say what would be deleted, and delete nothing.") var dryRun = false

    func validate() throws {
        let counts = [keepLast, keepHourly, keepDaily, keepWeekly, keepMonthly].compactMap { $0 }
        guard !counts.isEmpty else { throw ValidationError("say what to keep: --keep-last, --keep-hourly, --keep-daily, --keep-weekly, --keep-monthly") }
        guard counts.allSatisfy({ $0 >= 0 }), counts.contains(where: { $0 > 0 }) else { throw ValidationError("at least one is to be kept: a number above 0") }
    }

    func run() throws {
        let store = try options.open(for: dryRun ? .reading : .writing)
        let rules = KeepRules(last: keepLast, hourly: keepHourly, daily: keepDaily, weekly: keepWeekly, monthly: keepMonthly)
        for disk in disks {
            guard let found = try store.disk(disk), !found.isSnapshot else { throw store.noSuchDisk(disk) }
        }
        var busy: Failure?
        for disk in disks {
            if let failure = try prune(disk, of: store, rules) { busy = failure }
        }
        if let busy { throw busy }
    }

    /// - Returns: why a snapshot that was to go is still there, as somebody reads it; nil: all are gone.
    private func prune(_ disk: String, of store: Store, _ rules: KeepRules) throws(Failure) -> Failure? {
        let snapshots = try store.snapshots(of: disk)
        let kept = rules.kept(snapshots.map(\.created))
        var busy: Failure?
        for (index, snapshot) in snapshots.enumerated() {
            if kept.contains(index) {
                try Console.print("keep    \(snapshot.name)")
            } else if dryRun {
                try Console.print("delete  \(snapshot.name)")
            } else {
                // The others can go all the same.
                do throws(Failure) { try delete(snapshot, of: store) } catch where error.kind == .busy { busy = error }
            }
        }
        return busy
    }

    private func delete(_ snapshot: DiskRecord, of store: Store) throws(Failure) {
        try store.delete(try store.lock(snapshot.name))
        try Console.print("deleted \(snapshot.name)")
    }
}

/// Which of some snapshots stay, by the times at which they were made.
struct KeepRules {
    /// How many are kept, and what the times of one hour, day … have in common (strftime(3), local time); nil: each snapshot is counted by itself.
    private let rules: [(count: Int, format: String?)]

    init(last: Int?, hourly: Int?, daily: Int?, weekly: Int?, monthly: Int?) {
        rules = [(last ?? 0, nil), (hourly ?? 0, "%Y-%m-%d %H %z"), (daily ?? 0, "%Y-%m-%d"), (weekly ?? 0, "%G-%V"), (monthly ?? 0, "%Y-%m")]
    }

    /// Of an hour, a day … one is kept, the one that was made last, also when the clock was put back in between. That order counts, not the times, as a clock
    /// may have been years ahead: what was made then would stay for ever, and what is made now would go.
    /// - Parameter times: seconds since 1970, in the order in which they were made.
    /// - Returns: the places of those that stay.
    func kept(_ times: [UInt64]) -> Set<Int> {
        var kept: Set<Int> = []
        for (count, format) in rules {
            var left = count
            var seen: Set<String> = []
            for index in times.indices.reversed() where left > 0 {
                let bucket = format.map { Self.text($0, times[index]) } ?? "\(index)"
                guard seen.insert(bucket).inserted else { continue }
                left -= 1
                kept.insert(index)
            }
        }
        return kept
    }

    private static func text(_ format: String, _ seconds: UInt64) -> String {
        var time = time_t(clamping: seconds)
        var parts = unsafe tm()
        guard unsafe localtime_r(&time, &parts) != nil else { return "" }
        var text = [CChar](repeating: 0, count: 64)
        let count = unsafe strftime(&text, text.count, format, &parts)
        return String(decoding: text.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
