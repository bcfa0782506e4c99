import BlockModel
import Disk
import Foundation
import Store
import System
import TestSupport

/// Space that a store takes, time that a start takes, and the way back after a crash.
struct Footprint {
    let plan: Plan
    private var comparison = Comparison()

    init(_ plan: Plan) { self.plan = plan }

    private var blocks: Int { plan.size(1 << 30, short: 16 << 20) / blockSize }

    mutating func section() throws -> Section {
        var section = Section(
            name: "footprint", title: "Space, start, and the way back after a crash",
            caveat: """
                Space is what the filesystem has allocated, after a disk was closed: every file of the store, its fixed parts \
                too, and nothing was overwritten, so nothing waits for collection. Starts find the program and the store in the \
                page cache. The crash is a kill -9, not a loss of power.
                """)
        for round in 0..<plan.rounds {
            say("footprint: round \(round + 1)")
            let bench = try BenchStore(plan.disk + "/footprint")
            try space(bench)
            try spaceOfSmall(plan.disk + "/footprint-small")
            try start(bench)
            try crash(plan.disk + "/crash-\(round)")
        }
        section.rows = comparison.rows
        if plan.program == nil { section.missing.append("start of dedupdisk: no program was named (--program)") }
        return section
    }

    private mutating func space(_ bench: BenchStore) throws {
        comparison.add("an empty store", try diskUsage(bench.path), .bytes)
        let shape = Shape(blocks: blocks, requestBlocks: BlockSource.span)
        _ = try run(.write(generation: 1), on: bench.create("a", blocks: blocks), shape)
        let payload = Double(blocks * blockSize)
        let first = try bench.store.statistics()
        guard first.uniqueBytes == UInt64(blocks * blockSize) else {
            throw Failure(.damage, "statistics", "\(first.uniqueBytes) unique bytes, when \(payload) were written")
        }
        comparison.add(
            "beyond unique payload of \(Unit.bytes.text(payload))", (Double(first.storedBytes) / payload - 1) * 100, .percent, goal: .space)
        _ = try run(.write(generation: 1), on: bench.create("b", blocks: blocks), shape)
        let second = try bench.store.statistics()
        comparison.add("the same written again, of its size", Double(Int(second.storedBytes) - Int(first.storedBytes)) / payload * 100, .percent)
    }

    /// Space beyond the payload of a small store, in which what has a fixed size weighs more.
    private mutating func spaceOfSmall(_ path: String) throws {
        let bench = try BenchStore(path)
        let blocks = plan.size(128 << 20, short: 4 << 20) / blockSize
        _ = try run(.write(generation: 1), on: bench.create("a", blocks: blocks), Shape(blocks: blocks, requestBlocks: BlockSource.span))
        let payload = Double(blocks * blockSize)
        comparison.add(
            "beyond unique payload of \(Unit.bytes.text(payload))", (Double(try bench.store.statistics().storedBytes) / payload - 1) * 100, .percent,
            goal: .spaceOfSmall)
    }

    private mutating func start(_ bench: BenchStore) throws {
        comparison.add("an empty program: start to end", try median { try succeed("true", []) }, .seconds)
        guard let program = plan.program else { return }
        comparison.add("dedupdisk --version: start to end", try median { try succeed(program, ["--version"]) }, .seconds)
        comparison.add("dedupdisk list: start to end", try median { try succeed(program, ["list", "--store", bench.path]) }, .seconds)
    }

    /// Seconds that `body` takes: the median of some tries.
    private func median(_ body: () throws -> Void) throws -> Double {
        Sample(try (0..<max(3, plan.size(15, short: 3))).map { _ in try time(body) }).median
    }

    /// Kills a writer in the middle of its work; then opens, reads and writes.
    private mutating func crash(_ path: String) throws {
        defer { removeAll(path) }
        let writer = try DiskProcess(store: path)
        try writer.tell("attach a")
        try writer.tell("load", until: "loading")
        usleep(UInt32(plan.size(2_000_000, short: 300_000)))
        writer.kill()
        let journals = try diskUsage(path + "/journals")
        var target = [UInt8](repeating: 0, count: blockSize)
        let spent = try time {
            let disk = try StoreDisk(Store(path: path), "a")
            try target.withMutableBytes { (bytes) throws(Failure) in try disk.read(at: 0, into: &bytes) }
            try disk.write(at: 0, target.rawBytes)
            try disk.flush()
        }
        guard target.rawBytes.load(at: 0, as: UInt64.self) == BlockSource.word(0) else {
            throw Failure(.damage, "first block after a crash", "it is not what was written")
        }
        comparison.add(
            "kill -9 of a loaded writer: open, read, write, flush", spent, .seconds, goal: .recovery,
            remark: "replay of \(Unit.bytes.text(journals)) of journal included")
        // Disk and store are closed by now: `removeAll` may take their files.
    }
}
