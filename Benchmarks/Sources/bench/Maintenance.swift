import BlockModel
import Disk
import Histogram
import Store
import Synchronization
import System

/// What those who write notice of a collection beside them: the longest that a flushed write took.
struct Maintenance {
    let plan: Plan
    private var comparison = Comparison()

    init(_ plan: Plan) { self.plan = plan }

    mutating func section() throws -> Section {
        let byteCount = plan.size(4 << 30, short: 16 << 20)
        var section = Section(
            name: "maintenance", title: "4 KiB writes with a flush each, on the disk, beside a collection that frees \(Unit.bytes.text(Double(byteCount)))",
            caveat: "The longest of all that came while it was at work: one of them, so that it tells more of the machine's worst moment than of any other.")
        guard availableBytes(plan.disk) > 4 * byteCount else {
            section.missing.append("the disk has too little room")
            return section
        }
        for round in 0..<plan.rounds {
            say("maintenance: round \(round + 1)")
            try collect(byteCount, keeping: false)
            try collect(byteCount, keeping: true)
        }
        section.rows = comparison.rows
        return section
    }

    /// - Parameter keeping: every other block stays, so that all packs are written anew.
    private mutating func collect(_ byteCount: Int, keeping: Bool) throws {
        let bench = try BenchStore(plan.disk + "/maintenance")
        let total = keeping ? 2 * byteCount : byteCount
        let shape = Shape(blocks: total / blockSize, requestBlocks: BlockSource.span, threads: Plan.cores)
        let gone = try bench.create("gone", blocks: shape.blocks)
        _ = try run(.write(generation: 1), on: gone, shape)
        if keeping {
            let disk = try bench.open("gone")
            _ = try run(.zero, on: disk, Shape(blocks: shape.blocks, requestBlocks: 1, spacing: 2, together: 32))
        } else {
            try bench.store.delete(try bench.store.lock("gone"))
        }
        let disk = try bench.createWarm("a", blocks: 1 << 14, rest: plan.rest)
        let alone = try writes(to: disk) { $0 >= (plan.isShort ? 100 : 1000) }
        let isDone = Atomic(false)
        let store = bench.store
        let collecting = try System.Thread("collect") {
            do { _ = try store.collect(shouldStop: { false }) { _, _ in } } catch { say("maintenance: \(error)") }
            isDone.store(true, ordering: .releasing)
        }
        let began = seconds()
        let beside = try writes(to: disk) { _ in isDone.load(ordering: .acquiring) }
        let took = seconds() - began
        collecting.join()
        try disk.close()
        let what = keeping ? "half of each pack dead" : "a disk deleted"
        comparison.add("\(what): longest, alone", Double(alone.max) / 1e9, .seconds, latencies: alone)
        comparison.add("\(what): longest, beside it", Double(beside.max) / 1e9, .seconds, goal: .stall, latencies: beside)
        comparison.add("\(what): the collection", Double(byteCount) / took, .bytesPerSecond)
    }

    /// Writes single blocks, each with a flush, until it is over.
    private func writes(to disk: BenchDisk, isOver: (Int) -> Bool) throws -> Histogram<UInt64> {
        var latencies = Histogram<UInt64>.ofLatencies()
        var source = BlockSource()
        var count = 0
        while !isOver(count) {
            let place = source.prepare(UInt64(1 << 41 + count), count: 1)
            let start = nanoseconds()
            try disk.write(at: UInt64(count % (1 << 14) * sectorsPerBlock), source.bytes.rawBytes.extracting(place))
            try disk.flush()
            latencies.record(nanoseconds() - start)
            count += 1
        }
        return latencies
    }
}
