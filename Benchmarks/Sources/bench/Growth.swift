import BlockModel
import Store
import System

/// Whether a store stays as fast as it fills: the same work on a small store and on a large one, in turns.
struct Growth {
    let plan: Plan
    private var comparison = Comparison()

    init(_ plan: Plan) { self.plan = plan }

    /// A store whose disk `all` is full of distinct blocks. Each `every`-th of them is noise, and is what gets measured.
    private struct Filled {
        let bench: BenchStore
        let blobs: Int
        let every: Int
        let packs: ColdMemory
        /// Ends what was measured on it.
        var label: String { "\(countText(blobs)) blobs" }
    }

    /// Blocks of noise in each store: in a full run a gibibyte, which no processor's cache holds.
    private var sample: Int { plan.size(1 << 18, short: 1 << 11) }
    /// Blocks of one measurement.
    private var blocks: Int { plan.size(256 << 20, short: 2 << 20) / blockSize }

    /// What is done to both stores. A write's disk is removed after it.
    private enum Work: String, CaseIterable {
        case unique, inOrder = "duplicate, in the order of the first time", anywhere = "duplicate, anywhere in the store"
        case sequentialReads = "read, sequential 1 MiB"
        case memory = "the memory itself: memcpy of cold 4 KiB anywhere in the packs"
        case randomReads = "read, random 4 KiB, 32 at a time"

        /// Whether it is slower in a larger file whoever does it, in full or in part.
        var isByMemory: Bool { self == .memory || self == .randomReads }
    }

    mutating func section() throws -> Section {
        var section = Section(
            name: "growth", title: "Growth",
            caveat: """
                Both stores have the same gibibyte of blocks that do not compress, and these are what is written again and read. \
                The larger store has them spread evenly among as many more, which LZ4 makes so small that all fit in memory. So \
                a measurement moves the same bytes of content in both, through the same memory; what differs is what grows: \
                index, filter, counts, map, and the directories and the addresses among which the content lies. \
                In: cache and TLB misses of all of these, and the pages that commits copy. Not in: a device, when the index is larger than \
                memory; the kernel's page fault at a process's first look at each page, as both are gone over once before. \
                Random reads \
                are told of together, as a ring or a socket has them, and their disk was read before, so that its readers know \
                the leaves of its map. What the processor takes longer for their content alone, in a mapped file of that size, \
                is the row before them: the goal is for what is left when that is taken off.
                """)
        let large = fitting(plan.blobs, &section)
        guard large > sample else {
            section.missing.append("growth: there is memory for \(countText(large)) blobs only")
            return section
        }
        // What memcpy keeps of its speed in the larger file.
        var memory = 1.0
        let stores = [try fill(sample, "small"), try fill(large, "large")]
        for round in 0...plan.rounds {
            say(round == 0 ? "growth: a first look at all" : "growth: round \(round)")
            for (turn, work) in Work.allCases.enumerated() {
                // Who comes first takes turns as well.
                let order = (round + turn) % 2 == 0 ? [0, 1] : [1, 0]
                var rates = [0.0, 0.0]
                for index in order { rates[index] = try measure(work, stores[index], round) }
                guard round > 0 else { continue }
                comparison.add(
                    "\(work.rawValue): \(stores[1].label)", rates[1], .bytesPerSecond, of: ("the same with \(stores[0].label)", rates[0]),
                    goal: work.isByMemory ? nil : .growth)
                if work == .memory { memory = rates[1] / rates[0] }
                if work == .randomReads {
                    comparison.add(
                        "read, random 4 KiB, by what memory gives: \(stores[1].label)", rates[1], .bytesPerSecond,
                        of: ("the same with \(stores[0].label), times what memcpy keeps", rates[0] * memory), goal: .growth)
                }
            }
        }
        section.rows = comparison.rows
        return section
    }

    /// Number of blobs of the larger store, `sample` times a power of two: as many as are wanted or, where memory is short, as fit.
    /// That is then noted in the section.
    private func fitting(_ wanted: Int, _ section: inout Section) -> Int {
        // Bytes for a compressed block with all that belongs to it. What is taken off is the noise of both stores, and what the measurements add.
        let each = 192
        let room = min(availableBytes(plan.memory), availableMemory() * 3 / 4) - 2 * (2 * sample + 3 * blocks) * blockSize
        var fits = sample
        while fits < sample * BlockSource.span, 2 * fits <= wanted, 2 * fits * each <= room { fits *= 2 }
        if 2 * fits <= wanted, 2 * fits * each > room {
            section.missing.append("growth to \(countText(wanted)) blobs: there is memory for \(countText(fits))")
        }
        return fits
    }

    private func fill(_ blobs: Int, _ name: String) throws -> Filled {
        say("growth: a store of \(countText(blobs)) blobs")
        let bench = try BenchStore(plan.memory + "/" + name, codec: .lz4)
        let every = blobs / sample
        _ = try run(.write(generation: 0), on: bench.create("old", blocks: blocks), shape, kind: .spread(every: 1))
        let all = Shape(blocks: blobs, requestBlocks: BlockSource.span, threads: Plan.cores)
        _ = try run(.write(generation: 1), on: bench.create("all", blocks: blobs), all, kind: .spread(every: every))
        return Filled(bench: bench, blobs: blobs, every: every, packs: try ColdMemory(mapping: bench.path + "/packs/data.mdb"))
    }

    private var shape: Shape { Shape(blocks: blocks, requestBlocks: BlockSource.span, threads: Plan.deep) }

    /// Bytes a second.
    private func measure(_ work: Work, _ filled: Filled, _ round: Int) throws -> Double {
        switch work {
        case .unique: return try write(.write(generation: UInt64(round + 2)), filled, adding: blocks)
        case .inOrder: return try write(.write(generation: 0), filled, adding: 0)
        case .anywhere: return try write(.writeAgain(generation: 1, among: filled.blobs, every: filled.every), filled, adding: 0)
        case .sequentialReads: return try run(.read(generation: 0), on: filled.bench.open("old", readOnly: true), shape, kind: .spread(every: 1)).rate
        case .randomReads:
            let shape = Shape(blocks: filled.blobs, requestBlocks: 1, spacing: filled.every, order: .random, threads: Plan.deep, together: 32)
            let disk = try filled.bench.open("all", readOnly: true)
            // Its readers find the leaves of the map.
            for _ in 0..<2 { _ = try run(.read(generation: 1), on: disk, shape) }
            return try ofThree { try run(.read(generation: 1), on: disk, shape).rate }
        case .memory:
            var target = [UInt8](repeating: 1, count: blockSize)
            return ofThree { filled.packs.copy(.random, requestBlocks: 1, limit: sample, into: &target) }
        }
    }

    /// The median of three: a measurement of a fifth of a second is easily disturbed.
    private func ofThree(_ rate: () throws -> Double) rethrows -> Double { try [rate(), rate(), rate()].sorted()[1] }

    /// Writes to a new disk, which is deleted then.
    /// - Parameter blobs: how many the store has more then, which is checked.
    private func write(_ action: Action, _ filled: Filled, adding blobs: Int) throws -> Double {
        let bench = filled.bench
        let disk = try bench.create("new", blocks: blocks)
        try bench.touch(shape.byteCount, isNew: blobs > 0)
        let before = try bench.store.statistics(of: "new").uniqueBytes
        let rate = try run(action, on: disk, shape, kind: .spread(every: 1)).rate
        let added = try bench.store.statistics(of: "new").uniqueBytes - before
        guard added == UInt64(blobs * blockSize) else { throw Failure(.system, "measure growth", "\(added) bytes were new, not \(blobs) blocks") }
        try bench.store.delete(bench.store.lock("new"))
        return rate
    }
}

/// A count of blobs, for people: powers of two where it is one.
func countText(_ count: Int) -> String {
    if count >= 1 << 20, count % (1 << 20) == 0 { return "\(count >> 20) Mi" }
    return count % 1024 == 0 ? "\(count >> 10) Ki" : "\(count)"
}
