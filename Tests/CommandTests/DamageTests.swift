import BlockModel
import Glibc
import Hashing
import System
import Testing
import TestSupport

/// Bytes that rot in a store's files: told in one line with exit status 3, never given out, never a crash.
@Suite struct DamageTests {
    let tool: Tool
    let bytes: [UInt8]

    init() throws {
        tool = try Tool()
        bytes = try tool.disk("d", Array(1...300) + [0, 0, 5])
    }

    static func digest(_ number: UInt64) throws -> Digest { try SHA256().digest(block(number).rawBytes) }

    static func littleEndian(_ words: UInt64...) -> [UInt8] {
        words.flatMap { word in (0..<8).map { UInt8(truncatingIfNeeded: word >> (8 * $0)) } }
    }

    /// Fails with status 3 wherever the damage shows; other outcomes may be all right, and signals never are.
    func expectNoCrash(_ command: [String], location: SourceLocation = #_sourceLocation) throws {
        let outcome = try tool.start(command).wait()
        #expect(outcome.status == 0 || outcome.status == 1 || outcome.status == 3, "\(command): \(outcome)", sourceLocation: location)
    }

    static let everyFile = ["meta", "packs"]

    @Test(arguments: everyFile) func garbageForAFile(part: String) throws {
        let path = "\(tool.store)/\(part)/data.mdb"
        var random = SeededGenerator(seed: 1)
        try Files.write(path, (0..<65536).map { _ in UInt8.random(in: 0...255, using: &random) })
        for command in ErrorTests.lookers { tool.expectFailure(try tool.start(command).wait(), status: 3, naming: [tool.store]) }
        try tool.fail("create", "x", "--size", "1M", status: 3, naming: [tool.store])
    }

    @Test(arguments: everyFile, [0, 100, 4096, 8192, 8193, 40960, -4096]) func aFileThatWasCutShort(part: String, length: Int) throws {
        let path = "\(tool.store)/\(part)/data.mdb"
        let file = try File(path: path, options: [.write])
        let size = try file.size()
        try file.truncate(to: length < 0 ? size - UInt64(-length) : UInt64(length))
        for command in ErrorTests.lookers {
            tool.expectFailure(try tool.start(command).wait(), status: 3, naming: [tool.store])
        }
        tool.expectFailure(try tool.run("create", "x", "--size", "1M"), status: 3)
    }

    @Test(arguments: [0, 8, 12, 16, 48, 100, 104]) func superblock(offset: Int) throws {
        let found = try Files.flip(tool.meta, every: Array("DEDUPDSK".utf8), skip: offset)
        #expect(found > 0)
        for command in ErrorTests.lookers { tool.expectFailure(try tool.start(command).wait(), status: 3, naming: [tool.store]) }
    }

    /// A byte of the block's stored copy; in its middle, where nothing else is.
    func damageBlob(_ number: UInt64) throws {
        #expect(try Files.flip(tool.packs, every: block(number), skip: 2000) == 1)
    }

    @Test func aBlobThatRotted() throws {
        try damageBlob(100)
        try tool.fail("export", "d", tool.path("out"), status: 3, naming: ["block 99"])
        #expect(unsafe access(tool.path("out"), F_OK) != 0, "what is not whole appeared")
        #expect(unsafe access(tool.path("out.partial"), F_OK) != 0)
        let piped = try tool.run("export", "d", "-")
        tool.expectFailure(piped, status: 3, naming: ["block 99"])
        #expect(piped.output == Array(bytes.prefix(piped.output.count)))
        let check = try tool.run("check", "--read-data")
        #expect(check.status == 3)
        #expect(check.errors.contains("disk d: 1 blocks have lost their data, the first at sector \(99 * 8)"), "\(check)")
        #expect(check.errorLines.allSatisfy { $0.hasPrefix("dedupdisk: ") })
        // What only the maps and the directories say is as it was.
        #expect(try tool.succeed("map", "d").split(separator: "\n").count == 301)
    }

    @Test(arguments: [false, true]) func theSameContentHealsIt(isChecked: Bool) throws {
        try damageBlob(100)
        // Either way the damage is known to the next command.
        if isChecked { #expect(try tool.run("check", "--read-data").status == 3) } else { #expect(try tool.run("export", "d", "-").status == 3) }
        try tool.disk("healer", Array(90...110))
        #expect(try tool.run("export", "d", "-").output == bytes)
        try tool.expectClean()
        #expect(try tool.succeed("stats", "--json").contains("\"damagedBlobs\" : 0"))
    }

    @Test func theDirectoryOfAPack() throws {
        let digest = try Self.digest(100)
        var name = [UInt8](repeating: 0, count: 32)
        try name.withMutableBytes { (span) throws(Failure) in digest.store(into: &span) }
        #expect(try Files.flip(tool.packs, every: name, skip: 20) == 1)
        let check = try tool.run("check")
        #expect(check.status == 3 && check.errors.contains("pack 1: its directory is damaged"), "\(check)")
        try tool.fail("export", "d", tool.path("out"), status: 3, naming: ["block"])
        for command in ErrorTests.lookers { try expectNoCrash(command) }
    }

    @Test(arguments: [0, 4, 6, 8, 16, 32]) func theHeaderOfAPack(offset: Int) throws {
        let found = try Files.flip(tool.packs, every: Array("PACK".utf8) + [2, 0], skip: offset)
        #expect(found >= 2)
        let check = try tool.run("check")
        #expect(check.status == 3, "\(check)")
        for command in ErrorTests.lookers + [["import", tool.path("d.raw"), "x"], ["check", "--repair"]] { try expectNoCrash(command) }
    }

    @Test func aNodeOfTheMap() throws {
        #expect(try Files.flip(tool.meta, every: Self.littleEndian(1 << 16, 1 << 16 | 1, 1 << 16 | 2), skip: 9) > 0)
        try tool.fail("export", "d", tool.path("out"), status: 3, naming: ["map node"])
        try tool.fail("map", "d", status: 3, naming: ["map node"])
        let check = try tool.run("check", "--repair")
        #expect(check.status == 3 && check.errors.contains("disk d: map node") && !check.text.contains("repaired"), "\(check)")
        try expectNoCrash(["stats"])
    }

    @Test func theDigestIndexIsMadeAnew() throws {
        // It brings all blobs into the index.
        try tool.succeed("gc")
        // 48 bits of the digest, 32 of the pack, 16 of the slot.
        let digest = try Self.digest(100)
        let entry = (0..<6).map { UInt8(truncatingIfNeeded: digest.word0 >> (56 - 8 * $0)) } + [0, 0, 0, 1, 0, 99]
        #expect(try Files.flip(tool.meta, every: entry, skip: 3) > 0)
        let check = try tool.run("check")
        #expect(check.status == 3 && check.errors.contains("digest index"), "\(check)")
        try tool.image("other", [100, 1000])
        // As after a start of the machine: the filter knows the block without a look at the index.
        #expect(unsafe unlink(tool.store + "/filter") == 0)
        tool.expectFailure(try tool.run("import", tool.path("other"), "other"), status: 3, naming: ["digest index", "check --repair"])
        #expect(try tool.run("export", "d", "-").output == bytes)
        let repair = try tool.run("check", "--repair")
        #expect(repair.status == 0 && repair.text.hasSuffix(": repaired\n"), "\(repair)")
        try tool.expectClean()
        try tool.disk("other", [100, 1000])
        // One of the two blocks was new.
        #expect(try tool.succeed("stats", "--json").contains("\"uniqueBytes\" : \(301 * 4096)"))
        try tool.expectClean()
    }

    @Test func aMissingHalf() throws {
        #expect(unsafe unlink(tool.packs) == 0)
        for command in ErrorTests.lookers { tool.expectFailure(try tool.start(command).wait(), status: 3, naming: [tool.packs, "missing"]) }
        unsafe unlink(tool.store + "/packs/lock.mdb")
        tool.expectFailure(try tool.run("create", "x", "--size", "1M"), status: 3, naming: [tool.packs, "missing"])
    }

    @Test func halvesOfTwoStores() throws {
        var other = try Tool()
        other.store = tool.path("other")
        try other.disk("d", Array(1...300))
        #expect(unsafe rename(other.packs, tool.packs) == 0)
        for command in ErrorTests.lookers { tool.expectFailure(try tool.start(command).wait(), status: 3, naming: ["another store"]) }
    }
}
