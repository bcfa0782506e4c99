import Glibc
import Store
import System
import Testing
import TestSupport

/// Files of the store that belong to nobody any more.
@Suite struct LeftoverTests {
    let tool: Tool

    init() throws {
        tool = try Tool()
        try tool.disk("d", Array(1...100))
    }

    var journals: [String] { get throws { try File.names(inDirectory: tool.store + "/journals").sorted() } }

    /// What a deletion leaves that is killed before its last step: the journal of a disk that is gone.
    func leave(_ name: String) throws {
        try Files.write("\(tool.store)/journals/\(name)", [UInt8](repeating: 1, count: 1 << 20))
    }

    static let writers = [["gc"], ["create", "e", "--size", "1M"], ["delete", "d"]]

    @Test(arguments: writers) func theNextWritingCommandRemovesJournals(command: [String]) throws {
        try leave("77")
        // Not named by a number as we write them: a stranger's.
        try leave("007")
        let outcome = try tool.start(command).wait()
        #expect(outcome.status == 0, "\(outcome)")
        #expect(try !journals.contains("77") && journals.contains("007"))
        let expected = Set(try Store(path: tool.store).disks().map { "\($0.number)" } + ["007"])
        #expect(Set(try journals) == expected)
    }

    /// A server that was killed leaves its socket, of a disk that is there.
    @Test(arguments: writers) func theNextWritingCommandRemovesSockets(command: [String]) throws {
        try tool.succeed("create", "other", "--size", "1M")
        let living = try Server(tool, ["other", "--socket", tool.path("a")])
        let killed = try Server(tool, ["d", "--socket", tool.path("b")])
        killed.child.kill(SIGKILL)
        _ = killed.child.wait()
        func sockets() throws -> Int { try journals.count { $0.hasSuffix(".socket") } }
        #expect(try sockets() == 2)
        try tool.succeed("list")
        #expect(try sockets() == 2)
        let outcome = try tool.start(command).wait()
        #expect(outcome.status == 0, "\(outcome)")
        #expect(try sockets() == 1)
        // That of the living one still answers.
        try tool.succeed("snapshot", "other@s")
        living.end()
        #expect(try sockets() == 0)
    }

    /// All files count, whatever they are.
    @Test func statsCountThem() throws {
        let store = try Store(path: tool.store)
        // What the kernel writes back later may take a block more.
        #expect(try Child("/usr/bin/env", ["sync", "-f", tool.store]).wait().status == 0)
        let before = try store.storedBytes()
        try leave("77")
        try Files.write(tool.store + "/filter.new", [UInt8](repeating: 1, count: 1 << 20))
        #expect(try store.storedBytes() == before + 2 << 20)
        let du = try Child("/usr/bin/env", ["bash", "-c", "find '\(tool.store)' -type f -print0 | du --files0-from=- --block-size=1 -c | tail -n 1"]).wait()
        #expect(try du.text.hasPrefix("\(store.storedBytes())\t"), "\(du)")
    }

    /// A deletion that is killed at any time leaves nothing that the next one does not remove.
    @Test func deletionsAreKilled() throws {
        var random = SeededGenerator(seed: 2)
        for round in 0..<10 {
            try tool.disk("x", Array(1000...2500))
            let deleter = try tool.start(["delete", "x"])
            usleep(UInt32.random(in: 1_000...40_000, using: &random))
            deleter.kill(SIGKILL)
            _ = deleter.wait()
            try tool.succeed("gc")
            let known = Set(try Store(path: tool.store).disks().map { "\($0.number)" })
            #expect(Set(try journals) == known, "round \(round)")
            if try tool.run("delete", "x").status != 0 { continue }
        }
        try tool.expectClean()
    }

    /// Disks are made while others look for leftovers: no journal of theirs goes.
    @Test func besideDisksThatAreMade() throws {
        var workers: [Child] = []
        for index in 0..<30 {
            workers.append(try tool.start(index % 3 == 0 ? ["gc"] : ["create", "n\(index)", "--size", "1M"]))
            try leave("\(1000 + index)")
            if workers.count >= 4 { #expect(workers.removeFirst().wait().status == 0) }
        }
        for worker in workers { #expect(worker.wait().status == 0) }
        try tool.succeed("gc")
        let disks = try Store(path: tool.store).disks()
        #expect(disks.count == 21)
        #expect(Set(try journals) == Set(disks.map { "\($0.number)" }))
    }
}
