import ArgumentParser
import Foundation
import Store
import System
import Volumes
import Workloads

@main
struct CrashExplore: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "crash-explore", abstract: "Tries what losses of power leave of a store.",
        discussion: """
            A workload is run once, and each change of a file is written down. States are made of that as a cut at any moment would leave them: \
            of what was not synced, any part is there, by what POSIX promises, or by what ext4 does. Each is opened, compared with what was \
            answered and flushed, checked, and written to; some are run and cut again. All of it goes by numbers: a run has one, RUN, which \
            says with --seed what is done, and a state is RUN.CUT.
            """)
    @Option(help: "The first number.") var seed: UInt64 = 1
    @Option(help: "How many cuts are tried.") var states = 10_000
    @Option(help: "Behind so many seconds no further run is begun.") var seconds: Double?
    @Option(help: "One of: \(Workload.Kind.allCases.filter { $0 != .recovering }.map(\.rawValue).joined(separator: ", ")); all when not given.")
    var workload: String?
    @Option(help: "Cuts of each run.") var each = 200
    @Option(help: "That state alone, as RUN.CUT, and say what it is.") var state: String?
    @Option(help: "Processes at once; twice as many as there are processors when not given.") var processes: Int?
    @Option(help: "A directory of a filesystem in memory.") var memory = "/dev/shm"
    @Option(help: "Where recordings are kept of runs with which something is wrong.") var keep = ".crash-explore"
    @Option(help: "A file that says which runs are over: they are not done again.") var resume: String?
    @Option(help: "Plant a fault: \(Plant.allCases.map(\.rawValue).joined(separator: ", ")). Something has to be wrong then.") var plant: Plant?
    @Flag(help: "Plant each fault in turn, until it is found: the test of this program.") var planted = false
    @Flag(help: "Instead of power, processes end: at the first, second and last call of each kind to each file. --states is how many workloads.")
    var kills = false
    @Flag(help: "With --kills: at every call.") var everywhere = false
    @Option(name: .customLong("run"), help: .hidden) var number: Int?
    @Option(help: .hidden) var from = 0
    @Option(help: .hidden) var scratch: String?

    private var kinds: [Workload.Kind] {
        get throws {
            let all = Workload.Kind.allCases.filter { $0 != .recovering }
            guard let workload else { return all }
            guard let kind = Workload.Kind(rawValue: workload), kind != .recovering else { throw ValidationError("there is no workload \(workload)") }
            return [kind]
        }
    }

    private var chosen: (run: Int, cut: Int)? {
        let parts = state?.split(separator: ".").compactMap { Int($0) } ?? []
        return parts.count >= 2 ? (parts[0], parts[1]) : nil
    }

    func validate() throws {
        _ = try kinds
        guard states > 0, each > 0, processes ?? 1 > 0 else { throw ValidationError("numbers are above zero") }
        guard state == nil || chosen != nil else { throw ValidationError("a state is RUN.CUT") }
    }

    func run() throws {
        // As programs do that serve disks.
        Store.tuneAllocator()
        if let number, let scratch { return try explore(number, scratch).write(to: scratch + "/result") }
        if let chosen {
            let scratch = "\(memory)/crash-explore-\(getpid())"
            try Tree().write(to: scratch)
            // It lies in memory: whoever ends it by force may remove it.
            defer { try? Tree.remove(scratch) }
            let result = try explore(chosen.run, scratch)
            for problem in result.problems { print("FAILED: \(problem)") }
            if !result.problems.isEmpty { throw ExitCode.failure }
            return
        }
        if planted { return try findPlanted() }
        let kinds = try kinds
        let count = kills ? states : (states + each - 1) / each
        var crew = Crew(memory: memory, processes: processes, arguments: childArguments(plant, workload), keep: keepPlace(plant, workload))
        crew.end = seconds.map { monotonicSeconds() + $0 }
        crew.resume = resume
        let began = monotonicSeconds()
        let all = try crew.work(0..<count) { kinds[$0 % kinds.count].rawValue }
        let time = monotonicSeconds() - began
        for problem in all.problems.prefix(20) { print("FAILED: \(problem)") }
        print(
            "\(all.runs) runs, \(all.states) states, each another\(all.repeated > 0 ? " (\(all.repeated) cuts left one of them)" : ""); \(all.sectors) sectors "
                + "compared; \(all.problems.count) wrong; \(Int(time)) s, \(Int(Double(all.states) / max(time, 0.001))) states a second")
        guard all.problems.isEmpty else {
            print("One of them again: tools/crash-explore --seed \(seed)\(workload.map { " --workload \($0)" } ?? "") --state RUN.CUT")
            throw ExitCode.failure
        }
    }

    /// Where else a run has the same number, it is another one.
    private func keepPlace(_ plant: Plant?, _ workload: String?) -> String {
        "\(keep)/seed-\(seed)" + [workload, plant?.rawValue].compactMap { $0.map { "-\($0)" } }.joined()
    }

    private func childArguments(_ plant: Plant?, _ workload: String?) -> [String] {
        var arguments = ["--seed", "\(seed)", "--each", "\(each)", "--keep", keep]
        if let workload { arguments += ["--workload", workload] }
        if let plant { arguments += ["--plant", plant.rawValue] }
        if kills { arguments.append("--kills") }
        if everywhere { arguments.append("--everywhere") }
        return arguments
    }

    /// One run, or one state of it.
    private func explore(_ run: Int, _ scratch: String) throws -> Explorer.Result {
        let worker = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent().path + "/crash-worker"
        // What is watched is known by its real path.
        let real = URL(fileURLWithPath: scratch).resolvingSymlinksInPath().path
        var explorer = Explorer(scratch: real, worker: worker, keep: keepPlace(plant, workload), plant: plant, isVerbose: state != nil)
        if plant != nil { explorer.mostProblems = 1 }
        let kinds = try kinds, kind = kinds[run % kinds.count], seed = seed &+ UInt64(run)
        if kills {
            try explorer.kill(kind, run: run, seed: seed, everywhere: everywhere)
        } else {
            try explorer.explore(kind, run: run, seed: seed, cuts: max(each, (chosen?.cut ?? 0) + 1), from: from, only: chosen?.cut)
        }
        return explorer.result
    }

    /// Runs in which a planted fault has to have shown.
    private static let mostPlantedRuns = 60

    private func findPlanted() throws {
        var areFound = true
        for plant in Plant.allCases {
            let kind = plant.kind.rawValue
            var crew = Crew(memory: memory, processes: processes, arguments: childArguments(plant, kind), keep: keepPlace(plant, kind))
            crew.isFirstEnough = true
            let all = try crew.work(0..<Self.mostPlantedRuns) { _ in kind }
            areFound = areFound && !all.problems.isEmpty
            print("\(plant.rawValue): \(all.problems.first.map { "found in \(all.states) states: \($0)" } ?? "NOT FOUND in \(all.states) states")")
        }
        guard areFound else { throw ExitCode.failure }
    }
}

extension Explorer.Result {
    func write(to path: String) throws { try JSONEncoder().encode(self).write(to: URL(fileURLWithPath: path)) }

    init(at path: String) throws { self = try JSONDecoder().decode(Self.self, from: Data(contentsOf: URL(fileURLWithPath: path))) }

    static func += (all: inout Self, one: Self) {
        all.states += one.states
        all.repeated += one.repeated
        all.runs += one.runs
        all.sectors += one.sectors
        all.problems += one.problems
    }
}
