import BlockModel
import Store

/// Whether a store stays as fast as it fills: the same work on a small store and on a large one, in turns.
struct Growth {
    let plan: Plan
    let limits: Limits
    private var comparison = Comparison()

    init(_ plan: Plan, _ limits: Limits) {
        self.plan = plan
        self.limits = limits
    }

    /// A store with `blobs` blocks in it, each distinct.
    private struct Filled {
        let bench: BenchStore
        let blobs: Int
        /// Ends what was measured on it.
        var label: String { "\(countText(blobs)) blobs" }
    }

    /// Of each kind of work in the round: its share of the limit.
    private typealias Shares = [String: Double]

    private let kind = BlockSource.Kind.compressible
    /// Blocks of one measurement.
    private var blocks: Int { plan.size(128 << 20, short: 2 << 20) / blockSize }

    mutating func section() throws -> Section {
        var section = Section(
            name: "growth", title: "Growth",
            caveat: """
                Both stores are in memory: what a device would add to look-ups in an index larger than memory is not seen. \
                Blocks are compressed with LZ4, so that many fit: reads include decompression, and all of the small store lies in \
                the processor's cache, which is part of what single blocks anywhere in the store take longer in the large one.
                """)
        let small = plan.isShort ? 1 << 11 : 1 << 18
        let large = fitting(plan.blobs, beside: small, &section)
        guard large > small else {
            section.missing.append("growth: there is memory for \(large) blobs only")
            return section
        }
        let stores = [try fill(small, "small"), try fill(large, "large")]
        for round in 0..<plan.rounds {
            say("growth: round \(round + 1)")
            let shares = try stores.map { try measure($0, round) }
            for (name, share) in shares[1].sorted(by: { $0.key < $1.key }) {
                comparison.add(
                    "\(name): \(stores[1].label)", share, .ratio, of: ("share of the limit with \(stores[0].label)", shares[0][name] ?? .nan),
                    goal: .growth)
            }
        }
        section.rows = comparison.rows
        return section
    }

    /// How many blobs fit in the memory that is left, and said so when they are fewer than wanted.
    private func fitting(_ wanted: Int, beside small: Int, _ section: inout Section) -> Int {
        // Content, what a block takes beyond it, and what the measurements add.
        let each = 256
        let added = 2 * 2 * plan.rounds * blocks
        let room = min(availableBytes(plan.memory), availableMemory() * 3 / 4)
        let fits = room / each - small - added
        guard fits < wanted else { return wanted }
        section.missing.append("growth to \(countText(wanted)) blobs: there is memory for \(countText(max(0, fits)))")
        return max(0, fits) / BlockSource.span * BlockSource.span
    }

    private func fill(_ blobs: Int, _ name: String) throws -> Filled {
        say("growth: a store of \(countText(blobs)) blobs")
        let bench = try BenchStore(plan.memory + "/" + name, compression: .lz4)
        let shape = Shape(blocks: blobs, requestBlocks: BlockSource.span, threads: Plan.cores)
        _ = try run(.write(generation: 1), on: bench.create("all", blocks: blobs), shape, kind: kind)
        return Filled(bench: bench, blobs: blobs)
    }

    private func measure(_ filled: Filled, _ round: Int) throws -> Shares {
        var shares = Shares()
        let bench = filled.bench
        let shape = Shape(blocks: blocks, requestBlocks: BlockSource.span, threads: Plan.deep)
        func write(_ name: String, _ action: Action) throws {
            let disk = try bench.create("\(name)-\(round)", blocks: blocks)
            try bench.touch(packs: shape.byteCount * 9 / 8 + (8 << 20), meta: shape.byteCount / 8 + (8 << 20))
            let limit = try limits.hash()
            shares[name] = try run(action, on: disk, shape, kind: kind).rate / limit.value
        }
        try write("unique", .write(generation: UInt64(round + 2)))
        try write("duplicate-in-order", .write(generation: UInt64(round + 2)))
        try write("duplicate-anywhere", .writeAgain(generation: 1, among: filled.blobs))
        let all = try bench.open("all", readOnly: true)
        for requestBlocks in [1, BlockSource.span] {
            let order = requestBlocks == 1 ? Shape.Order.random : .sequential
            var shape = Shape(blocks: filled.blobs, requestBlocks: requestBlocks, order: order, threads: Plan.deep)
            shape.limit = blocks / requestBlocks
            let limit = limits.coldCopy(order, requestBlocks: requestBlocks)
            shares["read, \(order.rawValue) \(sizeText(requestBlocks))"] = try run(.read(generation: 1), on: all, shape, kind: kind).rate / limit.value
        }
        return shares
    }
}

/// A count of blobs, for people: powers of two where it is one.
func countText(_ count: Int) -> String {
    if count >= 1 << 20, count % (1 << 20) == 0 { return "\(count >> 20) Mi" }
    return count % 1024 == 0 ? "\(count >> 10) Ki" : "\(count)"
}
