import FoundationEssentials
import Glibc
import Store
import System
import Testing
import TestSupport

/// Copies of disks that are served, and commands and servers that end in the middle.
@Suite(.enabled(if: Client.areInstalled, "needs the packages libnbd-bin, qemu-utils and fio")) struct SnapshotInUseTests {
    let tool: Tool

    init() throws { tool = try Tool() }

    private func content(_ name: String) throws -> [UInt8] { try tool.run("export", name, "-").output }

    private func write(_ server: Server, _ pattern: Int, at offset: Int, _ count: Int) throws {
        try Client.succeed("qemu-io", "-f", "raw", server.uri, "-c", "write -P \(pattern) \(offset) \(count)")
    }

    private func bytes(_ parts: (UInt8, Int)...) -> [UInt8] { parts.flatMap { [UInt8](repeating: $0.0, count: $0.1) } }

    private var journals: Int {
        get throws { try File.names(inDirectory: tool.store + "/journals").count { UInt64($0) != nil } }
    }

    /// What was answered is in it, though nothing was flushed.
    @Test func whatWasAnsweredIsThere() throws {
        let server = try Server(tool, ["d", "--size", "64K", "--socket", tool.path("s")])
        let other = try Server(tool, ["e", "--size", "64K", "--socket", tool.path("o")])
        try write(server, 1, at: 0, 65536)
        try write(other, 5, at: 0, 65536)
        try tool.succeed("snapshot", "d@a")
        try write(server, 2, at: 0, 4096)
        try tool.succeed("snapshot", "d@b", "e@b")
        try write(server, 3, at: 4096, 4096)
        try tool.succeed("clone", "d", "c")
        #expect(try content("d") == bytes((2, 4096), (3, 4096), (1, 57344)))
        #expect(try tool.succeed("map", "d").split(separator: "\n").count == 16)
        #expect(try tool.succeed("diff", "d@b") == "4096 4096 data\n" && tool.succeed("diff", "d@a") == "0 8192 data\n")
        try write(server, 4, at: 8192, 4096)
        #expect(try content("d@a") == bytes((1, 65536)) && content("d@b") == bytes((2, 4096), (1, 61440)) && content("e@b") == bytes((5, 65536)))
        #expect(try content("c") == bytes((2, 4096), (3, 4096), (1, 57344)))
        // What is written to a copy of it stays there.
        let copy = try Server(tool, ["d", "--ephemeral", "--socket", tool.path("c")])
        try write(copy, 7, at: 0, 65536)
        copy.end()
        for command in [
            ["rollback", "d@a"], ["rename", "d", "x"], ["delete", "d", "--recursive"], ["delete", "d"], ["resize", "d", "32K", "--discard-data"],
        ] {
            tool.expectFailure(try tool.start(command).wait(), naming: ["disk d", "in use"])
        }
        server.end()
        other.end()
        #expect(try content("d") == bytes((2, 4096), (3, 4096), (4, 4096), (1, 53248)))
        try tool.expectClean()
    }

    /// Who only looks is told what a server does.
    @Test func figuresOfAServer() throws {
        let server = try Server(tool, ["d", "--size", "64K", "--socket", tool.path("s")])
        try write(server, 1, at: 0, 65536)
        try Client.succeed("qemu-io", "-f", "raw", server.uri, "-c", "read 0 4096", "-c", "read 4096 8192", "-c", "flush", "-c", "discard 0 4096")
        // It notes what it has answered, and has a second to say so.
        var found: LiveReport.Live?
        try waitUntil {
            let text = try tool.succeed("stats", "d", "--json")
            found = try JSONDecoder().decode(LiveReport.self, from: Data(text.utf8)).disks.first?.live
            return found.map { $0.queueDepth == 0 && $0.discard.requests > 0 && $0.flush.requests > 0 } ?? false
        }
        let live = try #require(found)
        #expect(live.write.requests == 1 && live.write.bytes == 65536)
        #expect(live.read.requests == 2 && live.read.bytes == 12288)
        #expect(live.discard.requests == 1 && live.flush.requests >= 1)
        #expect(live.queueDepth == 0 && live.seconds > 0)
        let p50 = try #require(live.read.p50), longest = try #require(live.read.max)
        #expect(p50 > 0 && p50 <= longest && longest < 60)
        var words = ""
        try waitUntil {
            words = try tool.succeed("stats")
            return words.contains("SERVED")
        }
        #expect(words.contains("SERVED") && words.contains("64.0 KiB"), "\(words)")
        server.end()
        #expect(try !tool.succeed("stats").contains("SERVED") && !tool.succeed("stats", "--json").contains("\"live\""))
    }

    /// Many while a client writes as fast as it can: each block is of one write, and none is older than one that was answered before the last.
    @Test func underLoad() throws {
        let server = try Server(tool, ["d", "--size", "8M", "--socket", tool.path("s")])
        let load = try Child(
            "/usr/bin/fio",
            [
                "--name=load", "--ioengine=nbd", "--uri=\(server.uri)", "--rw=randwrite", "--bs=4k", "--iodepth=16", "--time_based", "--runtime=60",
                "--size=8M",
            ])
        for round in 0..<3 {
            try tool.succeed("snapshot", "d@\(round)")
            try tool.succeed("clone", "d", "c\(round)")
            #expect(try tool.run("check").status == 0)
        }
        let first = try content("d@0")
        load.kill(SIGTERM)
        _ = load.wait()
        server.end(telling: true)
        #expect(try content("d@0") == first)
        try tool.expectClean()
    }

    /// A server that is stopped is named, soon.
    @Test func aServerThatIsStopped() throws {
        let server = try Server(tool, ["d", "--size", "64K", "--socket", tool.path("s")])
        try write(server, 1, at: 0, 65536)
        server.child.kill(SIGSTOP)
        for command in [["snapshot", "d@a"], ["clone", "d", "c"], ["export", "d", "-"]] {
            let began = monotonicSeconds()
            let outcome = try tool.start(command).wait()
            tool.expectFailure(outcome, naming: ["disk d", "process \(server.child.process) ", "kill -CONT \(server.child.process)"])
            // It is given two seconds. One that answered, and then did nothing, would be given thirty.
            #expect(monotonicSeconds() - began < 25, "\(command)")
        }
        server.child.kill(SIGCONT)
        try tool.succeed("snapshot", "d@a")
        #expect(try content("d@a") == bytes((1, 65536)))
        server.end()
        try tool.succeed("gc")
        #expect(try journals == 2)
        try tool.expectClean()
    }

    /// Of one that is killed, the journal is in it.
    @Test func aServerThatIsKilled() throws {
        for command in [["snapshot", "d@a"], ["clone", "d", "c"]] {
            let server = try Server(tool, ["d", "--size", "64K", "--socket", tool.path("s")])
            try write(server, 1, at: 0, 65536)
            try write(server, command.count, at: 512, 1024)
            server.child.kill(SIGKILL)
            _ = server.child.wait()
            #expect(try tool.start(command).wait().status == 0)
            #expect(try content(command.last ?? "") == bytes((1, 512), (UInt8(command.count), 1024), (1, 64000)))
        }
        try tool.expectClean()
    }

    /// At whatever sync a command is killed, it has made all of its snapshots, or none; and the next command that cleans up leaves nothing else.
    @Test(.enabled(if: Tool.canTrace), arguments: [false, true]) func aCommandThatIsKilled(isServed: Bool) throws {
        try tool.succeed("create", "d", "--size", "64K")
        try tool.succeed("create", "e", "--size", "64K")
        let server = try isServed ? Server(tool, ["d", "--socket", tool.path("s")]) : nil
        var made = 0, kills = 0
        for number in 1...40 {
            if let server { try write(server, number, at: 0, 4096) }
            let outcome = try tool.startTraced("fdatasync", number, signal: "SIGKILL", ["snapshot", "d@\(number)", "e@\(number)"]).wait()
            let store = try Store(path: tool.store)
            let found = try store.snapshots().map(\.name).filter { $0.hasSuffix("@\(number)") }
            #expect(found.isEmpty || found == ["d@\(number)", "e@\(number)"])
            if found.isEmpty { #expect(outcome.status != 0) } else { made += 1 }
            if outcome.status != 0 { kills += 1 }
            try tool.succeed("gc")
            let snapshots = try store.snapshots().count
            #expect(try journals == 2 + snapshots)
            #expect(try tool.succeed("check").hasPrefix("2 disks, \(snapshots > 0 ? "\(snapshots) snapshot" : "")"))
            if outcome.status == 0 { break }
        }
        #expect(kills > 3 && made > 0)
        server?.end(telling: true)
        try tool.expectClean()
    }
}

/// What `stats --json` says of disks that are served.
private struct LiveReport: Decodable {
    struct Disk: Decodable { let live: Live? }
    struct Live: Decodable {
        let read, write, discard, flush: Requests
        let queueDepth: Int
        let seconds: Double
    }
    struct Requests: Decodable {
        let requests, bytes: UInt64
        let p50, max: Double?
    }
    let disks: [Disk]
}
