import FoundationEssentials
import Glibc
import System
import Testing
import TestSupport

/// Raw images on their way in and out, and what the store says of them.
@Suite struct ImageTests {
    let tool: Tool

    init() throws { tool = try Tool() }

    /// Blocks of an image with all there is: duplicates, zeros, a short last block.
    static let blocks: [UInt64] = [1, 2, 0, 3, 3, 3, 0, 0, 1, 4, 5]
    static var image: [UInt8] { Array(blocks.flatMap { block($0) }.dropLast(4096 - 1536)) }

    struct Numbers: Decodable {
        struct Disk: Decodable, Equatable {
            let name: String
            let size, mappedBytes, exclusiveBytes: UInt64
            let attached: Bool
        }
        let format: Int
        let store: String
        let provisionedBytes, mappedBytes, snapshotBytes, uniqueBytes, storedBytes, reclaimableBytes: UInt64
        let dedupRatio: Double
        let disks: [Disk]
    }

    func numbers(_ arguments: String...) throws -> Numbers {
        let outcome = try tool.start(["stats", "--json"] + arguments).wait()
        #expect(outcome.status == 0 && outcome.errors == "")
        return try JSONDecoder().decode(Numbers.self, from: Data(outcome.output))
    }

    /// Bytes that the store's files occupy, as du counts.
    func occupied() throws -> UInt64 {
        let files = ["meta/data.mdb", "meta/lock.mdb", "packs/data.mdb", "packs/lock.mdb", "filter", "reserve", "lock"].map { "\(tool.store)/\($0)" }
        let outcome = try Child("/usr/bin/du", ["--block-size=1", "--total"] + files).wait()
        return try #require(outcome.text.split(separator: "\n").last.flatMap { UInt64($0.prefix { $0.isNumber }) })
    }

    @Test func statisticsAreRightToTheBlock() throws {
        try Files.write(tool.path("i"), Self.image)
        try tool.succeed("import", tool.path("i"), "a")
        var found = try numbers()
        #expect(found.format == 1)
        #expect(found.store == tool.store)
        #expect(found.provisionedBytes == UInt64(Self.image.count))
        // 8 blocks are not zeros; 5 are distinct, the last with zeros behind its end.
        #expect(found.mappedBytes == 8 * 4096)
        #expect(found.uniqueBytes == 5 * 4096)
        #expect(found.dedupRatio == 8.0 / 5.0)
        #expect(found.snapshotBytes == 0)
        #expect(found.reclaimableBytes == 0)
        let expected = Numbers.Disk(name: "a", size: UInt64(Self.image.count), mappedBytes: 32768, exclusiveBytes: 20480, attached: false)
        #expect(found.disks == [expected])
        try tool.disk("b", [1, 2, 9])
        found = try numbers()
        #expect(found.mappedBytes == 11 * 4096)
        #expect(found.uniqueBytes == 6 * 4096)
        #expect(found.dedupRatio == 11.0 / 6.0)
        #expect(found.disks.map(\.exclusiveBytes) == [3 * 4096, 4096])
        // What the kernel writes back in between may take a block more.
        #expect(try waitUntil { try numbers().storedBytes == occupied() })
        #expect(try numbers("b").disks.map(\.name) == ["b"])
        try tool.succeed("delete", "a")
        found = try numbers()
        #expect(found.mappedBytes == 3 * 4096 && found.uniqueBytes == 3 * 4096 && found.reclaimableBytes == 3 * 4096)
        try tool.succeed("delete", "b")
        found = try numbers()
        #expect(found.mappedBytes == 0 && found.uniqueBytes == 0 && found.reclaimableBytes == 6 * 4096 && found.dedupRatio == 1)
        #expect(found.disks == [] && found.provisionedBytes == 0)
        try tool.expectClean()
    }

    @Test func theNamesOfStatistics() throws {
        try tool.disk("a", [1])
        let text = try tool.succeed("stats", "--json")
        let names = text.split(separator: "\n").compactMap { line -> Substring? in
            let parts = line.split(separator: "\"")
            return line.contains("\" : ") ? parts.dropFirst().first : nil
        }
        #expect(
            Set(names) == [
                "format", "storeFormat", "fill", "store", "provisionedBytes", "mappedBytes", "snapshotBytes", "uniqueBytes", "storedBytes", "dedupRatio",
                "reclaimableBytes", "compression", "damagedBlobs", "disks", "name", "size", "exclusiveBytes", "attached", "created", "snapshots",
            ])
    }

    @Test func theFilesystemIsAsFullAsDfSays() throws {
        try tool.disk("a", [1])
        var percent = 0.0, found = 0.0
        // Others write, and remove what they have written: they may between the two looks.
        try waitUntil {
            let df = try Child("/usr/bin/env", ["bash", "-c", "df --output=pcent '\(tool.store)' | tail -n 1 | tr -dc 0-9"]).wait()
            let text = try tool.succeed("stats", "--json")
            let fill = text.split(separator: "\n").first { $0.contains("\"fill\"") }?.split(separator: " ").last.map { Double($0.filter { $0 != "," }) }
            (percent, found) = (try #require(Double(df.text)), try #require(fill.flatMap { $0 }))
            return abs(found - percent) <= 1.5
        }
        // It rounds up.
        #expect(abs(found - percent) <= 1.5)
        #expect(try tool.succeed("stats").contains("% full, ") == false && tool.succeed("stats").contains("%  full, "))
    }

    @Test func theMapIsWhatSha256sumSays() throws {
        try Files.write(tool.path("i"), Self.image)
        try tool.succeed("import", tool.path("i"), "a")
        var names: [String] = []
        var sectors: [Int] = []
        for index in Self.blocks.indices where Self.blocks[index] != 0 {
            var data = Array(Self.image[index * 4096..<min((index + 1) * 4096, Self.image.count)])
            data += [UInt8](repeating: 0, count: 4096 - data.count)
            names.append(tool.path("block\(index)"))
            try Files.write(names.last ?? "", data)
            sectors.append(index * 8)
        }
        let sums = try Child("/usr/bin/sha256sum", names).wait().text.split(separator: "\n").map { $0.prefix(64) }
        let expected = zip(sectors, sums).map { "\($0) \($1)\n" }
        #expect(try tool.succeed("map", "a") == expected.joined())
        // Bytes 8 KiB to 20 KiB: blocks 2 to 4.
        #expect(try tool.succeed("map", "a", "--offset", "8K", "--length", "12K") == expected[2...3].joined())
        #expect(try tool.succeed("map", "a", "--offset", "40K") == expected[7])
        #expect(try tool.succeed("map", "a", "--offset", "1T") == "")
        #expect(try tool.succeed("map", "a", "--json", "--length", "1") == "{\"sector\":0,\"sha256\":\"\(sums[0])\"}\n")
    }

    @Test func inAndOutAgain() throws {
        try Files.write(tool.path("i"), Self.image)
        try tool.succeed("import", tool.path("i"), "file")
        #expect(try tool.run("import", "-", "redirected", input: .file(tool.path("i"))).status == 0)
        let importer = try tool.start(["import", "-", "pipe"], input: .pipe)
        // In pieces that end nowhere in particular.
        var rest = Self.image[...]
        while !rest.isEmpty {
            importer.send(Array(rest.prefix(4321)))
            rest = rest.dropFirst(4321)
        }
        #expect(importer.wait().status == 0)
        for name in ["file", "redirected", "pipe"] {
            try tool.succeed("export", name, tool.path(name))
            #expect(try Files.bytes(tool.path(name)) == Self.image, "\(name)")
            #expect(try tool.run("export", name, "-").output == Self.image, "\(name)")
            #expect(try tool.run("export", name, "-", output: .file(tool.path("out"))).status == 0)
            #expect(try Files.bytes(tool.path("out")) == Self.image, "\(name)")
        }
        #expect(try numbers().uniqueBytes == 5 * 4096)
        try tool.expectClean()
    }

    @Test func aPipeThatEndsWithinASector() throws {
        let importer = try tool.start(["import", "-", "d"], input: .pipe)
        importer.send(Array(block(1).prefix(700)))
        #expect(importer.wait().status == 0)
        #expect(try tool.run("export", "d", "-").output == Array(block(1).prefix(700)) + [UInt8](repeating: 0, count: 1024 - 700))
    }

    @Test func holesStayHoles() throws {
        let size: UInt64 = 5 << 30
        let image = try File(path: tool.path("i"), options: [.write, .create])
        try image.truncate(to: size)
        let places: [UInt64] = [0, 1 << 30, (3 << 30) + 4096 * 7, size - 4096]
        for (index, place) in places.enumerated() { try image.write(at: place, block(UInt64(index + 1)).rawBytes) }
        try tool.succeed("import", tool.path("i"), "d")
        #expect(try numbers().mappedBytes == 4 * 4096)
        try tool.succeed("export", "d", tool.path("out"))
        let out = try File(path: tool.path("out"))
        #expect(try out.size() == size)
        #expect(try out.allocatedBytes() <= 64 << 10)
        let same = try Child("/usr/bin/cmp", ["-n", "\(64 << 20)", tool.path("i"), tool.path("out")]).wait()
        #expect(same.status == 0, "\(same)")
        for (index, place) in places.enumerated() {
            var bytes = [UInt8](repeating: 0, count: 4096)
            _ = try bytes.withMutableBytes { (span) throws(Failure) in try out.read(at: place, into: &span) }
            #expect(bytes == block(UInt64(index + 1)))
        }
    }

    @Test func exportReplacesAFileAsAWhole() throws {
        let bytes = try tool.disk("d", [1, 0, 2])
        try Files.write(tool.path("out"), [UInt8](repeating: 9, count: 100_000))
        try tool.succeed("export", "d", tool.path("out"))
        #expect(try Files.bytes(tool.path("out")) == bytes)
    }

    @Test func listsAndTheStoresName() throws {
        try tool.succeed("create", "small", "--size", "1M")
        try tool.disk("big", [1, 2, 3])
        #expect(try tool.succeed("list") == "NAME       SIZE    MAPPED\nbig    12.0 KiB  12.0 KiB\nsmall  1.00 MiB       0 B\n")
        // The option is stronger than the variable; trailing slashes mean nothing.
        #expect(try tool.run("list", "--store", tool.path("none")).status == 1)
        let child = try Child(tool.executable, ["list", "--store", tool.store + "//"])
        #expect(child.wait().status == 0)
        #expect(try tool.succeed("stats").hasPrefix("dedup ratio  1.00\n"))
    }

    @Test func checkCountsWhatThereIs() throws {
        try tool.disk("d", [1])
        #expect(try tool.succeed("check") == "1 disk, 1 mapped block, 1 blob in 1 pack: no damage\n")
        try tool.disk("e", [1, 2, 3])
        #expect(try tool.succeed("check").hasPrefix("2 disks, 4 mapped blocks, 3 blobs in "))
    }
}

@Suite struct OutputTests {
    /// head(1) has seen enough: export notices, and ends.
    @Test func aReaderThatGoesAwayEndsAnExport() throws {
        let tool = try Tool()
        try tool.disk("d", Array(1...2000))
        let outcome = try Child(
            "/bin/bash",
            [
                "-c", "timeout 300 \"$0\" export --store \"$1\" d - | head -c 100 | cmp -n 100 - \"$2\"; echo ${PIPESTATUS[0]}",
                tool.executable, tool.store, tool.path("d.raw"),
            ]
        ).wait()
        // 124 would be timeout's word that it had to be ended.
        #expect(outcome.text.hasSuffix("141\n"), "\(outcome)")
    }
}
