import BlockModel
import Catalogue
import Disk
import Store
import System

/// What snapshots and clones cost: to make and to delete them, and to read and write a disk that has some.
struct Snapshots {
    let plan: Plan
    private var comparison = Comparison()

    init(_ plan: Plan) { self.plan = plan }

    mutating func section() throws -> Section {
        var section = Section(
            name: "snapshots", title: "Snapshots and clones",
            caveat: """
                In memory: syncs cost nothing. Directly after a snapshot, a write copies the leaf of the map that it changes, which counts all \
                of its blocks once more; here each leaf is met some ten times. What is written has no block twice.
                """)
        for round in 0..<plan.rounds {
            say("snapshots: round \(round + 1)")
            try largeClone()
            for isScattered in [false, true] { try afterSnapshot(isScattered: isScattered) }
            try manySnapshots()
            try overwriting()
        }
        section.rows = comparison.rows
        return section
    }

    /// Clone and deletion of a disk with a block in each leaf.
    private mutating func largeClone() throws {
        let bench = try BenchStore(plan.memory + "/snapshots")
        let leaves = plan.size(500_000, short: 500)
        let shape = Shape(blocks: leaves * 508, requestBlocks: 1, spacing: 508, together: 32)
        let disk = try bench.create("a", blocks: shape.blocks)
        _ = try run(.write(generation: 1), on: disk, shape)
        let size = "a disk with data all over, \(leaves) leaves"
        let (cloning, _) = try timed { try bench.copy("a", to: .disk("b")) }
        comparison.add("clone of \(size)", cloning, .seconds, goal: .clone)
        let (deleting, _) = try timed { try bench.store.delete(try bench.store.lock("a")) }
        comparison.add("delete of \(size)", deleting, .seconds, goal: .delete)
        let (freeing, _) = try timed {
            try bench.store.delete(try bench.store.lock("b"))
            _ = try bench.store.collect(shouldStop: { false }) { _, _ in }
        }
        comparison.add("delete and gc of \(size)", freeing, .seconds)
    }

    /// - Parameter isScattered: the disk was written in random order, so that the blocks of a leaf lie in many packs.
    private mutating func afterSnapshot(isScattered: Bool) throws {
        let blocks = plan.size(1 << 20, short: 1 << 12), leaves = blocks / 508 + 1
        let bench = try BenchStore(plan.memory + "/snapshots")
        let layout = Shape(
            blocks: blocks, requestBlocks: isScattered ? 1 : BlockSource.span, order: isScattered ? .random : .sequential, together: isScattered ? 32 : 1)
        _ = try run(.write(generation: 1), on: bench.create("a", blocks: blocks), layout)
        let shape = Shape(blocks: blocks, requestBlocks: 1, order: .random, together: 32, limit: 10 * leaves)
        func overwrite(_ generation: UInt64) throws -> Run {
            try bench.touch(shape.byteCount)
            return try run(.write(generation: generation), on: bench.open("a"), shape)
        }
        _ = try overwrite(2)
        let without = try overwrite(3)
        _ = try bench.copy("a", to: .snapshot("a", "s"))
        let before = try bench.store.statistics().storedBytes
        let after = try overwrite(4)
        let grown = try bench.store.statistics().storedBytes
        let name = "random 4 KiB, 32 together, directly after a snapshot of a disk written in \(isScattered ? "random order" : "order")"
        comparison.add(name, after.rate, .bytesPerSecond, of: ("without a snapshot", without.rate), goal: .afterSnapshot, latencies: after.latencies)
        comparison.add("the same: what the store grows by, a block", Double(grown - min(before, grown)) / Double(shape.requests), .bytes)
    }

    /// Reads and writes of a disk with many snapshots, each with some blocks of its own.
    private mutating func manySnapshots() throws {
        let blocks = plan.size(1 << 17, short: 1 << 12), count = plan.size(1000, short: 20)
        let bench = try BenchStore(plan.memory + "/snapshots")
        let shape = Shape(blocks: blocks, requestBlocks: 1, order: .random, together: 32)
        _ = try run(.write(generation: 1), on: bench.create("a", blocks: blocks), shape)
        func measure(_ generation: UInt64) throws -> (write: Run, read: Run) {
            try bench.touch(shape.byteCount)
            let write = try run(.write(generation: generation), on: bench.open("a"), shape)
            _ = try run(.read(generation: generation), on: bench.open("a", readOnly: true), shape)
            return (write, try run(.read(generation: generation), on: bench.open("a", readOnly: true), shape))
        }
        _ = try measure(2)
        let without = try measure(3)
        let (making, _) = try timed {
            for number in 0..<count {
                let disk = try bench.open("a")
                var source = BlockSource()
                let place = source.prepare(UInt64(1 << 42 + number), count: 1)
                try disk.write(at: UInt64(number * 127 % blocks * sectorsPerBlock), source.bytes.rawBytes.extracting(place))
                try disk.close()
                _ = try bench.copy("a", to: .snapshot("a", "s\(number)"))
            }
        }
        comparison.add("a written block and a snapshot, of \(count)", making / Double(count), .seconds)
        // The first copies what it changes; the second is what such a disk does from then on.
        _ = try measure(4)
        let with = try measure(5)
        comparison.add(
            "write, random 4 KiB, 32 together: \(count) snapshots", with.write.rate, .bytesPerSecond, of: ("without snapshots", without.write.rate),
            goal: .manySnapshots, latencies: with.write.latencies)
        comparison.add(
            "read, random 4 KiB, 32 together: \(count) snapshots", with.read.rate, .bytesPerSecond, of: ("without snapshots", without.read.rate),
            goal: .manySnapshots, latencies: with.read.latencies)
    }

    /// A small disk is written over and over, beside maintenance, and without.
    private mutating func overwriting() throws {
        let blocks = plan.size(1 << 16, short: 1 << 10), time = plan.isShort ? 2.0 : 30
        func overwrite(isMaintained: Bool) throws -> (rate: Double, latencies: Run, stored: UInt64, referred: UInt64) {
            let bench = try BenchStore(plan.memory + "/snapshots")
            let disk = try bench.create("a", blocks: blocks)
            let maintainer = Maintainer(bench.store)
            if isMaintained { try maintainer.start() }
            defer { maintainer.stop() }
            let shape = Shape(blocks: blocks, requestBlocks: 1, order: .random, threads: Plan.cores)
            let began = seconds()
            var all: Run?, bytes = 0, generation: UInt64 = 1
            // Less than the filesystem has: without maintenance it all stays.
            while seconds() - began < time, availableBytes(plan.memory) > 4 << 30 {
                let one = try run(.write(generation: generation), on: disk, shape, closing: false)
                bytes += one.byteCount
                generation += 1
                if all == nil { all = one } else { all?.latencies.add(one.latencies) }
            }
            let took = seconds() - began
            let stored = try bench.store.storedBytes()
            try disk.close()
            guard let all else { throw Failure(.noSpace, "overwriting", .file(plan.memory), "it has too little room") }
            return (Double(bytes) / took, all, stored, UInt64(blocks * blockSize))
        }
        let without = try overwrite(isMaintained: false), with = try overwrite(isMaintained: true)
        let name = "random 4 KiB over a disk of \(Unit.bytes.text(Double(blocks * blockSize))) for \(Int(time)) s"
        comparison.add(
            "\(name), beside maintenance", with.rate, .bytesPerSecond, of: ("without", without.rate), goal: .beside, latencies: with.latencies.latencies)
        comparison.add(
            "\(name): longest request", Double(with.latencies.latencies.max) / 1e9, .seconds, of: ("without", Double(without.latencies.latencies.max) / 1e9))
        comparison.add(
            "\(name): stored, but for 512 MiB, to what is referred to", Double(with.stored - min(with.stored, 512 << 20)) / Double(with.referred), .ratio,
            goal: .bound, remark: "without maintenance: \(Unit.bytes.text(Double(without.stored)))")
    }

    private func timed<Result>(_ body: () throws -> Result) throws -> (Double, Result) {
        let began = seconds()
        let result = try Meter.counting(body)
        return (seconds() - began, result)
    }
}

extension BenchStore {
    /// Makes a snapshot or a clone of a disk that nobody has.
    func copy(_ disk: String, to name: CopyName) throws {
        let copy = try store.beginCopy()
        try store.fill([(copy.record.name, disk)])
        try store.name([(copy.record.name, name)])
    }
}

extension CopyName {
    static func snapshot(_ disk: String, _ name: String) -> CopyName {
        SnapshotName("\(disk)@\(name)").map { .snapshot($0) } ?? .disk(name)
    }
}
