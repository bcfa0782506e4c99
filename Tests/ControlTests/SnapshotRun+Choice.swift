import BlockModel
import System
import TestSupport

/// What is done next, at random.
extension SnapshotRun {
    private static let sizes = [256, 2048, 4096, 4099, 8192, 16384, 32768]
    private static let mostFamilies = 7, mostSnapshots = 7

    func chosenTask(for worker: Int) -> SnapshotTask {
        for _ in 0..<40 {
            if let task = candidate(for: worker) { return task }
        }
        return SnapshotTask(.check)
    }

    private func chance(_ of: Int) -> Bool { Int.random(in: 0..<of, using: &random) == 0 }

    private func candidate(for worker: Int) -> SnapshotTask? {
        let own = families.filter { $0.owner == worker && !$0.isTaken }
        let idle = own.filter { $0.writer == nil && $0.isFree }
        switch Int.random(in: 0..<50, using: &random) {
        case 0..<7: return serve(worker, idle)
        case 7: return halt(worker)
        case 8..<11: return create()
        case 11..<22: return snapshot(worker)
        case 22..<25: return clone(worker, own)
        case 25..<30: return rollBack(idle)
        case 30, 31: return rename(idle, own)
        case 32, 33: return delete(idle)
        case 34, 35: return changeSnapshot(own)
        case 36: return resize(idle)
        case 37, 38: return grow()
        case 39: return keep(own)
        case 40: return SnapshotTask(.collect).failing(["busy"])
        case 41..<43: return SnapshotTask(.steps(.random(in: 1...8, using: &random))).failing(["busy"])
        case 43: return SnapshotTask(.check)
        default: return attempt()
        }
    }

    private func newName() -> String? {
        let name = "d\(Int.random(in: 0..<30, using: &random))"
        return names.contains(name) || families.contains { $0.name == name } ? nil : name
    }

    private func create() -> SnapshotTask? {
        guard families.count < Self.mostFamilies, let name = newName(), let sectors = Self.sizes.randomElement(using: &random) else { return nil }
        return SnapshotTask(.create(name, sectors: sectors))
    }

    // MARK: Writers

    /// What a disk holds, as somebody needs to know it before it changes; nil: it can't be read.
    private func known(_ family: Family) -> [UInt64]? {
        if family.disk.content.values == nil { noting { try settle(family.name, family.disk) } }
        guard var values = family.disk.content.values else { return nil }
        values = Array(values.prefix(family.disk.sectors))
        return values + [UInt64](repeating: 0, count: family.disk.sectors - values.count)
    }

    private func serve(_ worker: Int, _ idle: [Family]) -> SnapshotTask? {
        guard families.count(where: { $0.writer?.history.worker == worker }) < 3 else { return nil }
        let served = Array(idle.shuffled(using: &random).prefix(chance(2) ? 1 : 2))
        let bases = served.compactMap { known($0) }
        guard !served.isEmpty, bases.count == served.count else { return nil }
        lastWriter += 1
        let log = scratch.path + "/log-\(lastWriter)"
        return SnapshotTask(.serve(served, WriterHistory(id: lastWriter, worker: worker, seed: random.next(), log: log, bases: bases)))
    }

    private func halt(_ worker: Int) -> SnapshotTask? {
        let histories = families.filter { $0.writer?.history.worker == worker && $0.attempts == 0 }.compactMap { $0.writer?.history }
        guard let history = histories.randomElement(using: &random),
            families.allSatisfy({ $0.writer?.history !== history || $0.attempts == 0 })
        else { return nil }
        return SnapshotTask(.halt(history))
    }

    // MARK: Copies

    private func snapshot(_ worker: Int) -> SnapshotTask? {
        let possible = families.filter { !$0.isTaken && $0.snapshots.count < Self.mostSnapshots && ($0.writer != nil || $0.owner == worker) }
        guard !possible.isEmpty else { return nil }
        var chosen = Array(possible.shuffled(using: &random).prefix([1, 1, 2, 3].randomElement(using: &random) ?? 1))
        // All that one has, so that what is done to one after the other is seen.
        if chance(2), let history = chosen[0].writer?.history { chosen = possible.filter { $0.writer?.history === history } }
        let named = chosen.map { (family: $0, name: "s\(Int.random(in: 0..<12, using: &random))") }
        var task = SnapshotTask(.snapshot(named))
        guard names.isDisjoint(with: task.operation.names) else { return nil }
        if named.contains(where: { $0.family.image($0.name) != nil }) {
            // Who may have it may also take it away.
            guard named.allSatisfy({ $0.family.owner == worker }) else { return nil }
            task.failures = ["exists"]
        }
        return sharing(task)
    }

    /// Where somebody may be at the journal of a disk that was left, it is in use for that moment.
    private func sharing(_ task: SnapshotTask) -> SnapshotTask {
        guard task.failures.isEmpty, task.operation.copied.contains(where: { $0.writer == nil && $0.copies > 0 }) else { return task }
        return task.failing(["busy"])
    }

    private func clone(_ worker: Int, _ own: [Family]) -> SnapshotTask? {
        guard families.count < Self.mostFamilies, let new = newName() else { return nil }
        if chance(2), let family = own.randomElement(using: &random), let snapshot = family.snapshots.randomElement(using: &random) {
            return SnapshotTask(.clone(family, snapshot: snapshot.name, new))
        }
        let possible = families.filter { !$0.isTaken && ($0.writer != nil || $0.owner == worker) }
        return possible.randomElement(using: &random).map { sharing(SnapshotTask(.clone($0, snapshot: nil, new))) }
    }

    // MARK: Changes

    private func rollBack(_ idle: [Family]) -> SnapshotTask? {
        guard let family = idle.randomElement(using: &random), let snapshot = family.snapshots.randomElement(using: &random) else { return nil }
        return SnapshotTask(.rollBack(family, snapshot.name))
    }

    private func rename(_ idle: [Family], _ own: [Family]) -> SnapshotTask? {
        guard let family = idle.randomElement(using: &random) else { return nil }
        if chance(4), let other = own.first(where: { $0 !== family && $0.writer == nil }), !names.contains(other.name) {
            var task = SnapshotTask(.rename(family, other.name))
            task.failures = ["exists"]
            return task
        }
        return newName().map { SnapshotTask(.rename(family, $0)) }
    }

    private func delete(_ idle: [Family]) -> SnapshotTask? {
        guard let family = idle.randomElement(using: &random) else { return nil }
        let isRecursive = Bool.random(using: &random)
        var task = SnapshotTask(.delete(family, recursive: isRecursive))
        if !isRecursive, !family.snapshots.isEmpty { task.failures = ["invalidRequest"] }
        return task
    }

    private func changeSnapshot(_ own: [Family]) -> SnapshotTask? {
        guard let family = own.randomElement(using: &random), let snapshot = family.snapshots.randomElement(using: &random) else { return nil }
        guard chance(2) else { return SnapshotTask(.deleteSnapshot(family, snapshot.name)) }
        let new = "s\(Int.random(in: 0..<12, using: &random))"
        guard family.image(new) == nil, !names.contains("\(family.name)@\(new)") else { return nil }
        return SnapshotTask(.renameSnapshot(family, snapshot.name, new))
    }

    private func keep(_ own: [Family]) -> SnapshotTask? {
        guard let family = own.filter(\.isFree).randomElement(using: &random), !family.snapshots.isEmpty else { return nil }
        return SnapshotTask(.keep(family, .random(in: 0...3, using: &random)))
    }

    private func resize(_ idle: [Family]) -> SnapshotTask? {
        guard let family = idle.randomElement(using: &random), let sectors = Self.sizes.randomElement(using: &random), known(family) != nil else { return nil }
        return SnapshotTask(.resize(family, sectors: sectors))
    }

    /// Of a disk in use.
    private func grow() -> SnapshotTask? {
        guard let family = families.filter({ $0.writer != nil && !$0.isTaken && !$0.isGrowing }).randomElement(using: &random),
            let sectors = Self.sizes.filter({ $0 > family.disk.sectors }).randomElement(using: &random)
        else { return nil }
        return SnapshotTask(.resize(family, sectors: sectors))
    }

    /// What is refused, as somebody has the disk.
    private func attempt() -> SnapshotTask? {
        guard let family = families.filter({ $0.writer != nil && !$0.isTaken && !$0.isGrowing }).randomElement(using: &random) else { return nil }
        let isHalting = workers.contains { worker in
            if case .halt(let history)? = worker?.task?.operation { history === family.writer?.history } else { false }
        }
        guard !isHalting else { return nil }
        let operation: SnapshotOperation? =
            switch Int.random(in: 0..<4, using: &random) {
            case 0: newName().map { .rename(family, $0) }
            case 1: .delete(family, recursive: true)
            case 2: family.snapshots.randomElement(using: &random).map { .rollBack(family, $0.name) }
            default: Self.sizes.filter { $0 < family.disk.sectors }.randomElement(using: &random).map { .resize(family, sectors: $0) }
            }
        guard let operation else { return nil }
        var task = SnapshotTask(operation)
        task.failures = ["busy"]
        task.attempted = family
        return task
    }
}

extension SnapshotTask {
    /// The same, which may fail in these ways.
    fileprivate func failing(_ kinds: Set<String>) -> SnapshotTask {
        var task = self
        task.failures = kinds
        task.isUncertain = true
        return task
    }
}
