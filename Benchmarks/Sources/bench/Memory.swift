import BlockModel
import Glibc
import Store
import TestSupport

/// What a process that serves disks takes of the machine's memory.
struct Memory {
    let plan: Plan
    private var comparison = Comparison()

    init(_ plan: Plan) { self.plan = plan }

    /// Blobs in the store when it is measured.
    private var small: Int { plan.size(1 << 16, short: 1 << 10) }
    private var large: Int { plan.size(1 << 19, short: 1 << 12) }
    /// Until all is committed, and the committer idle.
    private var pause: UInt32 { plan.isShort ? 1 : 2 }
    private static let disks = 8

    mutating func section() throws -> Section {
        var section = Section(
            name: "memory", title: "Memory",
            caveat: "Own memory is anonymous pages. What of LMDB's files is mapped and resident is page cache: it grows with use up to the files' size, shared by all processes, and the kernel takes it back when it is short. \"A TiB\" is the growth from \(countText(small)) to \(countText(large)) blobs times the blobs in one: an extrapolation. The process measured is of this benchmark, and has Swift's Foundation mapped, which dedupdisk has not.")
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
        let disks = try DiskProcess(store: path)
        defer { disks.kill() }
        try disks.tell("attach a")
        try disks.tell("write 0 \(BlockSource.span)")
        let floor = try settled(disks, path)
        add("one disk, idle: own", floor.own)
        add("one disk, idle: all that is resident", floor.all, goal: plan.program == nil ? .memoryFloor : nil)
        for number in 1..<Self.disks { try disks.tell("attach disk\(number)") }
        add("each further disk, idle: own", (try settled(disks, path).own - floor.own) / Double(Self.disks - 1))

        try disks.tell("write \(BlockSource.span) \(small - BlockSource.span)")
        try disks.tell("read \(small)")
        let first = try settled(disks, path)
        try disks.tell("write \(small) \(large - small)")
        try disks.tell("read \(large)")
        let second = try settled(disks, path)
        add("\(countText(large)) blobs written and read: own", second.own)
        add("\(countText(large)) blobs written and read: the store's files, mapped", second.database)
        let blobs = Double(large - small)
        let perBlob = (second.own + second.tables - first.own - first.tables) / blobs
        comparison.add("a million blobs: own, and tables of the store", perBlob * 1e6, .bytes)
        comparison.add("a TiB of unique data: the same", perBlob * 0x1p40 / Double(blockSize), .bytes, goal: .memory, remark: "extrapolated")
        try disks.end()

        let again = try DiskProcess(store: path)
        defer { again.kill() }
        try again.tell("attach a")
        add("one disk, idle, of \(countText(large)) blobs, opened anew: own", try settled(again, path).own)
        try again.end()
        try serve(path)
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
