import BlockModel
import Disk
import Glibc
import Packs
import Store
import System

/// What the engine does when nothing but the CPU is in its way: a store in memory, whose pages are there already.
struct Engine {
    let plan: Plan
    let limits: Limits
    private var comparison = Comparison()

    init(_ plan: Plan, _ limits: Limits) {
        self.plan = plan
        self.limits = limits
    }

    private var blocks: Int { plan.size(512 << 20, short: 4 << 20) / blockSize }

    mutating func section() throws -> Section {
        var section = Section(
            name: "engine", title: "The engine in memory",
            caveat: """
                Syncs cost nothing here, and the store's pages were written before; no ring, socket or guest is involved. \
                Threads call without a pause, each with a request: a disk answers when it is done. Together are the requests that \
                one thread has taken from a ring or a socket at once, where a guest or client has 32 under way (of 1 MiB: 4). A \
                write's time ends when all of it is committed. Reads are of blocks that were read once before, so that the kernel has \
                mapped their pages, as it has those of the limit. Program code is this program's.
                """)
        for round in 0..<plan.rounds {
            for order in Shape.Order.allCases {
                // Long requests in any order tell nothing that those in order don't.
                for requestBlocks in plan.isShort ? [1] : [1, 16] { try measure(requestBlocks, order, round) }
                if order == .sequential { try measure(256, order, round) }
            }
            guard plan.like == nil else { continue }
            try flushes()
            try compression()
            try processorTime()
        }
        section.rows = comparison.rows
        return section
    }

    private mutating func measure(_ requestBlocks: Int, _ order: Shape.Order, _ round: Int) throws {
        for (threads, together) in [(1, 1), (1, Plan.together(requestBlocks: requestBlocks)), (Plan.deep, 1)] {
            let shape = Shape(blocks: blocks, requestBlocks: requestBlocks, order: order, threads: threads, together: together)
            let name = "\(order.rawValue) \(sizeText(requestBlocks)), \(shape.depthText)"
            if let like = plan.like, !name.contains(like) { continue }
            say("engine: round \(round + 1), \(name)")
            try measure(shape)
        }
    }

    /// All actions in one store, each after its limit.
    private mutating func measure(_ shape: Shape) throws {
        let bench = try BenchStore(plan.memory + "/engine")
        // Threads that write single blocks wait for each other. So do queues of a disk, but theirs come together.
        let isGoal = shape.order == .sequential && (shape.together > 1 || (shape.threads > 1 && shape.requestBlocks >= 16))
        let hash = try limits.hash()
        try write("unique", .write(generation: 1), bench.create("a", blocks: blocks), shape, bench, hash, isGoal ? .uniqueWrites : nil)
        let hashAgain = try limits.hash()
        try write(
            "duplicate", .write(generation: 1), isNew: false, bench.create("b", blocks: blocks), shape, bench, hashAgain,
            isGoal ? .duplicateWrites : nil)

        let copy = try limits.coldCopy(shape.order, requestBlocks: shape.requestBlocks)
        let first = Shape(blocks: blocks, requestBlocks: BlockSource.span)
        _ = try run(.read(generation: 1), on: bench.open("a", readOnly: true), first)
        let reading = try run(.read(generation: 1), on: bench.open("a", readOnly: true), shape)
        let isGoalOfReads = shape.order == .sequential && shape.requestBlocks >= 16 && shape.together == 1
        add("read", reading, shape, copy, isGoalOfReads ? (shape.requestBlocks >= BlockSource.span ? .longReads : .sequentialReads) : nil)

        try write("overwrite", .write(generation: 2), bench.open("a"), shape, bench, limits.hash(), nil)
        try write("zeros", .zero, isNew: false, bench.open("b"), shape, bench, try limits.anonymousCopy(), nil)

        let hashes = try limits.hash(), copies = try limits.coldCopy(shape.order, requestBlocks: shape.requestBlocks)
        let mixed = ("70% memcpy, 30% SHA-256", 1 / (0.7 / copies.value + 0.3 / hashes.value))
        try write("70% read, 30% unique", .mixed(reading: 2, writing: 3), bench.open("a"), shape, bench, mixed, nil)
    }

    private mutating func write(
        _ name: String, _ action: Action, isNew: Bool = true, _ disk: BenchDisk, _ shape: Shape, _ bench: BenchStore,
        _ limit: (name: String, value: Double), _ goal: Goal?
    ) throws {
        try bench.touch(shape.byteCount, isNew: isNew)
        add(name, try run(action, on: disk, shape), shape, limit, goal)
    }

    private mutating func add(_ name: String, _ run: Run, _ shape: Shape, _ limit: (name: String, value: Double), _ goal: Goal?) {
        comparison.add(
            "\(name), \(shape.order.rawValue) \(sizeText(shape.requestBlocks)), \(shape.depthText)", run.rate, .bytesPerSecond,
            of: limit, goal: goal, latencies: run.latencies)
    }

    /// Where the processors' time goes, a block: whoever writes, hashing, and committing.
    private mutating func processorTime() throws {
        let bench = try BenchStore(plan.memory + "/engine")
        var source = BlockSource()
        for name in ["unique", "duplicate"] {
            let disk = try bench.createWarm(
                name, blocks: blocks, rest: plan.rest, touching: blocks * blockSize, isNew: name == "unique")
            let before = ProcessorTime()
            try Meter.counting {
                for block in stride(from: 0, to: blocks, by: BlockSource.span) {
                    let range = source.prepare(1 << 41 + UInt64(block), count: min(BlockSource.span, blocks - block))
                    try disk.write(at: UInt64(block * sectorsPerBlock), source.bytes.rawBytes.extracting(range))
                }
                // Until all of it is committed, but by the threads that are to be asked.
                if let rest = plan.rest { usleep(UInt32((rest + 0.5) * 1e6)) }
            }
            let after = ProcessorTime()
            for (part, threads) in [("into the journal", ["bench"]), ("hashing", ["name", "hash"]), ("committing", ["commit"])] as [(String, Set<String>)] {
                comparison.add("processor time a block, \(name): \(part)", after.seconds(threads, since: before) / Double(blocks), .seconds)
            }
            try disk.close()
        }
    }

    /// What compressing costs a unique write, of what gets smaller by it and of what does not.
    private mutating func compression() throws {
        let shape = Shape(blocks: blocks, requestBlocks: BlockSource.span, threads: Plan.deep)
        for kind in [BlockSource.Kind.noise, .code] {
            var plain: (name: String, value: Double)?
            for codec in BlobCodec.allCases {
                let bench = try BenchStore(plan.memory + "/engine", codec: codec)
                let disk = try bench.create("a", blocks: blocks)
                try bench.touch(shape.byteCount)
                let run = try run(.write(generation: 1), on: disk, shape, kind: kind)
                let name = "unique, \(kind == .code ? "program code" : "incompressible"), \(codec.name)"
                if codec == .raw { plain = ("no compression", run.rate) }
                if let plain { comparison.add(name, run.rate, .bytesPerSecond, of: plain, goal: nil, latencies: run.latencies) }
            }
        }
    }

    /// 4 KiB, then a flush, and so on.
    private mutating func flushes() throws {
        for threads in [1, Plan.deep] {
            let count = plan.size(4000, short: 100)
            let bench = try BenchStore(plan.memory + "/engine")
            let shape = Shape(blocks: count, requestBlocks: 1, order: .random, threads: threads)
            let limit = try limits.overwrites(plan.memory, count: count, threads: threads)
            let disk = try bench.createWarm("a", blocks: count, rest: plan.rest, touching: shape.byteCount)
            let run = try run(.write(generation: 1), on: disk, shape, flushing: true)
            try disk.close()
            comparison.add(
                "write 4 KiB + flush, \(shape.depthText)", run.seconds / Double(count), .seconds, of: limit, latencies: run.latencies)
        }
    }
}
