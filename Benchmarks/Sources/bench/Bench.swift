import ArgumentParser
import Foundation
import Store
import System

@main
struct Bench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measures dedupdisk beside what the machine, and other programs, do in the same run.",
        subcommands: [Measure.self, Against.self, Soak.self, Agent.self],
        defaultSubcommand: Measure.self)
}

/// What can be measured, in this order.
enum SectionName: String, CaseIterable, ExpressibleByArgument {
    case limits, engine, growth, durable, maintenance, snapshots, ring, peers, ingest, memory, footprint

    /// Those that are named, with commas between them; nil: all.
    static func list(_ names: String?) throws -> [SectionName] {
        guard let names else { return allCases }
        let wanted = try names.split(separator: ",").map { name in
            guard let section = SectionName(rawValue: String(name)) else {
                throw ValidationError("There is nothing named \(name) to measure: \(allCases.map(\.rawValue).joined(separator: ", ")).")
            }
            return section
        }
        return allCases.filter { wanted.contains($0) }
    }
}

struct Measure: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Measure, and report (the default).")

    @Flag(help: "Small sizes, one round: shows in a minute that everything runs. Its figures mean nothing.") var short = false
    @Option(help: ArgumentHelp("What to measure: \(SectionName.allCases.map(\.rawValue).joined(separator: ", ")).", valueName: "name,name"))
    var only: String?
    @Option(help: ArgumentHelp("Where bench.json and bench.html go.", valueName: "dir")) var output = ".build/bench"
    @Option(help: ArgumentHelp("A directory of a filesystem in memory.", valueName: "dir")) var memory = "/dev/shm"
    @Option(help: ArgumentHelp("A directory on the disk that durable writes are measured on.", valueName: "dir")) var disk = "."
    @Option(help: ArgumentHelp("Rounds; what is reported is their median.", valueName: "n")) var rounds: Int?
    @Option(help: ArgumentHelp("Blobs of the larger store of the growth measurement.", valueName: "n")) var blobs: Int?
    @Option(help: ArgumentHelp("GiB of the sustained durable write.", valueName: "n")) var durableGib = 4
    @Option(help: ArgumentHelp("The program dedupdisk; without it, what needs it is left out.", valueName: "path")) var program: String?
    // What `Against` asks for.
    @Option(help: ArgumentHelp("Divide the sizes by this.", visibility: .hidden)) var share = 1
    @Option(help: ArgumentHelp("Of the engine, only requests of which this is said.", visibility: .hidden)) var like: String?
    @Flag(help: ArgumentHelp("Measure neither limits nor others.", visibility: .hidden)) var alone = false
    @Flag(help: ArgumentHelp("Take turns with another, over descriptor 3.", visibility: .hidden)) var turns = false

    func validate() throws {
        _ = try SectionName.list(only)
        guard rounds.map({ (1...99).contains($0) }) ?? true else { throw ValidationError("--rounds is 1 to 99.") }
        guard blobs.map({ (1024...1 << 28).contains($0) }) ?? true else { throw ValidationError("--blobs is 1024 to \(1 << 28).") }
        guard (1...1024).contains(durableGib) else { throw ValidationError("--durable-gib is 1 to 1024.") }
        guard share > 0 else { throw ValidationError("--share is above zero.") }
    }

    func run() throws {
        Store.tuneAllocator()
        // Before there is another thread that would go uncounted.
        if alone { Meter.begin() }
        if turns { Turns.begin() }
        let scratch = try Scratch(memory: memory, disk: disk)
        defer { scratch.remove() }
        var plan = Plan(memory: scratch.memory, disk: scratch.disk, program: program.map(absolute), isShort: short)
        plan.share = share
        plan.isAlone = alone
        plan.like = like
        plan.rounds = rounds ?? (short ? 1 : 3)
        plan.blobs = blobs ?? plan.size(1 << 24, short: 1 << 13)
        plan.durableBytes = plan.size(durableGib << 30, short: 16 << 20)
        var report = Report(plan)
        let limits = Limits(plan)
        for name in try SectionName.list(only) {
            say("\(name.rawValue)")
            do {
                report.sections.append(try measure(name, plan, limits))
            } catch {
                // One that fails does not take away what the others have found, but the run has failed.
                say("\(name.rawValue): \(error)")
                report.failures.append("\(name.rawValue): \(error)")
            }
        }
        print(report.text)
        try report.write(to: output)
        guard report.failures.isEmpty else { throw ExitCode.failure }
    }

    private func measure(_ name: SectionName, _ plan: Plan, _ limits: Limits) throws -> Section {
        switch name {
        case .limits: return try limits.section()
        case .engine:
            var engine = Engine(plan, limits)
            return try engine.section()
        case .growth:
            var growth = Growth(plan)
            return try growth.section()
        case .maintenance:
            var maintenance = Maintenance(plan)
            return try maintenance.section()
        case .snapshots:
            var snapshots = Snapshots(plan)
            return try snapshots.section()
        case .durable:
            var durable = Durable(plan, limits)
            return try durable.section()
        case .ring:
            var ring = Ring(plan, limits)
            return try ring.section()
        case .peers:
            var peers = Peers(plan)
            return try peers.section()
        case .ingest:
            var ingest = Ingest(plan)
            return try ingest.section()
        case .memory:
            var memory = Memory(plan)
            return try memory.section()
        case .footprint:
            var footprint = Footprint(plan)
            return try footprint.section()
        }
    }
}

/// A path as it is for a program that runs elsewhere.
func absolute(_ path: String) -> String {
    path.hasPrefix("/") ? path : FileManager.default.currentDirectoryPath + "/" + path
}

/// The directories of a run, in memory and on the disk.
struct Scratch {
    let memory: String
    let disk: String

    init(memory: String, disk: String) throws {
        self.memory = try Self.make(memory)
        self.disk = try Self.make(disk)
    }

    /// A new directory in `parent`; its path as the kernel says it.
    private static func make(_ parent: String) throws -> String {
        guard let real = realpath(parent, nil) else { throw Failure(systemCall: "use", .file(parent), errno: errno) }
        defer { free(real) }
        let path = String(cString: real) + "/dedupdisk-bench-\(getpid())"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        return path
    }

    func remove() { for path in [memory, disk] { removeAll(path) } }
}
