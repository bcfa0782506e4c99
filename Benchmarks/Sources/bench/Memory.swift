import BlockModel
import Glibc
import Store
import System
import TestSupport

/// What a process that serves disks takes of the machine's memory.
struct Memory {
    let plan: Plan
    private var comparison = Comparison()

    init(_ plan: Plan) { self.plan = plan }

    /// Blobs in the store when it is measured.
    private var small: Int { plan.size(1 << 20, short: 1 << 10) }
    private var large: Int { plan.size(1 << 23, short: 1 << 12) }
    /// Seconds until all is committed, and the committer idle.
    private var pause: UInt32 { plan.isShort ? 1 : 2 }
    private static let disks = 8
    /// Blocks that are written before a look at the memory.
    private var work: Int { plan.size(1 << 14, short: 1 << 9) }

    mutating func section() throws -> Section {
        var section = Section(
            name: "memory", title: "Memory",
            caveat: """
                Own memory is anonymous pages. What of LMDB's files is mapped and resident is page cache: it grows with use up \
                to the files' size, shared by all processes, and the kernel takes it back when it is short. "A TiB" is own \
                memory, which is bounded, of a process that has just read all and written \(countText(work)) more, and the growth of \
                tables from \(countText(small)) to \(countText(large)) blobs times the blobs in one: an extrapolation. The process \
                measured is of this benchmark, and has Swift's Foundation mapped, which dedupdisk has not. Blocks are compressible, \
                so that many fit.
                """)
        for round in 0..<plan.rounds {
            say("memory: round \(round + 1)")
            try measure(plan.disk + "/memory-\(round)")
        }
        section.rows = comparison.rows
        if plan.program == nil { section.missing.append("dedupdisk serve: no program was named (--program)") }
        return section
    }

    private mutating func measure(_ path: String) throws {
        defer { removeAll(path) }
        let disks = try DiskProcess(store: path, compressible: true)
        defer { disks.kill() }
        try disks.tell("attach a")
        try disks.tell("write 0 \(BlockSource.span)")
        let floor = try settled(disks, path)
        add("one disk, idle: own", floor.own)
        add("one disk, idle: all that is resident", floor.all, goal: plan.program == nil ? .memoryFloor : nil)
        for number in 1..<Self.disks { try disks.tell("attach disk\(number)") }
        add("each further disk, idle: own", (try settled(disks, path).own - floor.own) / Double(Self.disks - 1))

        try disks.tell("write \(BlockSource.span) \(small - BlockSource.span)")
        try disks.end()
        let first = try atWork(path, blobs: small)
        let filling = try DiskProcess(store: path, compressible: true)
        defer { filling.kill() }
        try filling.tell("attach a")
        try filling.tell("write \(small + work) \(large - small - work)")
        try filling.end()
        let second = try atWork(path, blobs: large)
        add("\(countText(small)) blobs, all read, and some written: own", first.own)
        add("\(countText(large)) blobs, all read, and some written: own", second.own)
        add("\(countText(large)) blobs, all read, and some written: the store's files, mapped", second.database)
        let perBlob = (second.tables - first.tables) / Double(large - small)
        comparison.add("a million blobs: tables of the store", perBlob * 1e6, .bytes)
        comparison.add(
            "a TiB of unique data: own memory, and tables", second.own + perBlob * 0x1p40 / Double(blockSize), .bytes, goal: .memory,
            remark: "extrapolated")
        try serve(path)
    }

    /// Memory of a process that has read all blobs and written `work` blocks. That is the same work whatever the store's size, so that what its buffers
    /// take is in no difference between stores.
    private func atWork(_ path: String, blobs: Int) throws -> ResidentMemory {
        let process = try DiskProcess(store: path, compressible: true)
        defer { process.kill() }
        try process.tell("attach a")
        try process.tell("read \(blobs)")
        try process.tell("write \(blobs) \(work)")
        let memory = try settled(process, path)
        try process.end()
        return memory
    }

    /// The program itself.
    private mutating func serve(_ path: String) throws {
        guard let program = plan.program else { return }
        let socket = plan.memory + "/memory.socket"
        defer { removeAll(socket) }
        let server = try Child(program, ["serve", "a", "--store", path, "--socket", socket])
        defer {
            server.kill(SIGTERM)
            _ = server.wait(limit: 30)
        }
        for _ in 0..<500 where access(socket, F_OK) != 0 { usleep(10_000) }
        sleep(pause)
        let idle = try ResidentMemory(of: server.process, store: path)
        add("dedupdisk serve, idle: own", idle.own)
        add("dedupdisk serve, idle: all that is resident", idle.all, goal: .memoryFloor)
    }

    private func settled(_ disks: DiskProcess, _ path: String) throws -> ResidentMemory {
        sleep(pause)
        return try ResidentMemory(of: disks.process, store: path)
    }

    private mutating func add(_ name: String, _ bytes: Double, goal: Goal? = nil) {
        comparison.add(name, bytes, .bytes, goal: goal)
    }
}
