import Glibc
import System
import Testing
import TestSupport

/// Stores that are being made when their maker ends.
@Suite struct MakingTests {
    var tool: Tool

    init() throws {
        tool = try Tool()
        // Its parents are made as well.
        tool.store = tool.scratch.path + "/new/of/store"
    }

    /// Killed at each call that changes something, the maker leaves what the next one makes a store of.
    @Test(.enabled(if: Tool.canTrace), arguments: ["mkdir", "fsync", "fdatasync", "pwrite64", "writev", "ftruncate", "fallocate", "unlink", "fchown"])
    func killedAtACall(_ call: String) throws {
        var rounds = 0
        for number in 1...60 {
            var tool = tool
            tool.store = tool.scratch.path + "/\(call)\(number)/of/store"
            let maker = try tool.startTraced(call, number, signal: "SIGKILL", ["create", "d", "--size", "8M"])
            let outcome = maker.wait()
            if outcome.status == 0 { break }
            rounds += 1
            let list = try tool.run("list")
            if list.status != 0 { tool.expectFailure(list, naming: ["store"]) }
            // Whatever is there, it is no damage, and a disk can be made in it.
            let create = try tool.run("create", "e", "--size", "8M")
            #expect(create.status == 0, "\(call) \(number): \(create)")
            try tool.expectClean()
            #expect(unsafe access(tool.store + "/creating", F_OK) != 0)
        }
        #expect(rounds < 60)
        // Those that the making of a store does, are seen.
        if ["mkdir", "fsync", "fdatasync", "fallocate", "unlink"].contains(call) { #expect(rounds > 0) }
    }

    /// A making that was cut off may have left anything in its files.
    @Test(arguments: ["meta", "packs"]) func tornPages(_ part: String) throws {
        try tool.succeed("create", "d", "--size", "8M")
        var bytes = try Files.bytes(tool.store + "/\(part)/data.mdb")
        for index in 0..<8192 { bytes[index] = UInt8(truncatingIfNeeded: index &* 7) }
        try Files.write(tool.store + "/\(part)/data.mdb", bytes)
        // Without the mark it is a store, and nothing is made anew.
        try tool.fail("create", "e", "--size", "8M", status: 3, naming: [part])
        #expect(try Files.bytes(tool.store + "/\(part)/data.mdb") == bytes)
        try Files.write(tool.store + "/creating", [])
        try tool.fail("list", naming: ["interrupted"])
        try tool.succeed("create", "e", "--size", "8M")
        #expect(try tool.succeed("list").contains("e  "))
        try tool.expectClean()
    }

    @Test(arguments: ["meta", "packs"]) func aHalfThatIsMissingOrEmpty(_ part: String) throws {
        try tool.succeed("create", "d", "--size", "8M")
        try Files.write(tool.store + "/\(part)/data.mdb", [])
        try tool.fail("list", status: 3, naming: [part, "empty"])
        try tool.fail("create", "e", "--size", "8M", status: 3, naming: [part, "empty"])
        #expect(try Files.bytes(tool.store + "/\(part)/data.mdb").isEmpty)
        unsafe unlink(tool.store + "/\(part)/data.mdb")
        try tool.fail("create", "e", "--size", "8M", status: 3, naming: [part, "missing"])
        #expect(unsafe access(tool.store + "/\(part)/data.mdb", F_OK) != 0)
    }

    /// All that a cut of the power could take: names of directories above, too.
    @Test(.enabled(if: Tool.canTrace)) func allNamesAreDurable() throws {
        let log = tool.path("log")
        let outcome = try Child(
            "/usr/bin/strace", ["-f", "-qq", "-y", "-o", log, "-e", "trace=fsync", tool.executable, "create", "d", "--size", "8M"],
            environment: ["DEDUPDISK_STORE": tool.store]
        ).wait()
        #expect(outcome.status == 0)
        let text = String(decoding: try Files.bytes(log), as: UTF8.self)
        for directory in [
            tool.store + "/meta", tool.store + "/packs", tool.store + "/journals", tool.store, tool.path("new/of"), tool.path("new"), tool.scratch.path,
        ] {
            #expect(text.contains("<\(directory)>)"), "\(directory) in \(text)")
        }
    }

    @Test func twoMakersMakeOne() throws {
        for round in 0..<10 {
            var tool = tool
            tool.store = tool.scratch.path + "/r\(round)/store"
            let makers = try (0..<4).map { try tool.start(["create", "d\($0)", "--size", "8M"]) }
            for maker in makers { #expect(maker.wait().status == 0) }
            #expect(try tool.succeed("list").split(separator: "\n").count == 5)
            try tool.expectClean()
        }
    }
}
