import BlockModel
import Disk
import FoundationEssentials
import Glibc
import Store
import System
import Testing
import TestSupport

/// Snapshots and clones, as people make and use them.
@Suite struct SnapshotTests {
    let tool: Tool

    init() throws { tool = try Tool() }

    /// Writes blocks (see `block`) to a disk that nobody has.
    private func write(_ disk: String, at first: UInt64, _ blocks: [UInt64]) throws {
        let disk = try StoreDisk(Store(path: tool.store), disk)
        try disk.write(at: first * 8, blocks.flatMap { block($0) })
        try disk.close()
    }

    private func discard(_ disk: String, at first: UInt64, _ count: UInt64) throws {
        let disk = try StoreDisk(Store(path: tool.store), disk)
        try disk.discard(#require(SectorRange(start: first * 8, count: count * 8)))
        try disk.close()
    }

    private func content(_ name: String) throws -> [UInt8] { try tool.run("export", name, "-").output }

    private func bytes(_ blocks: [UInt64]) -> [UInt8] { blocks.flatMap { block($0) } }

    /// The names that `list --snapshots` shows.
    private func names() throws -> [String] {
        try tool.succeed("list", "--snapshots").split(separator: "\n").dropFirst().compactMap { $0.split(separator: " ").first.map(String.init) }
    }

    // MARK: Making

    @Test func oneAndSeveral() throws {
        try tool.disk("d", [1, 2, 3])
        try tool.disk("e", [4])
        #expect(try tool.succeed("snapshot", "d@a") == "")
        try write("d", at: 1, [9])
        try tool.succeed("snapshot", "d@b", "e@b")
        try write("e", at: 0, [8])
        #expect(try names() == ["d", "d@a", "d@b", "e", "e@b"])
        #expect(try tool.succeed("list").contains("@") == false)
        #expect(try content("d@a") == bytes([1, 2, 3]) && content("d@b") == bytes([1, 9, 3]) && content("e@b") == bytes([4]))
        #expect(try content("d") == bytes([1, 9, 3]) && content("e") == bytes([8]))
        try tool.expectClean()
    }

    /// None of several is made when one can't be.
    @Test func whatIsRefused() throws {
        try tool.disk("d", [1])
        try tool.disk("e", [2])
        try tool.succeed("snapshot", "d@a")
        try tool.fail("snapshot", "d@a", naming: ["d@a", "there is one"])
        try tool.fail("snapshot", "e@a", "d@a", naming: ["d@a", "there is one"])
        try tool.fail("snapshot", "none@a", naming: ["disk none", "there is none"])
        try tool.fail("snapshot", "e@a", "none@a", naming: ["disk none", "there is none"])
        try tool.fail("snapshot", "e@a", "e@b", status: 64, naming: ["named twice"])
        // A snapshot has none of its own.
        try tool.fail("snapshot", "d@a@b", naming: ["there is none"])
        for name in ["d", "d@", "@a", "d@a b", "d@-a", "d@.a", "d@a/b", "d@" + String(repeating: "n", count: 256)] {
            tool.expectFailure(try tool.run("snapshot", name), status: 64, remedy: false)
        }
        #expect(try names() == ["d", "d@a", "e"])
        try tool.expectClean()
    }

    /// What is told from a snapshot by its `@`.
    @Test func namesOfDisksHaveNoAtSign() throws {
        try tool.disk("d", [1])
        try tool.succeed("snapshot", "d@a")
        for command in [
            ["create", "x@y", "--size", "1M"], ["import", tool.path("d.raw"), "x@y"], ["import", tool.path("d.raw"), "d@y"], ["clone", "d", "x@y"],
            ["clone", "d@a", "d@y"], ["rename", "d", "x@y"], ["serve", "x@y", "--size", "1M", "--socket", tool.path("s")],
        ] {
            let outcome = try tool.start(command).wait()
            tool.expectFailure(outcome, status: 64, naming: ["@"], remedy: false)
        }
        #expect(try names() == ["d", "d@a"])
    }

    @Test func clones() throws {
        try tool.disk("d", [1, 2, 0, 3])
        try tool.succeed("snapshot", "d@a")
        try write("d", at: 0, [7])
        try tool.succeed("clone", "d@a", "old")
        try tool.succeed("clone", "d", "new")
        try write("old", at: 3, [5])
        #expect(try content("old") == bytes([1, 2, 0, 5]) && content("new") == bytes([7, 2, 0, 3]) && content("d@a") == bytes([1, 2, 0, 3]))
        try tool.fail("clone", "d", "old", naming: ["disk old", "there is one"])
        try tool.fail("clone", "d@b", "x", naming: ["d@b", "there is none"])
        try tool.fail("clone", "none", "x", naming: ["disk none", "there is none"])
        // None needs what it was made of.
        try tool.succeed("delete", "d", "--recursive")
        #expect(try content("old") == bytes([1, 2, 0, 5]) && content("new") == bytes([7, 2, 0, 3]))
        #expect(try names() == ["new", "old"])
        try tool.expectClean()
    }

    // MARK: Changing

    @Test func rollingBack() throws {
        try tool.disk("d", [1, 2, 3])
        try tool.succeed("snapshot", "d@a")
        try write("d", at: 0, [9])
        try tool.succeed("resize", "d", "1M")
        try write("d", at: 200, [8])
        try tool.succeed("snapshot", "d@b")
        try tool.succeed("rollback", "d@a")
        #expect(try content("d") == bytes([1, 2, 3]))
        try tool.succeed("rollback", "d@b")
        let later = try content("d")
        #expect(later.count == 1 << 20 && later.prefix(3 * 4096) == bytes([9, 2, 3])[...] && Array(later[200 * 4096..<201 * 4096]) == block(8))
        #expect(try names() == ["d", "d@a", "d@b"])
        try tool.fail("rollback", "d@c", naming: ["d@c", "there is none"])
        try tool.fail("rollback", "none@a", naming: ["disk none", "there is none"])
        #expect(try tool.run("rollback", "d").status == 64)
        try tool.expectClean()
    }

    /// What waits in the journal goes with the rest, also when the command ends just behind its commit.
    @Test(.enabled(if: Client.areInstalled && Tool.canTrace), arguments: [false, true]) func rollingBackOverAJournal(isKilled: Bool) throws {
        try tool.disk("d", Array(1...64))
        try tool.succeed("snapshot", "d@a")
        let server = try Server(tool, ["d", "--socket", tool.path("s")])
        try Client.succeed("qemu-io", "-f", "raw", server.uri, "-c", "write -P 7 0 64k")
        server.child.kill(SIGKILL)
        _ = server.child.wait()
        if isKilled {
            // It empties the journal when all is done.
            _ = try tool.startTraced("ftruncate", 1, signal: "SIGKILL", ["rollback", "d@a"]).wait()
        } else {
            try tool.succeed("rollback", "d@a")
        }
        #expect(try content("d") == bytes(Array(1...64)))
        try write("d", at: 63, [99])
        #expect(try content("d") == bytes(Array(1...63) + [99]))
        try tool.expectClean()
    }

    @Test func renaming() throws {
        try tool.disk("d", [1])
        try tool.disk("e", [2])
        try tool.succeed("snapshot", "d@a", "e@a")
        try tool.succeed("snapshot", "d@b")
        try tool.succeed("rename", "d@a", "d@first")
        try tool.succeed("rename", "d", "new")
        #expect(try names() == ["e", "e@a", "new", "new@first", "new@b"])
        #expect(try content("new@first") == bytes([1]))
        try tool.fail("rename", "new", "e", naming: ["disk e", "there is one"])
        try tool.fail("rename", "new@b", "new@first", naming: ["new@first", "there is one"])
        try tool.fail("rename", "none", "x", naming: ["disk none", "there is none"])
        try tool.fail("rename", "new@b", "e@b", status: 64, naming: ["new@b"])
        try tool.fail("rename", "new@b", "x", status: 64, naming: ["new@b", "clone"])
        #expect(try names() == ["e", "e@a", "new", "new@first", "new@b"])
        try tool.expectClean()
    }

    @Test func deleting() throws {
        try tool.disk("d", [1, 2])
        try tool.succeed("snapshot", "d@a")
        try write("d", at: 0, [3])
        try tool.succeed("snapshot", "d@b")
        try tool.fail("delete", "d", naming: ["disk d", "2 snapshots", "--recursive"])
        #expect(try names() == ["d", "d@a", "d@b"])
        try tool.succeed("delete", "d@a")
        #expect(try content("d@b") == bytes([3, 2]))
        try tool.fail("delete", "d@a", naming: ["d@a", "there is none"])
        // A name that is mistyped is found before anything is gone.
        try tool.fail("delete", "d@b", "none", naming: ["disk none"])
        #expect(try names() == ["d", "d@b"])
        try tool.succeed("delete", "d@b", "d")
        #expect(try names() == [])
        try tool.succeed("gc")
        let check = try tool.succeed("check")
        #expect(check == "0 disks, 0 mapped blocks, 0 blobs in 0 packs: no damage\n")
    }

    // MARK: Telling

    private struct Listed: Decodable, Equatable {
        let name: String
        let size, mappedBytes, created: UInt64
        let snapshots: [Listed]?
    }

    @Test func listing() throws {
        try tool.disk("d", [1, 0, 2])
        try tool.disk("e", [1])
        try tool.succeed("snapshot", "d@z")
        try tool.succeed("snapshot", "d@a")
        try tool.succeed("resize", "d", "1M")
        let found = try JSONDecoder().decode([Listed].self, from: Data(tool.start(["list", "--snapshots", "--json"]).wait().output))
        #expect(found.map(\.name) == ["d", "e"] && found.map(\.size) == [1 << 20, 4096] && found.map(\.mappedBytes) == [8192, 4096])
        // The oldest first, whatever they are called.
        #expect(found[0].snapshots?.map(\.name) == ["d@z", "d@a"] && found[0].snapshots?.map(\.size) == [12288, 12288] && found[1].snapshots == [])
        let now = UInt64(time(nil))
        #expect(found.flatMap { [$0] + ($0.snapshots ?? []) }.allSatisfy { (now - 600...now).contains($0.created) })
        let plain = try JSONDecoder().decode([Listed].self, from: Data(tool.start(["list", "--json"]).wait().output))
        #expect(plain.map(\.name) == ["d", "e"] && plain.allSatisfy { $0.snapshots == nil })
        #expect(try tool.succeed("list", "d", "--snapshots").split(separator: "\n").count == 4)
        #expect(try tool.succeed("list", "d@z").contains("d@z"))
        try tool.fail("list", "d@x", naming: ["d@x", "there is none"])
    }

    private struct Told: Decodable {
        struct Disk: Decodable {
            let name: String
            let size, mappedBytes, exclusiveBytes: UInt64
            let attached: Bool
            let snapshots: [Disk]
        }
        let format: Int
        let store: String
        let provisionedBytes, mappedBytes, uniqueBytes, storedBytes, snapshotBytes, reclaimableBytes: UInt64
        let dedupRatio: Double
        let disks: [Disk]
    }

    private func told(_ arguments: String...) throws -> Told {
        try JSONDecoder().decode(Told.self, from: Data(tool.start(["stats", "--json"] + arguments).wait().output))
    }

    @Test func statistics() throws {
        try tool.disk("d", [1, 2, 3, 4])
        try tool.succeed("snapshot", "d@a")
        try write("d", at: 0, [5])
        try tool.succeed("snapshot", "d@b")
        try write("d", at: 1, [6])
        try tool.succeed("clone", "d@a", "c")
        var found = try told()
        // d: 5 6 3 4; d@a and c: 1 2 3 4; d@b: 5 2 3 4.
        #expect(found.format == 1 && found.provisionedBytes == 2 * 16384 && found.mappedBytes == 8 * 4096 && found.snapshotBytes == 8 * 4096)
        #expect(found.uniqueBytes == 6 * 4096 && found.reclaimableBytes == 0)
        // Of disks alone, 1 2 3 4 5 6.
        #expect(found.dedupRatio == 8.0 / 6.0)
        #expect(found.disks.map(\.name) == ["c", "d"] && found.disks.map(\.exclusiveBytes) == [0, 2 * 4096])
        #expect(found.disks[1].snapshots.map(\.name) == ["d@a", "d@b"] && found.disks[1].snapshots.map(\.exclusiveBytes) == [0, 0])
        #expect(found.disks[1].snapshots.allSatisfy { $0.size == 16384 && $0.mappedBytes == 16384 && !$0.attached && $0.snapshots.isEmpty })
        try tool.succeed("delete", "c")
        found = try told()
        // 1 is d@a's alone; 2 is both snapshots'.
        #expect(found.disks[0].exclusiveBytes == 6 * 4096 && found.disks[0].snapshots.map(\.exclusiveBytes) == [4096, 0])
        #expect(found.uniqueBytes == 6 * 4096 && found.dedupRatio == 1 && found.mappedBytes == 4 * 4096)
        #expect(try told("d").disks.map(\.name) == ["d"] && told("d@b").disks.map(\.name) == ["d@b"])
        try tool.succeed("delete", "d@a", "d@b")
        found = try told()
        #expect(found.uniqueBytes == 4 * 4096 && found.snapshotBytes == 0 && found.reclaimableBytes == 2 * 4096)
        try tool.succeed("gc")
        #expect(try told().reclaimableBytes == 0)
        try tool.expectClean()
    }

    @Test func differences() throws {
        try tool.disk("d", Array(1...20))
        try tool.succeed("snapshot", "d@a")
        #expect(try tool.succeed("diff", "d@a") == "")
        try write("d", at: 2, [30, 31])
        try write("d", at: 7, [8])
        try discard("d", at: 4, 2)
        try tool.succeed("resize", "d", "\(40 * 4096)")
        try write("d", at: 30, [32])
        #expect(try tool.succeed("diff", "d@a") == "8192 8192 data\n16384 8192 hole\n\(30 * 4096) 4096 data\n")
        let json = #"{"offset":8192,"length":8192,"type":"data"}"# + "\n" + #"{"offset":16384,"length":8192,"type":"hole"}"# + "\n"
        #expect(try tool.succeed("diff", "d@a", "d", "--json") == json + #"{"offset":122880,"length":4096,"type":"data"}"# + "\n")
        try tool.succeed("snapshot", "d@b")
        #expect(try tool.succeed("diff", "d@a", "d@b") == tool.succeed("diff", "d@a"))
        // As far as the second one reaches, which is smaller here.
        #expect(try tool.succeed("diff", "d@b", "d@a") == "8192 16384 data\n")
        // Of a last block, what is the disk's.
        try tool.succeed("resize", "d", "\(2 * 4096 + 512)", "--discard-data")
        #expect(try tool.succeed("diff", "d@b") == "8192 512 data\n")
        try tool.disk("other", [1, 2, 9])
        #expect(try tool.succeed("diff", "d@a", "other") == "8192 4096 data\n")
        try tool.fail("diff", "d@c", naming: ["d@c", "there is none"])
        #expect(try tool.run("diff", "d").status == 64)
        try tool.expectClean()
    }

    /// Exactly what a comparison of two images shows.
    @Test(arguments: [1 as UInt64, 2, 3]) func differencesAreThoseOfTheImages(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        try tool.succeed("create", "d", "--size", "6M")
        for name in ["a", "b"] {
            for _ in 0..<8 {
                let first = UInt64.random(in: 0..<1500, using: &random)
                if Bool.random(using: &random) {
                    try write("d", at: first, (0..<Int.random(in: 1...30, using: &random)).map { _ in .random(in: 0...5, using: &random) })
                } else {
                    try discard("d", at: first, .random(in: 1...30, using: &random))
                }
            }
            try tool.succeed("snapshot", "d@\(name)")
        }
        let old = try content("d@a"), new = try content("d@b")
        var found: Set<Int> = []
        for line in try tool.succeed("diff", "d@a", "d@b").split(separator: "\n") {
            let words = line.split(separator: " ")
            let offset = try #require(Int(words[0])), length = try #require(Int(words[1]))
            for block in offset / 4096..<(offset + length) / 4096 {
                #expect(found.insert(block).inserted)
                let isZero = new[block * 4096..<(block + 1) * 4096].allSatisfy { $0 == 0 }
                #expect(isZero == (words[2] == "hole"), "seed \(seed), block \(block)")
            }
        }
        let different = Set((0..<old.count / 4096).filter { old[$0 * 4096..<($0 + 1) * 4096] != new[$0 * 4096..<($0 + 1) * 4096] })
        #expect(found == different && !different.isEmpty, "seed \(seed)")
    }

    // MARK: Reading

    @Test func asOneReadsADisk() throws {
        let image = try tool.disk("d", [1, 2, 0, 3])
        try tool.succeed("snapshot", "d@a")
        let map = try tool.succeed("map", "d")
        try write("d", at: 0, [9])
        #expect(try content("d@a") == image && tool.succeed("map", "d@a") == map && tool.succeed("map", "d") != map)
        try tool.succeed("export", "d@a", tool.path("out"))
        #expect(try Files.bytes(tool.path("out")) == image)
        #expect(try tool.succeed("stats", "d@a").contains("d@a"))
        for command in [
            ["resize", "d@a", "1M"], ["resize", "d@a", "4096"], ["resize", "d@a", "4096", "--discard-data"], ["serve", "d@a", "--socket", tool.path("s")],
        ] {
            tool.expectFailure(try tool.start(command).wait(), naming: ["d@a"], remedy: false)
        }
        #expect(try content("d@a") == image)
    }

    @Test(.enabled(if: Client.areInstalled)) func served() throws {
        let image = try tool.disk("d", Array(1...50))
        try tool.succeed("snapshot", "d@a")
        try write("d", at: 0, [99])
        let reader = try Server(tool, ["d@a", "--read-only", "--socket", tool.path("r")])
        let writer = try Server(tool, ["d@a", "--ephemeral", "--socket", tool.path("e")])
        #expect(try Client.succeed("nbdinfo", reader.uri).contains("is_read_only: true"))
        try Client.succeed("qemu-io", "-f", "raw", writer.uri, "-c", "write -P 9 0 8192", "-c", "read -P 9 0 8192", "-c", "flush")
        // Who reads it keeps it, and its disk's name.
        for command in [["delete", "d@a"], ["delete", "d", "--recursive"], ["rename", "d", "e"], ["rename", "d@a", "d@b"]] {
            tool.expectFailure(try tool.start(command).wait(), naming: ["in use"])
        }
        #expect(try told().disks[0].snapshots.map(\.attached) == [true])
        try Client.succeed("nbdcopy", "--connections=1", reader.uri, tool.path("out"))
        #expect(try Files.bytes(tool.path("out")) == image)
        reader.end()
        writer.end()
        #expect(try content("d@a") == image)
        // Of what was written nothing is left.
        #expect(try told().uniqueBytes == 51 * 4096)
        try tool.expectClean()
    }
}
