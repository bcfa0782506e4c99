import BlockModel
import Catalogue
import Disk
import Store
import System
import TestSupport

/// Some processes do random things to the disks of a store, and some are killed; all by one seed, but for who comes first. What there should be is
/// known beside it, and compared with what there is whenever all have ended.
final class SnapshotRun {
    let scratch: ScratchDirectory
    let store: Store
    var random: SeededGenerator
    var workers: [WorkerProcess?] = []
    var families: [Family] = []
    /// Copies that were made together.
    var groups: [[Content]] = []
    /// Names that somebody is giving.
    var names: Set<String> = []
    var numbers = BlockNumbers()
    var lastWriter = 0
    /// What is wrong.
    private(set) var problems: [String] = []
    private let seed: UInt64
    private(set) var round = 0
    /// What was done.
    var counts = Counts()

    struct Counts {
        /// Copies of disks in use that were made, that were refused, and that were as those who have the disks could not hold still together.
        var copies = 0, refused = 0, late = 0
        /// Copies of several disks in use.
        var groups = 0
        var kills = 0, rollbacks = 0, attempts = 0
    }

    static let workerCount = 3

    init(seed: UInt64) throws {
        self.seed = seed
        scratch = try ScratchDirectory()
        store = try Store(path: scratch.path + "/store", creating: true)
        random = SeededGenerator(seed: seed)
    }

    func isWrong(_ text: String) { problems.append("seed \(seed), round \(round): \(text)") }

    func run(rounds: Int, operations: Int) throws {
        while round < rounds, problems.isEmpty {
            round += 1
            try beAtWork(operations)
            try compareAll()
        }
    }

    // MARK: A round

    private func beAtWork(_ operations: Int) throws {
        for _ in 0..<Self.workerCount { workers.append(try WorkerProcess(store.path)) }
        defer { workers = [] }
        for family in families { family.owner = Int.random(in: 0..<Self.workerCount, using: &random) }
        var left = operations
        // One is killed on the way, so that the others meet what it leaves; not always.
        let victim = Int.random(in: 0..<Self.workerCount, using: &random)
        let killAt = Int.random(in: 0..<2 * operations, using: &random)
        while left > 0 || workers.contains(where: { $0?.task != nil }), problems.isEmpty {
            for index in workers.indices where left > 0 && workers[index]?.task == nil && workers[index] != nil {
                give(chosenTask(for: index), to: index)
                left -= 1
                if left == killAt { try kill(victim, after: .random(in: 0...60, using: &random)) }
            }
            if Int.random(in: 0..<60, using: &random) == 0 {
                let milliseconds = Int.random(in: 0...250, using: &random)
                workers.compactMap { $0 }.randomElement(using: &random)?.interrupt(milliseconds: milliseconds)
            }
            try hear()
        }
        for index in workers.indices.shuffled(using: &random) where workers[index] != nil {
            if Bool.random(using: &random) { try kill(index, after: .random(in: 0...30, using: &random)) } else { end(index) }
        }
    }

    private func give(_ task: SnapshotTask, to index: Int) {
        for family in task.operation.taken where task.attempted == nil { family.isTaken = true }
        for family in task.operation.copied { family.copies += 1 }
        task.attempted?.attempts += 1
        if case .resize(let family, let sectors) = task.operation, task.attempted == nil, sectors > family.disk.sectors {
            family.isGrowing = true
            family.sizes.append(sectors)
        }
        names.formUnion(task.operation.names)
        workers[index]?.task = task
        workers[index]?.send(task.operation.words)
    }

    private func takeBack(_ task: SnapshotTask) {
        for family in task.operation.taken where task.attempted == nil { family.isTaken = false }
        for family in task.operation.copied { family.copies -= 1 }
        task.attempted?.attempts -= 1
        if case .resize(let family, _) = task.operation, task.attempted == nil { family.isGrowing = false }
        names.subtract(task.operation.names)
    }

    /// Takes in answers, waiting a little.
    private func hear() throws {
        for worker in workers.indices {
            guard let process = workers[worker], let task = process.task else { continue }
            if let answer = process.receive(limit: 0.005) {
                process.task = nil
                takeBack(task)
                try take(answer, of: task, worker: worker)
            } else if process.isOver || monotonicSeconds() - task.sent > Child.patience {
                isWrong("\(task.operation.words) is not answered: \(process.end() ?? "it just ended")")
                workers[worker] = nil
            }
        }
    }

    func noting(_ body: () throws -> Void) {
        do { try body() } catch { isWrong("\(error)") }
    }

    private func take(_ answer: WorkerProcess.Answer, of task: SnapshotTask, worker: Int) throws {
        let isCopyInUse = task.sources.contains { $0.writer != nil }
        guard let failure = answer.failure else {
            if !task.failures.isEmpty, !task.isUncertain { return isWrong("\(task.operation.words) did not fail: \(task.failures)") }
            if isCopyInUse { counts.copies += 1 }
            if task.sources.count(where: { $0.writer != nil }) > 1 { counts.groups += 1 }
            return try apply(task, worker: worker, from: answer.began, to: answer.ended)
        }
        if task.attempted != nil { counts.attempts += 1 }
        // Whoever has it may be too busy, or gone.
        if isCopyInUse, failure == "busy" {
            // Several hold still for a tenth of a second, in which a busy machine may not come to all of them.
            if answer.line.contains("it could not hold still long enough") { counts.late += 1 } else { counts.refused += 1 }
            return
        }
        if !task.failures.contains(failure) { isWrong("\(task.operation.words): \(answer.line)") }
    }

    /// - Parameter milliseconds: behind what it was told last.
    private func kill(_ index: Int, after milliseconds: Int) throws {
        // An attempt is refused only as long as somebody has the disk.
        guard let worker = workers[index], !families.contains(where: { $0.writer?.history.worker == index && $0.attempts > 0 }) else { return }
        pause(milliseconds: milliseconds)
        let task = worker.task
        worker.kill()
        counts.kills += 1
        // Whoever is killed just before LMDB tells readers of a commit leaves that to the next writer.
        try store.change { _ in }
        let time = monotonicSeconds()
        workers[index] = nil
        for family in families where family.writer?.history.worker == index { family.endWriting() }
        if let task {
            takeBack(task)
            // It may have been done all the same.
            if task.attempted == nil, task.failures.isEmpty || task.isUncertain { try see(task, worker: index, before: time) }
        }
        let living = workers.indices.filter { workers[$0] != nil }
        for family in families where family.owner == index { family.owner = living.randomElement(using: &random) ?? 0 }
    }

    private func end(_ index: Int) {
        if let problem = workers[index]?.end() { isWrong(problem) }
        workers[index] = nil
        for family in families where family.writer?.history.worker == index { family.endWriting() }
    }

    // MARK: What there is

    /// What a disk or a snapshot holds, whose size is known.
    func read(_ name: String, _ image: Image) throws -> [UInt64] {
        let disk = try StoreDisk(store, name, readOnly: true)
        // It was only read.
        defer { try? disk.close() }
        let found = SectorValues.values(try disk.contents())
        if found.count != image.sectors { isWrong("\(name) has \(found.count) sectors, not \(image.sectors)") }
        return found
    }

    /// Reads it, and compares it with what it should be.
    func settle(_ name: String, _ image: Image) throws {
        if let problem = image.content.settle(try read(name, image)) { isWrong("\(name): \(problem)") }
    }

    private func compareAll() throws {
        guard problems.isEmpty else { return }
        // First of all as it lies there.
        try check()
        try rollBackWhatWasLeft()
        for family in families {
            try settle(family.name, family.disk)
            for (name, image) in family.snapshots { try settle("\(family.name)@\(name)", image) }
        }
        for group in groups {
            let captures = group.compactMap(\.capture)
            if !Capture.areOfOneMoment(captures) { isWrong("copies that were made together are of no one moment: \(captures)") }
        }
        groups = []
        try compareStatistics("at the end")
        guard problems.isEmpty, Bool.random(using: &random) else { return }
        _ = try store.collect(shouldStop: { false }) { _, _ in }
        try compareStatistics("collected")
        if try store.statistics().reclaimableBytes != 0 {
            // The locks of those who were killed may go a little later than they.
            try waitUntil(limit: 60) {
                _ = try store.collect(shouldStop: { false }) { _, _ in }
                return try store.statistics().reclaimableBytes == 0
            }
            let left = try store.statistics().reclaimableBytes
            if left != 0 { isWrong("collections left \(left) bytes") }
        }
        try check()
    }

    /// What waits in the journals of those who were killed is thrown away, of some.
    private func rollBackWhatWasLeft() throws {
        for family in families where family.disk.content.values == nil && Int.random(in: 0..<3, using: &random) == 0 {
            guard let (name, image) = family.snapshots.randomElement(using: &random), let snapshot = SnapshotName("\(family.name)@\(name)") else { continue }
            try StoreDisk.rollBack(snapshot, of: store)
            counts.rollbacks += 1
            family.disk = image
            family.setSize(image.sectors)
        }
    }

    private func check() throws {
        let found = try store.check(readData: true, repair: false) { _, _ in }.problems
        if !found.isEmpty { isWrong("check: \(found)") }
    }

    /// To the byte.
    private func compareStatistics(_ note: String) throws {
        let found = try store.statistics()
        func compare<Value: Equatable>(_ what: String, _ found: Value, _ wanted: Value) {
            if found != wanted { isWrong("\(note): \(what) is \(found), not \(wanted)") }
        }
        let disks = families.sorted { $0.name < $1.name }
        compare(
            "the list", found.disks.map { [$0.name] + $0.snapshots.map(\.name) },
            disks.map { disk in [disk.name] + disk.snapshots.map { "\(disk.name)@\($0.name)" } })
        guard problems.isEmpty else { return }
        func bytes(_ blocks: Int) -> UInt64 { UInt64(blocks) * UInt64(blockSize) }
        func blocks(_ image: Image) -> [Int] { image.content.blocks(&numbers) }
        // How many disks or snapshots have a block, and how many families.
        var images: [Int: Int] = [:], owners: [Int: Int] = [:]
        for family in disks {
            var all = Set(blocks(family.disk))
            for block in all { images[block, default: 0] += 1 }
            for (_, image) in family.snapshots {
                let own = Set(blocks(image))
                for block in own { images[block, default: 0] += 1 }
                all.formUnion(own)
            }
            for block in all { owners[block, default: 0] += 1 }
        }
        for (family, found) in zip(disks, found.disks) {
            let all = Set(family.snapshots.flatMap { blocks($0.image) } + blocks(family.disk))
            compare("\(found.name): size", found.size, UInt64(family.disk.sectors * sectorSize))
            compare("\(found.name): mapped", found.mappedBytes, bytes(blocks(family.disk).count))
            compare("\(found.name): exclusive", found.exclusiveBytes, bytes(all.count { owners[$0] == 1 }))
            compare("\(found.name): attached", found.isAttached, false)
            for ((_, image), found) in zip(family.snapshots, found.snapshots) {
                compare("\(found.name): size", found.size, UInt64(image.sectors * sectorSize))
                compare("\(found.name): mapped", found.mappedBytes, bytes(blocks(image).count))
                compare("\(found.name): exclusive", found.exclusiveBytes, bytes(Set(blocks(image)).count { images[$0] == 1 }))
            }
        }
        compare("provisioned", found.provisionedBytes, disks.reduce(0) { $0 + UInt64($1.disk.sectors * sectorSize) })
        compare("mapped", found.mappedBytes, bytes(disks.reduce(0) { $0 + blocks($1.disk).count }))
        compare("snapshots", found.snapshotBytes, bytes(disks.reduce(0) { $0 + $1.snapshots.reduce(0) { $0 + blocks($1.image).count } }))
        compare("unique", found.uniqueBytes, bytes(images.count))
        compare("unique of disks", found.uniqueOfDisksBytes, bytes(Set(disks.flatMap { blocks($0.disk) }).count))
    }
}
