import Catalogue
import Glibc
import System
import Testing
import TestSupport

@testable import Store

/// Which snapshots `prune` keeps, by tables of times.
@Suite struct KeepRulesTests {
    let tool: Tool

    init() throws {
        tool = try Tool()
        try tool.disk("d", [1])
    }

    /// Seconds since 1970, of years from then on and hours of UTC.
    private static func time(_ year: Int, _ month: Int, _ day: Int, _ hour: Int, _ minute: Int) -> UInt64 {
        // Years that begin in March have the day of a leap year last.
        let marchYear = month > 2 ? year : year - 1, marchMonth = (month + 9) % 12
        let days = marchYear * 365 + marchYear / 4 - marchYear / 100 + marchYear / 400 + (153 * marchMonth + 2) / 5 + day - 719_469
        return UInt64(((days * 24 + hour) * 60 + minute) * 60)
    }

    /// Gives the disk snapshots that were made at these times, `0`, `1` …
    private func make(_ times: [UInt64]) throws {
        let store = try Store(path: tool.store)
        var transaction = try StoreTransaction.begin(store)
        for (index, time) in times.enumerated() {
            var snapshot = DiskRecord(name: "d@\(index)", number: transaction.superblock.nextDisk, byteCount: 4096, created: time)
            snapshot.isSnapshot = true
            transaction.superblock.nextDisk += 1
            try transaction.add(snapshot)
        }
        try transaction.commit()
    }

    /// What is kept and what is deleted, where that is the time.
    private func prune(_ arguments: [String], zone: String = "UTC0", isDry: Bool = true) throws -> (kept: [Int], deleted: [Int]) {
        let outcome = try Child(
            tool.executable, ["prune", "d"] + arguments + (isDry ? ["--dry-run"] : []), environment: ["DEDUPDISK_STORE": tool.store, "TZ": zone]
        ).wait()
        #expect(outcome.status == 0 && outcome.errors == "", "\(outcome)")
        let lines = outcome.text.split(separator: "\n").map { $0.split(separator: " ") }
        func numbers(_ word: String) -> [Int] { lines.filter { $0[0] == word }.compactMap { Int($0[1].dropFirst(2)) } }
        let found = (numbers("keep"), numbers(isDry ? "delete" : "deleted"))
        #expect(found.0.count + found.1.count == lines.count, "\(outcome)")
        return found
    }

    /// What a table's row is: rules, and what they keep.
    private func expect(_ arguments: String..., zone: String = "UTC0", keep kept: [Int], location: SourceLocation = #_sourceLocation) throws {
        let found = try prune(arguments, zone: zone)
        #expect(found.kept == kept, "\(arguments)", sourceLocation: location)
    }

    @Test func rules() throws {
        // From Saturday, 28 December 2024: the first days of 2025 are in the week that began on Monday, the 30th.
        try make([
            Self.time(2024, 10, 5, 12, 0),  // 0
            Self.time(2024, 11, 5, 12, 0),  // 1
            Self.time(2024, 12, 28, 9, 10),  // 2
            Self.time(2024, 12, 28, 9, 50),  // 3
            Self.time(2024, 12, 28, 10, 0),  // 4
            Self.time(2024, 12, 29, 23, 59),  // 5, a Sunday
            Self.time(2024, 12, 30, 0, 0),  // 6
            Self.time(2024, 12, 31, 12, 0),  // 7
            Self.time(2025, 1, 1, 0, 0),  // 8
            Self.time(2025, 1, 1, 0, 30),  // 9
        ])
        try expect("--keep-last", "1", keep: [9])
        try expect("--keep-last", "3", keep: [7, 8, 9])
        try expect("--keep-last", "100", keep: Array(0...9))
        try expect("--keep-hourly", "2", keep: [7, 9])
        try expect("--keep-hourly", "6", keep: [3, 4, 5, 6, 7, 9])
        try expect("--keep-daily", "1", keep: [9])
        try expect("--keep-daily", "5", keep: [4, 5, 6, 7, 9])
        try expect("--keep-daily", "6", keep: [1, 4, 5, 6, 7, 9])
        try expect("--keep-weekly", "1", keep: [9])
        try expect("--keep-weekly", "3", keep: [1, 5, 9])
        try expect("--keep-monthly", "2", keep: [7, 9])
        try expect("--keep-monthly", "12", keep: [0, 1, 7, 9])
        // What any rule keeps.
        try expect("--keep-last", "2", "--keep-daily", "3", "--keep-monthly", "3", keep: [1, 6, 7, 8, 9])
        try expect("--keep-last", "0", "--keep-weekly", "1", keep: [9])
        // Where it is another day.
        try expect("--keep-daily", "2", zone: "EST5", keep: [6, 9])
        try expect("--keep-daily", "1", zone: "JST-9", keep: [9])
        try expect("--keep-monthly", "1", zone: "EST5", keep: [9])
        try expect("--keep-monthly", "2", zone: "EST5", keep: [1, 9])
    }

    private static let centralEurope = "CET-1CEST,M3.5.0,M10.5.0/3"

    /// On the night when the clocks go back there are two hours from two to three, and the day has 25.
    @Test func clocksGoBack() throws {
        try make([
            Self.time(2024, 10, 26, 21, 59),  // 0: 23:59, the day before
            Self.time(2024, 10, 26, 22, 0),  // 1: 0:00
            Self.time(2024, 10, 27, 0, 10),  // 2: 2:10, summer
            Self.time(2024, 10, 27, 0, 50),  // 3: 2:50, summer
            Self.time(2024, 10, 27, 1, 10),  // 4: 2:10, winter
            Self.time(2024, 10, 27, 22, 59),  // 5: 23:59
            Self.time(2024, 10, 27, 23, 0),  // 6: 0:00, the day after
        ])
        try expect("--keep-hourly", "4", zone: Self.centralEurope, keep: [3, 4, 5, 6])
        try expect("--keep-daily", "3", zone: Self.centralEurope, keep: [0, 5, 6])
        try expect("--keep-weekly", "2", zone: Self.centralEurope, keep: [5, 6])
    }

    /// On the night when they go forward there is no such hour, and the day has 23.
    @Test func clocksGoForward() throws {
        try make([
            Self.time(2025, 3, 29, 22, 59),  // 0: 23:59, the day before
            Self.time(2025, 3, 29, 23, 0),  // 1: 0:00
            Self.time(2025, 3, 30, 0, 59),  // 2: 1:59
            Self.time(2025, 3, 30, 1, 0),  // 3: 3:00
            Self.time(2025, 3, 30, 21, 59),  // 4: 23:59
            Self.time(2025, 3, 30, 22, 0),  // 5: 0:00, the day after
        ])
        try expect("--keep-hourly", "4", zone: Self.centralEurope, keep: [2, 3, 4, 5])
        try expect("--keep-daily", "3", zone: Self.centralEurope, keep: [0, 4, 5])
    }

    /// An hour or a day that came twice, as somebody put the clock back, is kept once.
    @Test func theClockWasPutBack() throws {
        try make([
            Self.time(2025, 1, 1, 12, 0),  // 0
            Self.time(2025, 1, 2, 0, 10),  // 1
            Self.time(2025, 1, 1, 23, 50),  // 2
            Self.time(2025, 1, 2, 0, 20),  // 3
        ])
        try expect("--keep-last", "2", keep: [2, 3])
        try expect("--keep-hourly", "9", keep: [0, 2, 3])
        try expect("--keep-daily", "3", keep: [2, 3])
        try expect("--keep-weekly", "2", keep: [3])
    }

    /// A clock that was years ahead, and is right now.
    @Test func theClockWasAhead() throws {
        try make([Self.time(2031, 5, 1, 0, 0), Self.time(2031, 5, 2, 0, 0), Self.time(2025, 1, 1, 0, 0), Self.time(2025, 1, 2, 0, 0)])
        try expect("--keep-last", "1", keep: [3])
        try expect("--keep-daily", "2", keep: [2, 3])
        try expect("--keep-daily", "3", keep: [1, 2, 3])
    }

    /// Of those of one second, the one that was made last is the newest.
    @Test func equalTimes() throws {
        let time = Self.time(2025, 1, 1, 0, 0)
        try make([time, time, time, time + 1, time + 1])
        try expect("--keep-last", "2", keep: [3, 4])
        try expect("--keep-last", "4", keep: [1, 2, 3, 4])
        for rule in ["--keep-hourly", "--keep-daily", "--keep-weekly", "--keep-monthly"] { try expect(rule, "3", keep: [4]) }
    }

    @Test func whatIsPruned() throws {
        try make((0..<6).map { Self.time(2025, 1, 1 + $0, 0, 0) })
        // Nothing changes by a look.
        _ = try prune(["--keep-last", "1"])
        #expect(try Store(path: tool.store).snapshots(of: "d").count == 6)
        let held = try Store(path: tool.store).lock("d@2", exclusive: false)
        // What somebody reads stays, and the others go all the same.
        let outcome = try tool.run("prune", "d", "--keep-last", "2")
        #expect(outcome.status == 1 && outcome.errorLines.count == 1 && outcome.errors.contains("d@2") && outcome.errors.contains("in use"), "\(outcome)")
        #expect(try Store(path: tool.store).snapshots(of: "d").map(\.name) == ["d@2", "d@4", "d@5"])
        _ = consume held
        let found = try prune(["--keep-last", "2"], isDry: false)
        #expect(found.kept == [4, 5] && found.deleted == [2])
        #expect(try Store(path: tool.store).snapshots(of: "d").map(\.name) == ["d@4", "d@5"])
        try tool.expectClean()
    }

    @Test func whatIsRefused() throws {
        try make([1, 2])
        for arguments in [[], ["--keep-last", "0"], ["--keep-last", "-1"], ["--keep-last", "x"], ["--keep-last", "0", "--keep-daily", "0"]] {
            let outcome = try tool.start(["prune", "d"] + arguments).wait()
            #expect(outcome.status == 64 && outcome.errorLines.count == 1, "\(outcome)")
        }
        #expect(try tool.start(["prune", "--keep-last", "1"]).wait().status == 64)
        // A disk that is mistyped is found before anything is gone.
        try tool.fail("prune", "d", "none", "--keep-last", "1", naming: ["disk none", "there is none"])
        try tool.fail("prune", "d@0", "--keep-last", "1", naming: ["d@0"])
        #expect(try Store(path: tool.store).snapshots(of: "d").count == 2)
    }
}
