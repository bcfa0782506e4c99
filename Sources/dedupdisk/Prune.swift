import ArgumentParser
import Glibc
import Store
import System

struct Prune: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Delete old snapshots, but for some.",
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
        for disk in disks where try store.disk(disk)?.isSnapshot ?? true { throw store.noSuchDisk(disk) }
        var failure: Failure?
        for disk in disks {
            let snapshots = try store.snapshots(of: disk)
            let kept = rules.kept(snapshots.map(\.created))
            for (index, snapshot) in snapshots.enumerated() {
                if kept.contains(index) {
                    try Console.print("keep    \(snapshot.name)")
                } else if dryRun {
                    try Console.print("delete  \(snapshot.name)")
                } else {
                    do throws(Failure) {
                        try store.delete(try store.lock(snapshot.name))
                        try Console.print("deleted \(snapshot.name)")
                    } catch where error.kind == .busy {
                        // The others can go all the same.
                        failure = error
                    }
                }
            }
        }
        if let failure { throw failure }
    }
}

/// Which of some snapshots stay, by the times at which they were made.
struct KeepRules {
    /// How many, and what the times of one hour, day … have in common (strftime(3), local time); nil: each is one of its own.
    private let rules: [(count: Int, format: String?)]

    init(last: Int?, hourly: Int?, daily: Int?, weekly: Int?, monthly: Int?) {
        rules = [(last ?? 0, nil), (hourly ?? 0, "%Y-%m-%d %H %z"), (daily ?? 0, "%Y-%m-%d"), (weekly ?? 0, "%G-%V"), (monthly ?? 0, "%Y-%m")]
    }

    /// - Parameter times: seconds since 1970, in the order in which they were made.
    /// - Returns: the places of those that stay.
    func kept(_ times: [UInt64]) -> Set<Int> {
        var kept: Set<Int> = []
        for (count, format) in rules {
            var left = count
            var last: String?
            for index in times.indices.reversed() where left > 0 {
                let bucket = format.map { Self.text($0, times[index]) } ?? "\(index)"
                guard bucket != last else { continue }
                last = bucket
                left -= 1
                kept.insert(index)
            }
        }
        return kept
    }

    private static func text(_ format: String, _ seconds: UInt64) -> String {
        var time = time_t(clamping: seconds)
        var parts = tm()
        _ = unsafe localtime_r(&time, &parts)
        return unsafe String(unsafeUninitializedCapacity: 64) { buffer in
            unsafe buffer.withMemoryRebound(to: CChar.self) { unsafe strftime($0.baseAddress, $0.count, format, &parts) }
        }
    }
}
