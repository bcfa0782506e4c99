internal import TestSupport

/// What a store has to hold after some steps and a cut.
public struct World: Sendable {
    /// A disk or a snapshot. After a cut each sector has its value as of the last flush, or any that was written to it later.
    public struct Disk: Sendable {
        public private(set) var flushed: [UInt64]
        /// Writes since then, in their order.
        private var later: [(range: Range<Int>, values: [UInt64])] = []

        public init(sectors: Int) { flushed = [UInt64](repeating: 0, count: sectors) }

        /// What it holds when nothing is lost: all that was answered.
        public var latest: [UInt64] {
            var values = flushed
            for (range, new) in later { values.replaceSubrange(range, with: new) }
            return values
        }

        mutating func flush() {
            flushed = latest
            later = []
        }

        mutating func write(_ range: Range<Int>, _ values: [UInt64]) { later.append((range, values)) }

        mutating func resize(to sectors: Int) {
            var values = latest
            if sectors < values.count { values.removeLast(values.count - sectors) }
            values += repeatElement(0, count: sectors - values.count)
            flushed = values
            later = []
        }

        /// Why it can't hold what was found; nil: it may.
        func problem(with found: [UInt64]) -> String? {
            guard found.count == flushed.count else { return "\(found.count) sectors, not \(flushed.count)" }
            for sector in found.indices where found[sector] != flushed[sector] {
                let isLater = later.contains { $0.range.contains(sector) && $0.values[sector - $0.range.lowerBound] == found[sector] }
                if !isLater { return "sector \(sector) is \(found[sector]), was \(flushed[sector]) at the last flush" }
            }
            return nil
        }
    }

    /// Nil: there is no store.
    public private(set) var disks: [String: Disk]?
    /// Names of snapshots, in the order in which they were made.
    private var snapshots: [String] = []

    public init() {}

    /// A world of what was found, all of it durable.
    public init(_ found: [String: [UInt64]]) {
        disks = found.mapValues { values in
            var disk = Disk(sectors: values.count)
            disk.write(0..<values.count, values)
            disk.flush()
            return disk
        }
    }

    // MARK: Steps

    /// A step was answered.
    public mutating func apply(_ step: Step) {
        switch step {
        case .make: disks = [:]
        case .create(let name, let sectors): disks?[name] = Disk(sectors: sectors)
        case .change(let name, let change): if change.operation == .flush { disks?[name]?.flush() } else { write(change, to: name) }
        // Everything is in the store then, and durable.
        case .close(let name): disks?[name]?.flush()
        case .load(let name, let image):
            disks?[name] = Disk(sectors: image.count)
            write(image, to: name)
            disks?[name]?.flush()
        case .snapshot(let names, let snapshot):
            for name in names {
                copy(name, to: "\(name)@\(snapshot)")
                snapshots.append("\(name)@\(snapshot)")
            }
        case .clone(let name, let new): copy(name, to: new)
        case .rollBack(let snapshot): if let disk = snapshot.split(separator: "@").first { copy(snapshot, to: String(disk)) }
        case .rename(let name, let new): rename(name, to: new)
        case .delete(let name): for gone in snapshots(of: name) + [name] { remove(gone) }
        case .prune(let name, let count): for gone in snapshots(of: name).dropLast(count) { remove(gone) }
        case .resize(let name, let sectors): disks?[name]?.resize(to: sectors)
        case .elsewhere(let step): apply(step)
        case .open, .collect, .collectSteps, .maintain, .compress: break
        }
    }

    /// The other worlds that a cut may leave while a step is at work: parts of it were done, or all of it and nobody was told.
    func during(_ step: Step) -> [World] {
        var world = self
        switch step {
        case .change(let name, let change):
            // Any part of it.
            if change.operation != .flush { world.write(change, to: name) }
            return [world]
        case .close: return []
        case .delete(let name): return snapshots(of: name).map { world.without($0) } + [world.without(name)]
        case .prune(let name, let count): return snapshots(of: name).dropLast(count).map { world.without($0) }
        case .resize(let name, let sectors):
            world.apply(step)
            guard let size = disks?[name]?.flushed.count, sectors < size else { return [world] }
            // What is beyond the new end is thrown away first.
            var emptied = self
            emptied.disks?[name]?.write(sectors..<size, [UInt64](repeating: 0, count: size - sectors))
            return [emptied, world]
        case .elsewhere(let step): return during(step)
        default:
            world.apply(step)
            return [world]
        }
    }

    private mutating func without(_ name: String) -> World {
        remove(name)
        return self
    }

    private func snapshots(of disk: String) -> [String] { snapshots.filter { $0.hasPrefix(disk + "@") } }

    private mutating func remove(_ name: String) {
        disks?[name] = nil
        snapshots.removeAll { $0 == name }
    }

    private mutating func rename(_ name: String, to new: String) {
        func renamed(_ old: String) -> String { old == name || old.hasPrefix(name + "@") ? new + old.dropFirst(name.count) : old }
        disks = disks.map { Dictionary(uniqueKeysWithValues: $0.map { (renamed($0.key), $0.value) }) }
        snapshots = snapshots.map(renamed)
    }

    private mutating func write(_ change: SectorStep, to name: String) {
        let values = change.operation == .discard ? [UInt64](repeating: 0, count: change.count) : change.range.map { change.value(at: $0) }
        disks?[name]?.write(change.range, values)
    }

    /// Nothing that was answered is lost, as when processes end.
    mutating func flushAll() { for name in (disks ?? [:]).keys { disks?[name]?.flush() } }

    private mutating func copy(_ name: String, to new: String) {
        guard var disk = disks?[name] else { return }
        // A copy is durable with its name.
        disk.flush()
        disks?[new] = disk
    }

    // MARK: Comparing

    /// Why no store of this world can hold what was found; nil: it may.
    /// - Parameter found: of each disk and snapshot its sectors; nil: there is no store.
    public func problem(with found: [String: [UInt64]]?) -> String? {
        guard let found else { return disks == nil ? nil : "there is no store" }
        guard let disks else { return "there is a store" }
        if Set(found.keys) != Set(disks.keys) { return "it has \(found.keys.sorted()), not \(disks.keys.sorted())" }
        for (name, disk) in disks.sorted(by: { $0.key < $1.key }) {
            if let problem = disk.problem(with: found[name] ?? []) { return "\(name): \(problem)" }
        }
        return nil
    }
}

/// What may be there after a cut: all that was answered, and of the step that was at work all or nothing, or, of a write, any part.
public struct Expectation: Sendable {
    private let worlds: [World]
    public let words: String

    /// What ended the run.
    public enum End: Sendable {
        /// What was answered and not flushed may be lost.
        case power
        /// What was answered is there.
        case process
    }

    /// - Parameters:
    ///   - start: what there was in the beginning.
    ///   - answered: for each step that was answered, whether it was done; one that was not has changed nothing.
    ///   - isAtWork: another step had begun.
    public init(_ workload: Workload, startingWith start: World, answered: [Bool], isAtWork: Bool, _ end: End = .power) {
        var world = start
        for (step, isDone) in zip(workload.steps, answered) {
            if isDone { world.apply(step) }
            if end == .process { world.flushAll() }
        }
        let next = answered.count < workload.steps.count && isAtWork ? workload.steps[answered.count] : nil
        worlds = [world] + (next.map { world.during($0) } ?? [])
        words = "\(answered.count) steps were answered" + (next.map { ", and this was at work: \($0.words)" } ?? "")
    }

    public func problem(with found: [String: [UInt64]]?) -> String? {
        var first: String?
        for world in worlds {
            guard let problem = world.problem(with: found) else { return nil }
            first = first ?? problem
        }
        return first.map { "\($0) (\(words))" }
    }
}
