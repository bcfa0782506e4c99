import Foundation
import System
import TestSupport
import Volumes
import Workloads

/// Runs workloads, and tries what cuts would leave of them.
struct Explorer {
    /// Where stores and states are made: a filesystem in memory.
    let scratch: String
    let worker: String
    /// Where recordings are kept that something is wrong with; they are looked for there first.
    var keep: String
    /// The fault that is planted; nil: none.
    var plant: Plant?
    /// Shows what is tried.
    var isVerbose = false
    /// It stops after so many states with which something is wrong.
    var mostProblems = 3
    var result = Result()

    /// What came of a run, or of several.
    struct Result: Codable {
        /// States that were tried, each once; and how many cuts left one that was known.
        var states = 0, repeated = 0
        var runs = 0, sectors = 0
        /// What did not hold.
        var problems: [String] = []
    }

    /// One in `deeperShare` states is run once more, and of such a run `deeperStates` are tried; runs are `deepest` deep at most.
    private static let deeperStates = 20, deeperShare = 60
    private static let deepest = 3

    static let storePath = "/a/store"

    private struct Start {
        let tree: Tree
        let world: World
    }

    /// One cut of a run.
    private struct Cut {
        let index: Int
        let moment: Int
        let seed: UInt64
    }

    /// A run of a workload, and so many cuts of it.
    /// - Parameters:
    ///   - run: its number.
    ///   - first: of the cuts in the order of their moments: those before it are left out.
    ///   - only: the number of the only cut that is wanted.
    mutating func explore(_ kind: Workload.Kind, run: Int, seed: UInt64, cuts: Int, from first: Int = 0, only: Int? = nil) throws {
        let root = scratch + "/run"
        try reset(root)
        var world = World()
        if kind == .upgrading {
            try Tree().write(to: root + "/a")
            world = try World(OldStore.make(root + Self.storePath, locks: scratch + "/locks"))
        }
        try explore(Workload(kind, seed: seed), Start(tree: Tree(at: root), world: world), root, seed, cuts, from: first, only: only, "\(run)")
    }

    /// - Parameter name: of the run: its number, and behind that those of the cuts that it begins with.
    private mutating func explore(
        _ workload: Workload, _ start: Start, _ root: String, _ seed: UInt64, _ count: Int, from first: Int, only: Int?, _ name: String
    ) throws {
        let recording = try record(workload, start, root, seed, name)
        let trace = plant?.apply(to: recording.trace, recording.numbers) ?? recording.trace
        let steps = Steps(trace)
        var volume = Volume(trace, root: recording.root, startingWith: recording.start, numbers: recording.numbers)
        var known: Set<UInt64> = []
        for (place, cut) in Self.cuts(trace, seed, count).enumerated() where (only.map { $0 == cut.index } ?? true) && place >= first {
            if result.problems.count >= mostProblems { return }
            if !name.contains(".") { try note(place, cut.index) }
            volume.advance(to: cut.moment)
            var dice = SeededGenerator(seed: cut.seed)
            let promise = Promise.allCases.randomElement(using: &dice) ?? .posix, fate = Fate.allCases.randomElement(using: &dice) ?? .noneKept
            let cutTree = volume.cut(promise, fate, &dice)
            let tree = recording.rebooted(cutTree, store: Self.storePath, isKnown: plant == .staleFilter, &dice)
            guard known.insert(tree.fingerprint).inserted else {
                result.repeated += 1
                continue
            }
            result.states += 1
            let (answered, isAtWork) = steps.answered(at: cut.moment)
            let expectation = Expectation(workload, startingWith: start.world, answered: answered, isAtWork: isAtWork)
            let words = "\(name).\(cut.index) (\(workload.kind), \(promise), \(fate), cut at moment \(cut.moment) of \(trace.moments))"
            if isVerbose { print("\(words): \(expectation.words)") }
            let found = try look(at: tree, expectation, words, &dice)
            guard let found, name.split(separator: ".").count < Self.deepest, Int.random(in: 0..<Self.deeperShare, using: &dice) == 0 else { continue }
            // What was left is opened, and cut again.
            let disks = found.filter { !$0.key.contains("@") }.sorted { $0.key < $1.key }.map { ($0.key, $0.value.count) }
            let again = scratch + "/again"
            try reset(again)
            try tree.write(to: again)
            try explore(
                Workload(recovering: disks, seed: cut.seed), Start(tree: tree, world: World(found)), again, cut.seed, Self.deeperStates, from: 0, only: nil,
                "\(name).\(cut.index)")
        }
    }

    /// The cuts of a run, in the order of their moments: each depends on the seed and its number alone, so that one can be tried by itself.
    private static func cuts(_ trace: Trace, _ seed: UInt64, _ count: Int) -> [Cut] {
        // Half of them are about a sync.
        var ends: [Int] = []
        for call in trace.calls {
            switch call.kind {
            case .sync, .dataSync, .syncAll, .write(_, true): ends += [call.began, call.began + 1, call.ended == .max ? call.began : call.ended]
            default: break
            }
        }
        return (0..<count).map { index in
            var random = SeededGenerator(seed: seed ^ UInt64(index) &* 0x9e37_79b9_7f4a_7c15)
            var moment = Int.random(in: 0...trace.moments, using: &random)
            let isAboutSync = Bool.random(using: &random)
            if isAboutSync, let end = ends.randomElement(using: &random) { moment = min(trace.moments, end + Int.random(in: 0...1, using: &random)) }
            return Cut(index: index, moment: moment, seed: random.next())
        }.sorted { ($0.moment, $0.index) < ($1.moment, $1.index) }
    }

    private mutating func record(_ workload: Workload, _ start: Start, _ root: String, _ seed: UInt64, _ name: String) throws -> Recording {
        let kept = "\(keep)/\(name)"
        if isVerbose, access(kept + ".json", F_OK) == 0 {
            print("\(name): as it was kept in \(kept).log")
            return try Recording(kept: kept, startingWith: start.tree)
        }
        result.runs += 1
        let disks = start.world.disks?.filter { !$0.key.contains("@") }.sorted { $0.key < $1.key } ?? []
        let rest = workload.kind == .recovering ? disks.map { "\($0.key):\($0.value.flushed.count)" } : []
        let arguments = [worker, root + Self.storePath, scratch, workload.kind.rawValue, String(seed)] + rest
        return try Recording(running: arguments, below: root, store: Self.storePath, scratch + "/" + name)
    }

    /// Notes how far it is, for whoever waits for the process: the place in the order of moments, and the cut's number.
    private func note(_ place: Int, _ cut: Int) throws { try Files.write(scratch + "/place", Array("\(place) \(cut)".utf8)) }

    private func reset(_ path: String) throws {
        try Tree.remove(path)
        try Tree().write(to: path)
    }

    // MARK: Looking

    /// Opens what was left, compares it, and goes on with it.
    /// - Returns: what was found; nil: there is no store, or something is wrong.
    private mutating func look(at tree: Tree, _ expectation: Expectation, _ words: String, _ random: inout SeededGenerator) throws -> [String: [UInt64]]? {
        let place = scratch + "/state"
        try Tree.remove(place)
        try tree.write(to: place)
        let look = Look(place + Self.storePath)
        do throws(Failure) {
            let found = try look.run(expectation, &random)
            result.sectors += found?.values.reduce(0) { $0 + $1.count } ?? 0
            return found
        } catch {
            fail(words, error, among: words.prefix { $0 != " " })
            return nil
        }
    }

    private mutating func fail(_ words: String, _ failure: Failure, among name: Substring) {
        result.problems.append("\(words): \(failure)")
        // The recordings of the run, and of those that it is a continuation of.
        var run = String(name)
        while let dot = run.lastIndex(of: ".") {
            run = String(run[..<dot])
            Recording.keep(run, of: scratch, in: keep)
        }
    }

    // MARK: Kills

    /// A process is killed at each place where it changes a file: before the first, the second and the last call of each kind to each file, or before each.
    mutating func kill(_ kind: Workload.Kind, run: Int, seed: UInt64, everywhere: Bool) throws {
        let workload = Workload(kind, seed: seed), root = scratch + "/run", log = scratch + "/kill.log"
        let arguments = [worker, root + Self.storePath, scratch, kind.rawValue, String(seed)]
        var world = World()
        func prepare() throws {
            try reset(root)
            guard kind == .upgrading else { return }
            try Tree().write(to: root + "/a")
            world = try World(OldStore.make(root + Self.storePath, locks: scratch + "/locks"))
        }
        try prepare()
        let whole = try Trace(running: arguments, below: root, log: log)
        result.runs += 1
        for place in everywhere ? Array(1...max(1, whole.changes)) : whole.places() {
            try note(place, place)
            try prepare()
            let trace = try Trace(running: arguments, below: root, log: log, killedAt: place)
            (result.runs, result.states) = (result.runs + 1, result.states + 1)
            let (answered, isAtWork) = Steps(trace).answered(at: trace.moments)
            let expectation = Expectation(workload, startingWith: world, answered: answered, isAtWork: isAtWork, .process)
            var random = SeededGenerator(seed: seed ^ UInt64(place))
            do throws(Failure) {
                let found = try Look(root + Self.storePath).run(expectation, &random)
                result.sectors += found?.values.reduce(0) { $0 + $1.count } ?? 0
            } catch {
                result.problems.append("\(run), killed at call \(place) (\(kind)): \(error)")
            }
            // What the killed one held, and left, is gone by now.
            let strangers = try strangers(root)
            if !strangers.isEmpty { result.problems.append("\(run), killed at call \(place) (\(kind)): left behind: \(strangers)") }
        }
    }

    /// No temporary file outlives the next command.
    private func strangers(_ root: String) throws -> [String] {
        let known = ["filter", "lock", "reserve", "meta/data.mdb", "meta/lock.mdb", "packs/data.mdb", "packs/lock.mdb"].map { Self.storePath + "/" + $0 }
        return try Tree(at: root).files.keys.filter { !known.contains("/" + $0) && !$0.contains("/journals/") }.sorted()
    }
}

/// What a program had said by a moment.
private struct Steps {
    /// When each step began, and when it was answered, and whether it was done.
    private var begun: [Int] = [], ended: [(moment: Int, isDone: Bool)] = []

    init(_ trace: Trace) {
        for call in trace.calls where call.kind == .say {
            switch call.data.first {
            case UInt8(ascii: "b"): begun.append(call.began)
            case UInt8(ascii: "e"): ended.append((call.ended, true))
            case UInt8(ascii: "f"): ended.append((call.ended, false))
            default: break
            }
        }
    }

    func answered(at moment: Int) -> (answered: [Bool], isAtWork: Bool) {
        let answered = ended.prefix { $0.moment <= moment }.map(\.isDone)
        return (answered, begun.count > answered.count && begun[answered.count] < moment)
    }
}
