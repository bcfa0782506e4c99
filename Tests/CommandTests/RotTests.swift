import Glibc
import System
import Testing
import TestSupport

/// Random bytes of a store's files change: whatever a command makes of that, it ends by itself, in words.
@Suite struct RotTests {
    /// Flips in the two files, mostly where structure is: headers of pages, the pages LMDB begins with.
    @Test(arguments: 0..<12) func noFlipIsASignal(seed: Int) throws {
        let tool = try Tool()
        try tool.disk("d", Array(1...420))
        try tool.succeed("create", "empty", "--size", "3G")
        try tool.disk("gone", Array(400...500))
        try tool.succeed("delete", "gone")
        var random = SeededGenerator(seed: UInt64(seed))
        for _ in 0..<2 {
            let path = Bool.random(using: &random) ? tool.meta : tool.packs
            let pages = try File(path: path).size() / 4096
            let page = Bool.random(using: &random) ? UInt64.random(in: 0..<min(pages, 8), using: &random) : .random(in: 0..<pages, using: &random)
            let offset = Bool.random(using: &random) ? Int.random(in: 0..<160, using: &random) : .random(in: 0..<4096, using: &random)
            try Files.flip(path, at: Int(page) * 4096 + offset, bits: UInt8.random(in: 1...255, using: &random))
            for command in [
                ["check", "--read-data"], ["stats"], ["export", "d", tool.path("out")], ["map", "d"], ["check", "--repair"],
                ["import", tool.path("gone.raw"), "x"], ["delete", "x"],
            ] {
                let outcome = try tool.start(command).wait()
                let isFine = outcome.status == 0 || outcome.status == 1 || outcome.status == 3
                #expect(isFine && !outcome.hasTimedOut, "seed \(seed), \(path), page \(page), offset \(offset): \(command): \(outcome)")
                if command.first != "check", outcome.status != 0 { expectOneLine(outcome, "seed \(seed): \(command)") }
                if command.first == "export", outcome.status == 0 {
                    #expect(try Files.bytes(tool.path("out")) == (1...420).flatMap { block(UInt64($0)) }, "seed \(seed): wrong data came out")
                }
            }
        }
    }

    /// What LMDB makes of leaves that say that their free space ends behind their records: it spoils the heap when it changes one.
    @Test func whatLMDBBelieves() throws {
        let tool = try Tool()
        try tool.disk("d", Array(1...420))
        var bytes = try Files.bytes(tool.meta)
        for page in 2..<bytes.count / 4096 {
            // mdb.c, `MDB_page`: flags at 10 (2: a leaf), the end of the free space at 14.
            let start = page * 4096
            guard bytes[start + 10] == 2, bytes[start + 11] == 0 else { continue }
            bytes.replaceSubrange(start + 14..<start + 16, with: [0xf0, 0x0f])
        }
        try Files.write(tool.meta, bytes)
        for command in [["delete", "d"], ["import", tool.path("d.raw"), "x"]] {
            let outcome = try tool.start(command).wait()
            #expect(outcome.status == 3, "\(command): \(outcome)")
            expectOneLine(outcome, "\(command)")
        }
    }

    /// One line of ours, after what the allocator may have said before it aborted.
    private func expectOneLine(_ outcome: Child.Outcome, _ what: String) {
        let lines = outcome.errorLines
        let isFine = lines.count == 1 || (lines.count == 2 && !lines[0].hasPrefix("dedupdisk: "))
        #expect(isFine && lines.last?.hasPrefix("dedupdisk: ") == true, "\(what): \(outcome.errors)")
    }
}
