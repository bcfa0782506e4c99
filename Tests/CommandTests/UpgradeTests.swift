import BlockModel
import Glibc
import OldStores
import System
import Testing
import TestSupport

/// Stores of format 3, and the first program of today that opens them.
@Suite struct UpgradeTests {
    let tool: Tool
    let old: StoreOfFormat3

    init() throws {
        tool = try Tool()
        old = try StoreOfFormat3.sample()
    }

    private func make(_ name: String = "store") throws -> Tool {
        var tool = tool
        tool.store = tool.path(name)
        try old.write(to: tool.store, locks: tool.path(name + ".locks"))
        return tool
    }

    /// All disks read as they did, journals taken in.
    static func expectContents(_ tool: Tool, _ old: StoreOfFormat3, location: SourceLocation = #_sourceLocation) throws {
        for disk in old.disks where !disk.isIncomplete && disk.byteCount < 1 << 30 {
            let outcome = try tool.run("export", disk.name, "-")
            #expect(outcome.status == 0 && outcome.output == old.contents(disk.name), "\(disk.name): \(outcome.errors)", sourceLocation: location)
        }
    }

    @Test func theFirstCommandUpgrades() throws {
        let tool = try make()
        let outcome = try tool.run("list")
        #expect(outcome.status == 0, "\(outcome)")
        let lines = outcome.errorLines
        #expect(lines.count == 2 && lines[0].contains("its format is 3, and becomes 4") && lines[1].contains("its format is 4 now"), "\(lines)")
        #expect(try tool.succeed("list").split(separator: "\n").count == 7)
        try Self.expectContents(tool, old)
        try tool.expectClean()
        // A name with what separates a snapshot's today.
        try tool.succeed("rename", "old@name", "new-name")
        #expect(try tool.run("export", "new-name", "-").output == old.contents("old@name"))
        try tool.succeed("delete", "full")
        try tool.succeed("gc")
        try tool.expectClean()
    }

    /// Killed at each call that writes, it is gone on with by the next command; nothing is lost, and no old program takes it for its own.
    @Test(.enabled(if: Tool.canTrace), arguments: ["fdatasync", "pwrite64", "writev", "unlink", "fallocate", "ftruncate", "msync"])
    func killedAtACall(_ call: String) throws {
        var rounds = 0
        for number in 1...100 {
            let tool = try make("\(call)\(number)")
            let outcome = try tool.startTraced(call, number, signal: "SIGKILL", ["list"]).wait()
            if outcome.status == 0 { break }
            rounds += 1
            let list = try tool.run("list")
            #expect(list.status == 0 && list.text.split(separator: "\n").count == 7, "\(call) \(number): \(list)")
            try tool.expectClean()
            try Self.expectContents(tool, old)
            for path in [tool.meta, tool.packs] { unsafe unlink(path) }
        }
        #expect(rounds < 100)
        // Those of its commits are seen.
        if call == "fdatasync" { #expect(rounds >= 8) }
    }

    // MARK: Others

    /// LMDB's own lock, as a program has it that knows no other (mdb.c, `mdb_env_share_locks`).
    @Test(arguments: ["meta", "packs"]) func aProgramThatHasItOpen(_ part: String) throws {
        let tool = try make()
        let before = try Files.bytes(tool.packs)
        let descriptor = unsafe open("\(tool.store)/\(part)/lock.mdb", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        defer { close(descriptor) }
        var lock = flock(l_type: Int16(F_RDLCK), l_whence: Int16(SEEK_SET), l_start: 0, l_len: 1, l_pid: 0)
        #expect(unsafe fcntl(descriptor, F_SETLK, &lock) == 0)
        for command in [["list"], ["stats"], ["create", "x", "--size", "1M"], ["check"]] {
            tool.expectFailure(try tool.start(command).wait(), naming: [part, "older version has it open"])
        }
        #expect(try Files.bytes(tool.packs) == before)
        lock.l_type = Int16(F_UNLCK)
        #expect(unsafe fcntl(descriptor, F_SETLK, &lock) == 0)
        #expect(try tool.run("list").status == 0)
        try tool.expectClean()
    }

    /// Of several that come at once, one upgrades, and the others wait.
    @Test func severalAtOnce() throws {
        let tool = try make()
        let commands = try (0..<4).map { try tool.start(["create", "new\($0)", "--size", "1M"]) }
        let outcomes = commands.map { $0.wait() }
        #expect(outcomes.allSatisfy { $0.status == 0 }, "\(outcomes)")
        #expect(outcomes.count { $0.errors.contains("its format is 4 now") } == 1, "\(outcomes.map(\.errors))")
        #expect(try tool.succeed("list").split(separator: "\n").count == 11)
        try tool.expectClean()
    }

    @Test(.enabled(if: PlacesTests.canUnshare)) func whatCanOnlyBeReadIsRefused() throws {
        let tool = try make()
        for command in ["list", "check", "export full -", "create x --size 1M", "gc"] {
            let script = "mount --bind $S $S; mount -o remount,bind,ro $S; $D \(command) --store $S"
            let outcome = try Child("/usr/bin/unshare", ["--mount", "sh", "-ec", script], environment: ["S": tool.store, "D": tool.executable]).wait()
            tool.expectFailure(outcome, naming: ["read-only"].filter { _ in ["create", "gc"].contains { command.hasPrefix($0) } })
            if !["create", "gc"].contains(where: { command.hasPrefix($0) }) {
                tool.expectFailure(outcome, naming: ["made by an older version", "any command upgrades it"])
            }
        }
        #expect(try tool.run("list").status == 0)
        try tool.expectClean()
    }
}
