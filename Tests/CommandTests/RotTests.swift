import BlockModel
import Glibc
import TestSupport
import Testing

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
                let outcome = try tool.start(command).wait(limit: 20)
                let isFine = outcome.status == 0 || outcome.status == 1 || outcome.status == 3
                #expect(isFine && !outcome.hasTimedOut, "seed \(seed), \(path), page \(page), offset \(offset): \(command): \(outcome)")
                if command.first != "check", outcome.status != 0 { #expect(outcome.errorLines.count == 1, "seed \(seed): \(outcome.errors)") }
                if command.first == "export", outcome.status == 0 {
                    #expect(try Files.bytes(tool.path("out")) == (1...420).flatMap { block(UInt64($0)) }, "seed \(seed): wrong data came out")
                }
            }
        }
    }
}
