import ArgumentParser
import Foundation
import Glibc
import PairedStatistics
import System

/// Compares this revision with another one, whose benchmark and program were built elsewhere: runs the benchmarks of both in pairs, and
/// tells of each row whether it has become worse. `tools/bench --against` builds and starts it.
struct Against: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Compare with another revision's benchmark.", shouldDisplay: false)

    @Option(help: "What the other revision is called.") var revision: String
    @Option(help: "The other revision's benchmark.") var old: String
    @Option(help: "The other revision's dedupdisk.") var oldProgram: String?
    @Option(help: "This revision's dedupdisk.") var program: String?
    @Flag(help: "The other revision's benchmark is its own, and may know nothing of turns: each runs to its end.") var ownBenchmark = false
    @Option(help: "A library that makes maps fit into valgrind; without it, valgrind counts no instructions.") var smallMaps: String?
    @Flag(help: "Small sizes, two pairs: shows that everything runs.") var short = false
    @Option(help: "What to compare.") var only: String?
    @Option(help: "Pairs.") var rounds: Int?
    @Option(help: "Where bench-against.json goes.") var output = ".build/bench"
    @Option(help: "A directory of a filesystem in memory.") var memory = "/dev/shm"
    @Option(help: "A directory on the disk.") var disk = "."
    @Option(help: "Blobs of the larger store of the growth measurement.") var blobs: Int?
    @Option(help: "Of the engine, only requests of which this is said.") var like: String?
    @Option(help: "GiB of the sustained durable write, before the sizes are divided.") var durableGib: Int?

    @Option(help: "Sizes are so many times smaller than those of a whole run, so that there is time for pairs.") var share = 8
    private static let defaultBlobs = 1 << 20

    private var pairs: Int { rounds ?? (short ? 2 : 8) }

    func validate() throws {
        _ = try SectionName.list(only)
        guard (1...99).contains(pairs) else { throw ValidationError("--rounds is 1 to 99.") }
        guard share > 0 else { throw ValidationError("--share is above zero.") }
        guard short || pairs >= Interval.fewestPairs else {
            throw ValidationError("--rounds is \(Interval.fewestPairs) to 99 with --against: fewer pairs have no interval of 95%.")
        }
    }

    func run() throws {
        // Before there is a process that would go uncounted.
        _ = Counters.shared
        let scratch = try Scratch(memory: memory, disk: disk)
        defer { scratch.remove() }
        var report = AgainstReport(revision: revision, pairs: pairs, isShort: short, ownBenchmark: ownBenchmark)
        for name in try SectionName.list(only) {
            do {
                report.sections.append(try compare(name, scratch))
                // Whoever ends it early has what is done.
                say(report.lines(of: report.sections[report.sections.count - 1]))
                try report.write(to: output)
            } catch {
                say("\(name.rawValue): \(error)")
                report.failures.append("\(name.rawValue): \(error)")
            }
        }
        print(report.text)
        try report.write(to: output)
        print("\nbench-against.json is in \(absolute(output))")
        guard report.failures.isEmpty, !report.isWorse else { throw ExitCode.failure }
    }

    private func compare(_ name: SectionName, _ scratch: Scratch) throws -> PairedSection {
        var section = PairedSection(name: name.rawValue)
        try measure(name, &section, scratch)
        // Of a hundred rows that are as they were, chance makes some look worse. Those that do are judged by other pairs alone.
        let suspects = section.rows.filter(\.judgement.verdict.isWorse).map(\.name)
        if !short, !suspects.isEmpty {
            say("\(name.rawValue): these look worse, so once more: \(suspects.joined(separator: "; "))")
            var again = PairedSection(name: name.rawValue)
            try measure(name, &again, scratch)
            section.replace(suspects, by: again)
        }
        if !short, !ownBenchmark, let smallMaps, section.rows.contains(where: { $0.judgement.verdict == .tooNoisy && $0.lacksInstructions }) {
            try countInstructions(name, &section, smallMaps, scratch)
        }
        return section
    }

    /// Adds so many pairs.
    private func measure(_ name: SectionName, _ section: inout PairedSection, _ scratch: Scratch) throws {
        for pair in 0..<pairs {
            say("\(name.rawValue): pair \(pair + 1) of \(pairs)")
            // Who comes first takes turns as well.
            let order: [Side.Age] = pair % 2 == 0 ? [.old, .new] : [.new, .old]
            var sides = try order.map { try side($0, name, scratch) }
            if ownBenchmark {
                for index in sides.indices { try sides[index].runToEnd(counting: true) }
            } else if name == .memory {
                // It waits for most of its time, and what it measures is no time.
                for index in sides.indices { try sides[index].start() }
                for index in sides.indices { try sides[index].finish() }
            } else {
                try Side.takeTurns(&sides)
            }
            guard let old = sides.first(where: { $0.age == .old })?.report, let new = sides.first(where: { $0.age == .new })?.report else { continue }
            section.add(old, new)
        }
    }

    private func side(_ age: Side.Age, _ name: SectionName, _ scratch: Scratch) throws -> Side {
        try Side(age, benchmark(age), arguments(age, name, scratch), output: scratch.disk + "/\(age)", takesTurns: !ownBenchmark && name != .memory)
    }

    private func benchmark(_ age: Side.Age) -> String { age == .old ? absolute(old) : "/proc/self/exe" }

    /// All but `--output`.
    private func arguments(_ age: Side.Age, _ name: SectionName, _ scratch: Scratch) -> [String] {
        var arguments = ["--only", name.rawValue, "--rounds", "1", "--memory", scratch.memory, "--disk", scratch.disk]
        if let program = age == .old ? oldProgram : program { arguments += ["--program", absolute(program)] }
        if let durableGib { arguments += ["--durable-gib", "\(durableGib)"] }
        if let like { arguments += ["--like", like] }
        if short { arguments += ["--short"] }
        if ownBenchmark || short {
            if let blobs { arguments += ["--blobs", "\(blobs)"] }
        } else {
            arguments += ["--blobs", "\(blobs ?? Self.defaultBlobs)", "--share", "\(share)"]
        }
        return arguments + (ownBenchmark ? [] : ["--alone"])
    }

    /// Has valgrind count the instructions of small runs of both, for rows that were too noisy.
    private func countInstructions(_ name: SectionName, _ section: inout PairedSection, _ library: String, _ scratch: Scratch) throws {
        // The others work in several processes, or beside what is yet to be committed, which takes valgrind minutes.
        guard [.limits, .engine].contains(name), find("valgrind") != nil, find("strip") != nil else { return }
        var counts: [Side.Age: [InstructionCount]] = [:]
        for turn in 0..<InstructionCount.mostTurns {
            // More of them only where it matters.
            if turn >= InstructionCount.turns, !section.rows.contains(where: \.looksWorseByInstructions) { return }
            for age in [Side.Age.old, .new] {
                say("\(name.rawValue): counting instructions, \(age), run \(turn + 1)")
                let plain = try FileManager.default.destinationOfSymbolicLinkIfAny(benchmark(age))
                do {
                    counts[age, default: []].append(
                        try InstructionCount(plain, arguments(age, name, scratch), library: absolute(library), scratch.disk + "/\(age)-count"))
                } catch {
                    // The counts that the kernel has made are left.
                    say("\(name.rawValue): \(error)")
                    return
                }
            }
            section.set(counts[.old] ?? [], counts[.new] ?? [])
        }
    }
}

extension FileManager {
    /// Where a link leads to; any other path as it is.
    fileprivate func destinationOfSymbolicLinkIfAny(_ path: String) throws -> String {
        (try? destinationOfSymbolicLink(atPath: path)) ?? path
    }
}
