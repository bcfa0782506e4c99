import Glibc
import System
import Testing
import TestSupport

/// Snapshots, clones and all that is done with them by several processes at once, some of which are killed.
@Suite struct SnapshotProcessesTests {
    /// SNAPSHOT_SEEDS=1000 takes so many of them instead, SNAPSHOT_SEEDS=17-17 this one: who comes first is another time another one, so that what one
    /// has found may take it a few times.
    static var seeds: ClosedRange<UInt64> {
        let words = unsafe getenv("SNAPSHOT_SEEDS").map { unsafe String(cString: $0) }?.split(separator: "-").compactMap { UInt64($0) } ?? []
        switch words.count {
        case 1 where words[0] > 0: return 1...words[0]
        case 2 where words[0] <= words[1]: return words[0]...words[1]
        default: return 1...100
        }
    }

    /// Of several seeds at once, as their processes wait for one another most of the time.
    private static let threads = 6

    private struct Outcome {
        var next = SnapshotProcessesTests.seeds.lowerBound
        var problems: [String] = []
        var counts: [SnapshotRun.Counts] = []
    }

    @Test func whateverTheyDo() throws {
        let outcome = Monitor(Outcome())
        let threads = try (0..<Self.threads).map { _ in
            try Thread("seeds") {
                while let seed = outcome.with({ outcome -> UInt64? in
                    guard outcome.next <= Self.seeds.upperBound, outcome.problems.isEmpty else { return nil }
                    outcome.next += 1
                    return outcome.next - 1
                }) {
                    var problems: [String] = []
                    var counts = SnapshotRun.Counts()
                    do {
                        let run = try SnapshotRun(seed: seed)
                        do { try run.run(rounds: 2, operations: 24) } catch { run.isWrong("\(error)") }
                        (problems, counts) = (run.problems, run.counts)
                    } catch {
                        problems = ["seed \(seed): \(error)"]
                    }
                    outcome.with { outcome in
                        outcome.problems += problems
                        outcome.counts.append(counts)
                    }
                }
            }
        }
        for thread in threads { thread.join() }
        let (problems, counts) = outcome.with { ($0.problems, $0.counts) }
        #expect(problems == [])
        func sum(_ count: (SnapshotRun.Counts) -> Int) -> Int { counts.reduce(0) { $0 + count($1) } }
        let copies = sum(\.copies), refused = sum(\.refused), late = sum(\.late)
        // For whoever asked for so many.
        if unsafe getenv("SNAPSHOT_SEEDS") != nil {
            print(
                "\(counts.count) seeds: \(copies) copies of disks in use, \(sum(\.groups)) of several, \(refused) refused, \(late) too late; "
                    + "\(sum(\.kills)) kills, \(sum(\.rollbacks)) rollbacks, \(sum(\.attempts)) attempts")
        }
        #expect(copies > refused, "\(copies) copies of disks in use, and \(refused) were refused")
        guard counts.count >= 50 else { return }
        for (what, count) in [("groups", sum(\.groups)), ("kills", sum(\.kills)), ("rollbacks", sum(\.rollbacks)), ("attempts", sum(\.attempts))] {
            #expect(count >= counts.count / 2, "hardly any \(what)")
        }
    }
}
