import BlockModel
import Glibc
import System
import TestSupport

/// This server of virtual disks and others, each asked the same by the same client: fio, over NBD on a UNIX socket.
struct Peers {
    let plan: Plan
    private var comparison = Comparison()

    init(_ plan: Plan) { self.plan = plan }

    /// Bytes of each part of the disk: one to be read, and for each round one for unique blocks and one for their duplicates.
    private var part: Int { plan.size(512 << 20, short: 8 << 20) }

    mutating func section() throws -> Section {
        var section = Section(
            name: "peers", title: "Over NBD, beside other servers",
            caveat: """
                "+ flush" is one flush, at the end. Client and server share the cores, and fio makes the content of each write: \
                both take from every server alike. One connection. Reads come from the page cache; the raw files, the qcow2 \
                image and the store are on one disk. Each round writes to parts of the disk of its own, so that all take new blocks \
                of their filesystem, which on some virtual disks cost several times as much as those that were written before.
                """)
        guard let fio = find("fio"), try Child(fio, ["--enghelp"]).wait().text.contains("\tnbd\n") else {
            section.missing.append("fio with its NBD engine (Debian: fio)")
            return section
        }
        say("peers: preparing")
        let image = plan.disk + "/image"
        defer { removeAll(image) }
        try ImageFile.write(image, blocks: part / blockSize, size: (1 + 2 * plan.rounds) * part)
        var servers: [NBDServer] = []
        for kind in plan.isAlone ? [.dedupdisk] : NBDServer.Kind.allCases {
            do {
                servers.append(try NBDServer(kind, image, plan))
            } catch {
                section.missing.append("\(kind.rawValue): \(error)")
            }
        }
        guard let limit = servers.first, plan.isAlone || limit.kind == .nbdkit else { return section }
        // Else the first figures would have in them what making the disks has left to be written back.
        sync()
        for round in 0..<plan.rounds {
            for pattern in Pattern.all(plan, part: part, round: round) {
                say("peers: round \(round + 1), \(pattern.name)")
                for _ in 0..<pattern.turns(plan) {
                    let base = try pattern.run(limit, plan)
                    add(pattern, limit, base, of: nil)
                    for server in servers.dropFirst() { add(pattern, server, try pattern.run(server, plan), of: (limit.kind.rawValue, base.value)) }
                }
            }
        }
        section.rows = comparison.rows
        return section
    }

    private mutating func add(_ pattern: Pattern, _ server: NBDServer, _ result: Fio, of limit: (name: String, value: Double)?) {
        comparison.add(
            "\(pattern.name): \(server.kind.rawValue)", result.value, pattern.unit, of: limit,
            goal: server.kind == .dedupdisk ? pattern.goal : nil, remark: pattern.unit == .seconds ? "p99 of the flush alone" : nil, latency: result.latency)
    }
}

/// What fio does.
private struct Pattern {
    let name: String
    let arguments: [String]
    let unit: Unit
    let goal: Goal
    private var isReading: Bool { name.hasPrefix("read") }

    /// How often the servers take turns in a round. Two processes that wake each other on a virtual machine's processors may do so
    /// at half the speed for a second, or at twice: many short turns tell more than a long one.
    func turns(_ plan: Plan) -> Int { isReading ? plan.turns : 1 }

    /// - Parameter part: bytes of a part of the disk.
    static func all(_ plan: Plan, part: Int, round: Int) -> [Pattern] {
        let length = plan.isShort ? ["--size=\(part / 4)"] : ["--size=\(part)", "--time_based", "--runtime=1"]
        func read(_ name: String, _ arguments: String..., unit: Unit = .bytesPerSecond) -> Pattern {
            Pattern(name: "read, " + name, arguments: arguments + length, unit: unit, goal: .peerReads)
        }
        // The same seed makes the same blocks, in two parts of the disk that no other round writes to.
        let first = 1 + 2 * round, second = first + 1
        func write(_ name: String, at place: Int, seed: Int, _ goal: Goal, _ arguments: String...) -> Pattern {
            let content = ["--refill_buffers=1", "--scramble_buffers=0", "--randrepeat=0", "--randseed=\(round * 10 + seed)"]
            return Pattern(
                name: name,
                arguments: arguments + content + ["--offset=\(place * part)", "--size=\(part)", "--end_fsync=1"], unit: .bytesPerSecond, goal: goal)
        }
        let small = "--io_size=\(part / 4)"
        return [
            read("sequential 1 MiB, depth 4", "--rw=read", "--bs=1M", "--iodepth=4"),
            read("sequential 64 KiB, depth 8", "--rw=read", "--bs=64k", "--iodepth=8"),
            read("random 4 KiB, depth 1", "--rw=randread", "--bs=4k", "--iodepth=1", unit: .operationsPerSecond),
            read("random 4 KiB, depth 32", "--rw=randread", "--bs=4k", "--iodepth=32", unit: .operationsPerSecond),
            write("unique + flush, sequential 1 MiB, depth 4", at: first, seed: 1, .peerUniqueWrites, "--rw=write", "--bs=1M", "--iodepth=4"),
            write("duplicate + flush, sequential 1 MiB, depth 4", at: second, seed: 1, .peerDuplicateWrites, "--rw=write", "--bs=1M", "--iodepth=4"),
            write("unique + flush, random 4 KiB, depth 32", at: first, seed: 2, .peerUniqueWrites, "--rw=randwrite", "--bs=4k", "--iodepth=32", small),
            write("duplicate + flush, random 4 KiB, depth 32", at: second, seed: 2, .peerDuplicateWrites, "--rw=randwrite", "--bs=4k", "--iodepth=32", small),
            Pattern(
                name: "write 4 KiB + flush, depth 1",
                arguments: ["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1", "--size=\(part)", "--number_ios=\(plan.size(300, short: 30))"],
                unit: .seconds, goal: .flushedWrites),
        ]
    }

    func run(_ server: NBDServer, _ plan: Plan) throws -> Fio {
        try Fio(["--ioengine=nbd", "--uri=nbd+unix:///disk?socket=\(server.socket)"] + arguments, isReading: isReading, unit, plan)
    }
}
