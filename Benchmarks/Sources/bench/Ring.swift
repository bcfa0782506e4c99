import BlockModel
import Glibc
import Store
import System

/// The whole way of a guest's request but for the hypervisor: a guest in this process, the backend in another.
struct Ring {
    let plan: Plan
    let limits: Limits
    private var comparison = Comparison()

    init(_ plan: Plan, _ limits: Limits) {
        self.plan = plan
        self.limits = limits
    }

    private var blocks: Int { plan.size(256 << 20, short: 4 << 20) / blockSize }

    mutating func section() throws -> Section {
        var section = Section(
            name: "ring", title: "Through a ring, between two processes",
            caveat: """
                No hypervisor: a grant copy is a memcpy and an event an eventfd, so hypercalls and interrupts are missing; the \
                guest's thread takes one of the cores. The store is in memory. A write's time ends when the disk is unplugged \
                and all of it committed.
                """)
        for round in 0..<plan.rounds {
            for requestBlocks in [1, RingGuest.largestRequest] {
                say("ring: round \(round + 1), \(sizeText(requestBlocks))")
                try measure(requestBlocks)
                try empty(requestBlocks)
            }
        }
        section.rows = comparison.rows
        return section
    }

    private mutating func measure(_ requestBlocks: Int) throws {
        let bench = try BenchStore(plan.memory + "/ring")
        for name in ["a", "b"] { try bench.store.create(name, byteCount: UInt64(blocks * blockSize)) }
        let full = Shape(blocks: blocks, requestBlocks: requestBlocks, threads: .max)
        try write("unique", isNew: true, to: "a", of: bench, full)
        try write("duplicate", isNew: false, to: "b", of: bench, full)

        let guest = try RingGuest(["--store", bench.path, "--name", "a"])
        for order in Shape.Order.allCases {
            for depth in [1, guest.depth] {
                var shape = Shape(blocks: blocks, requestBlocks: requestBlocks, order: order, threads: depth)
                shape.limit = plan.size(64 << 20, short: 2 << 20) / blockSize / requestBlocks
                let limit = try limits.coldCopy(order, requestBlocks: requestBlocks)
                let run = try guest.run(.read, generation: 1, shape)
                comparison.add(
                    "read, \(order.rawValue) \(sizeText(requestBlocks)), depth \(depth)", run.rate, .bytesPerSecond, of: limit, latencies: run.latencies)
            }
        }
        if requestBlocks == 1 {
            var shape = Shape(blocks: blocks, requestBlocks: 1, order: .random)
            shape.limit = plan.size(2000, short: 100)
            let limit = try limits.overwrites(plan.memory, count: shape.limit)
            let run = try guest.run(.flushedWrite, generation: 2, shape)
            comparison.add("write 4 KiB + flush, depth 1", run.seconds / Double(shape.requests), .seconds, of: limit, latencies: run.latencies)
        }
        try guest.unplug()
    }

    private mutating func write(_ name: String, isNew: Bool, to disk: String, of bench: BenchStore, _ shape: Shape) throws {
        let limit = try limits.hash()
        let guest = try RingGuest(["--store", bench.path, "--name", disk])
        try bench.touch(shape.byteCount, isNew: isNew)
        var result: Run?
        let spent = try time {
            result = try guest.run(.write, generation: 1, shape)
            try guest.unplug()
        }
        comparison.add(
            "\(name), sequential \(sizeText(shape.requestBlocks)), depth \(guest.depth)", Double(shape.byteCount) / spent, .bytesPerSecond,
            of: limit, latencies: result?.latencies)
    }

    /// What the ring alone allows: a disk that forgets.
    private mutating func empty(_ requestBlocks: Int) throws {
        let guest = try RingGuest(["--discard", "\(blocks * blockSize)"])
        for depth in [1, guest.depth] {
            var shape = Shape(blocks: blocks, requestBlocks: requestBlocks, threads: depth)
            shape.limit = plan.size(64 << 20, short: 2 << 20) / blockSize / requestBlocks
            let run = try guest.run(.write, generation: 1, shape)
            let limit = try limits.anonymousCopy()
            comparison.add(
                "a disk that forgets, \(sizeText(requestBlocks)), depth \(depth)", run.rate, .bytesPerSecond, of: limit,
                remark: "what the ring alone costs", latencies: run.latencies)
        }
        try guest.unplug()
    }
}
