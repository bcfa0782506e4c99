import System
import TestSupport
import Workloads

/// Looks at a store that a cut or a kill has left: opens, compares and checks it, writes to it, and opens it again.
struct Look {
    private let path: String

    init(_ path: String) { self.path = path }

    /// - Returns: what its disks and snapshots hold; nil: there is no store.
    /// - Throws: what is wrong with it.
    func run(_ expectation: Expectation, _ random: inout SeededGenerator) throws(Failure) -> [String: [UInt64]]? {
        let runner = Runner(path)
        let found = try runner.contents()
        if let problem = expectation.problem(with: found) { throw Failure(.damage, "compare", "it", problem) }
        guard var wanted = found else {
            // One whose making was cut off is made anew, as if there were nothing.
            try runner.run(.make)
            try goOn(runner, [:], &random)
            return nil
        }
        let problems = try runner.problems()
        if !problems.isEmpty { throw Failure(.damage, "check", "it", "\(problems)") }
        try runner.tidy()
        // A disk that was there is written to.
        if let (name, values) = wanted.filter({ !$0.key.contains("@") && $0.value.count >= 64 }).min(by: { $0.key < $1.key }) {
            let start = Int.random(in: 0...values.count - 40, using: &random)
            let write = SectorStep(writing: start..<start + Int.random(in: 1...40, using: &random), as: 1 << 51)
            try runner.run(.change(name, write))
            for sector in write.range { wanted[name]?[sector] = write.value(at: sector) }
        }
        try goOn(runner, wanted, &random)
        return found
    }

    /// Now and then makes another disk, then opens the store once more, where all that was written has to be.
    private func goOn(_ runner: Runner, _ wanted: [String: [UInt64]], _ random: inout SeededGenerator) throws(Failure) {
        var wanted = wanted
        if wanted.isEmpty || Int.random(in: 0..<4, using: &random) == 0 {
            try runner.run(.create("after", sectors: 64))
            let write = SectorStep(writing: 3..<40, as: 1 << 50)
            try runner.run(.change("after", write))
            try runner.run(.change("after", .flush))
            wanted["after"] = (0..<64).map { write.range.contains($0) ? write.value(at: $0) : 0 }
        }
        try runner.end()
        let again = Runner(path)
        if try again.contents() != wanted { throw Failure(.damage, "write to", "it", "it holds something else then") }
        if Int.random(in: 0..<4, using: &random) == 0 {
            let problems = try again.problems()
            if !problems.isEmpty { throw Failure(.damage, "check", "it", "behind further writes: \(problems)") }
        }
        try again.end()
    }
}
