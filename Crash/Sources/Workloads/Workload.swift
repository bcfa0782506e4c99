internal import TestSupport

/// The steps that are done to a store: the same for the same seed.
public struct Workload: Sendable {
    public enum Kind: String, CaseIterable, Sendable {
        /// A store is made, and a disk, and a little is written.
        case making
        /// One disk is written to, overwritten, discarded and flushed.
        case writing
        /// The journal goes round.
        case wrapping
        /// Two disks with the same content.
        case duplicates
        /// Two processes use the store at once, and copy what the other one serves.
        case sharing
        /// Disks come, of images too, change their size and go.
        case lifetimes
        /// Snapshots, clones and what is done with them.
        case snapshots
        /// What nothing refers to is collected.
        case collecting
        /// The same, beside writes.
        case maintaining
        /// The same, and blocks are compressed in the background.
        case compressing
        /// A store of format 3 becomes one of today's.
        case upgrading
        /// What was left by a cut is opened, and written to.
        case recovering
    }
    public let kind: Kind
    public let steps: [Step]

    public init(_ kind: Kind, seed: UInt64) {
        self.kind = kind
        var maker = StepMaker(seed: seed)
        steps = maker.steps(of: kind)
    }

    /// On disks that are there already.
    public init(recovering disks: [(name: String, sectors: Int)], seed: UInt64) {
        kind = .recovering
        var maker = StepMaker(seed: seed)
        steps = maker.recovery(of: disks)
    }
}

private struct StepMaker {
    private var random: SeededGenerator
    private var steps: [Step] = []
    private var disks: [(name: String, sectors: Int)] = []
    private var snapshots: [String] = []
    private var number = 0

    init(seed: UInt64) { random = SeededGenerator(seed: seed) }

    private mutating func oneIn(_ count: Int) -> Bool { Int.random(in: 0..<count, using: &random) == 0 }

    mutating func steps(of kind: Workload.Kind) -> [Step] {
        steps = [.make]
        switch kind {
        case .making:
            create(sectors: 512)
            write(to: 0, 3)
        case .writing, .recovering:
            create(sectors: 4096)
            for _ in 0..<6 {
                write(to: 0, 8)
                if oneIn(2) { writeMuch(to: 0) }
                if oneIn(4) { steps.append(.close(disks[0].name)) }
            }
        case .wrapping:
            create(sectors: 2048)
            // Three times as much as the journal of 4 MiB has room for.
            for _ in 0..<24 {
                writeMuch(to: 0)
                if oneIn(2) { write(to: 0, 1) }
            }
        case .duplicates:
            create(sectors: 2048)
            create(sectors: 2048)
            for _ in 0..<12 {
                write(to: Int.random(in: 0..<2, using: &random), 4)
                if oneIn(4) { writeMuch(to: Int.random(in: 0..<2, using: &random)) }
            }
        case .sharing: share()
        case .lifetimes:
            for _ in 0..<6 { live() }
        case .snapshots:
            create(sectors: 2048)
            create(sectors: 1024)
            for _ in 0..<8 {
                write(to: Int.random(in: disks.indices, using: &random), 4)
                changeSnapshots()
            }
        case .collecting, .compressing:
            if kind == .compressing { steps.append(.compress(true)) }
            create(sectors: 4096)
            for _ in 0..<6 {
                write(to: 0, 8)
                if oneIn(2) { steps.append(.close(disks[0].name)) }
                steps.append(oneIn(2) ? .collect : .collectSteps(Int.random(in: 1...12, using: &random)))
            }
        case .maintaining:
            create(sectors: 2048)
            steps.append(.maintain(true))
            for _ in 0..<6 {
                write(to: 0, 6)
                if oneIn(2) { writeMuch(to: 0) }
                changeSnapshots()
            }
            steps.append(.maintain(false))
        case .upgrading:
            steps = [.open]
            disks = OldStore.disks.map { ($0.name, $0.sectors) }
            number = disks.count
            write(to: 0, 3)
            write(to: 1, 3)
            steps.append(.collect)
        }
        return steps
    }

    mutating func recovery(of disks: [(name: String, sectors: Int)]) -> [Step] {
        self.disks = disks
        steps = [.open]
        for index in disks.indices.prefix(3) where disks[index].sectors > 0 { write(to: index, 3) }
        if oneIn(2) { steps.append(.collectSteps(4)) }
        return steps
    }

    // MARK: Disks

    private mutating func create(sectors: Int) {
        number += 1
        disks.append(("d\(number)", sectors))
        steps.append(.create("d\(number)", sectors: sectors))
    }

    private mutating func write(to index: Int, _ count: Int) {
        let (name, sectors) = disks[index]
        var load = SectorLoad(seed: random.next(), sectors: [sectors])
        for _ in 0..<count { steps.append(.change(name, load.next())) }
        if oneIn(2) { steps.append(.change(name, .flush)) }
    }

    /// Writes 512 KiB, of one of four contents: the journal fills, and the store has little, so that its states are small.
    private mutating func writeMuch(to index: Int) {
        let (name, sectors) = disks[index]
        let count = min(sectors, 1024), start = Int.random(in: 0...(sectors - count) / 8, using: &random) * 8
        steps.append(.change(name, SectorStep(writing: start..<start + count, as: UInt64.random(in: 1...4, using: &random) << 40)))
        if oneIn(3) { steps.append(.change(name, .flush)) }
    }

    private mutating func live() {
        if disks.isEmpty || disks.count < 3 && oneIn(2) {
            if oneIn(2) {
                create(sectors: 8 * Int.random(in: 1...200, using: &random))
            } else {
                number += 1
                let image = SectorStep(writing: 0..<Int.random(in: 1...1200, using: &random), as: random.next() | 1)
                disks.append(("d\(number)", image.count))
                steps.append(.load("d\(number)", image))
            }
        }
        write(to: Int.random(in: disks.indices, using: &random), 5)
        changeName()
        changeSize()
        if oneIn(3) {
            let index = Int.random(in: disks.indices, using: &random)
            steps += [.close(disks[index].name), .delete(disks[index].name)]
            disks.remove(at: index)
        }
    }

    private mutating func changeName() {
        guard oneIn(3), let index = disks.indices.randomElement(using: &random) else { return }
        number += 1
        steps += [.close(disks[index].name), .rename(disks[index].name, "d\(number)")]
        disks[index].name = "d\(number)"
    }

    private mutating func changeSize() {
        guard oneIn(2), let index = disks.indices.randomElement(using: &random) else { return }
        disks[index].sectors = 8 * Int.random(in: 1...300, using: &random)
        steps += [.close(disks[index].name), .resize(disks[index].name, sectors: disks[index].sectors)]
    }

    private mutating func changeSnapshots() {
        number += 1
        switch Int.random(in: 0..<7, using: &random) {
        case 0:
            steps.append(.snapshot(disks: disks.prefix(2).map(\.name), name: "s\(number)"))
            snapshots += disks.prefix(2).map { "\($0.name)@s\(number)" }
        case 1:
            guard let disk = disks.randomElement(using: &random) else { return }
            steps += [.clone(disk.name, "d\(number)")]
            disks.append(("d\(number)", disk.sectors))
        case 2:
            guard let snapshot = snapshots.randomElement(using: &random), let disk = snapshot.split(separator: "@").first else { return }
            steps += [.close(String(disk)), .rollBack(snapshot)]
        case 3:
            guard let index = snapshots.indices.randomElement(using: &random) else { return }
            steps.append(.delete(snapshots.remove(at: index)))
        case 4:
            let name = disks[0].name, ours = snapshots.filter { $0.hasPrefix(name + "@") }
            guard ours.count > 1 else { return }
            steps.append(.prune(name, keeping: 1))
            snapshots.removeAll { ours.dropLast().contains($0) }
        default:
            guard let disk = disks.prefix(2).randomElement(using: &random) else { return }
            steps.append(.snapshot(disks: [disk.name], name: "s\(number)"))
            snapshots.append("\(disk.name)@s\(number)")
        }
    }

    // MARK: Two processes

    /// Each has a disk that it serves, and does what it likes to the store.
    private mutating func share() {
        create(sectors: 2048)
        create(sectors: 2048)
        for _ in 0..<10 {
            let index = Int.random(in: 0..<2, using: &random), first = steps.count
            write(to: index, 4)
            if oneIn(3) { writeMuch(to: index) }
            if index == 1 { for place in first..<steps.count { steps[place] = .elsewhere(steps[place]) } }
            number += 1
            let step: Step
            switch Int.random(in: 0..<5, using: &random) {
            case 0: step = .snapshot(disks: oneIn(2) ? ["d1", "d2"] : [oneIn(2) ? "d1" : "d2"], name: "s\(number)")
            case 1: step = .clone(oneIn(2) ? "d1" : "d2", "d\(number)")
            case 2: step = .collect
            case 3: step = .create("d\(number)", sectors: 64)
            default: continue
            }
            steps.append(oneIn(2) ? step : .elsewhere(step))
        }
    }
}
