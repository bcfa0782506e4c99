import BlockModel
import Store
import System

/// What survives the loss of power, on a real disk, beside what its filesystem does.
struct Durable {
    let plan: Plan
    let limits: Limits
    private var comparison = Comparison()

    init(_ plan: Plan, _ limits: Limits) {
        self.plan = plan
        self.limits = limits
    }

    mutating func section() throws -> Section {
        var section = Section(
            name: "durable", title: "Durable writes, on the disk",
            caveat: """
                The disk is whatever is under that directory: a virtual one may answer a sync before its data is safe, and what \
                else its host does is in the figures. Flushed writes begin with a journal that was written over once, as after a \
                minute of use. The filesystem's state, and how full the device is, count too.
                """)
        let byteCount = fitting(&section)
        for round in 0..<plan.rounds {
            if byteCount > 0 {
                say("durable: round \(round + 1), \(Unit.bytes.text(Double(byteCount))) sustained")
                try sustain(byteCount)
            }
            say("durable: round \(round + 1), flushes")
            try flush(threads: 1, goal: .flushedWrites)
            try flush(threads: 32, goal: nil)
        }
        section.rows = comparison.rows
        return section
    }

    private func fitting(_ section: inout Section) -> Int {
        let room = availableBytes(plan.disk) / 4 * 3
        guard room < plan.durableBytes else { return plan.durableBytes }
        section.missing.append("\(Unit.bytes.text(Double(plan.durableBytes))) sustained: the disk has room for \(Unit.bytes.text(Double(room)))")
        return room / (64 << 20) * (64 << 20)
    }

    private mutating func sustain(_ byteCount: Int) throws {
        let limit = try limits.sequentialFile(plan.disk, byteCount: byteCount)
        let bench = try BenchStore(plan.disk + "/durable")
        let shape = Shape(blocks: byteCount / blockSize, requestBlocks: BlockSource.span, threads: Plan.cores)
        let run = try run(.write(generation: 1), on: bench.create("a", blocks: shape.blocks), shape)
        comparison.add(
            "unique, sequential 1 MiB, \(Unit.bytes.text(Double(byteCount)))", run.rate, .bytesPerSecond, of: limit, goal: .durableWrites,
            latencies: run.latencies)
    }

    private mutating func flush(threads: Int, goal: Goal?) throws {
        let count = plan.size(threads == 1 ? 200 : 1000, short: 32)
        let bench = try BenchStore(plan.disk + "/durable")
        let shape = Shape(blocks: count, requestBlocks: 1, order: .random, threads: threads)
        let disk = try bench.createWarm("a", blocks: count, rest: plan.rest)
        // In short turns: a disk that others use as well may take twice as long for a second.
        for turn in 1...plan.turns {
            let limit = try limits.overwrites(plan.disk, count: count, threads: threads)
            let run = try run(.write(generation: UInt64(turn)), on: disk, shape, flushing: true)
            comparison.add(
                "write 4 KiB + flush, depth \(threads)", run.seconds / Double(count), .seconds, of: limit, goal: goal, latencies: run.latencies)
        }
        try disk.close()
    }
}
