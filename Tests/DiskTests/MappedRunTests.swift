import BlockModel
import System
import Testing
import TestSupport

@testable import Disk
@testable import Store

/// Where a disk has data, run by run, as an export goes over it.
@Suite struct MappedRunTests {
    /// Single blocks, runs across leaves of 508 blocks, leaves far from each other, the disk's end.
    @Test func eachRunIsFound() throws {
        let scratch = try ScratchDirectory()
        let store = try Store(path: scratch.path + "/store", creating: true)
        let blocks: UInt64 = 1 << 20
        try store.create("d", byteCount: blocks * UInt64(blockSize))
        let runs: [Range<UInt64>] = [0..<1, 2..<3, 4..<9, 500..<520, 1015..<1016, 300_000..<300_600, blocks - 3..<blocks]
        let disk = try StoreDisk(store, "d")
        for run in runs { try disk.write(at: run.lowerBound * 8, run.flatMap { block($0 + 1) }) }
        try disk.committer.drain { $0.isEmpty }
        for limit in [1, 7, 256, 1 << 20] as [UInt64] {
            var found: [Range<UInt64>] = []
            var next: UInt64 = 0
            while let run = try disk.nextMapped(at: next, limit: limit) {
                try #require(run.lowerBound >= next && !run.isEmpty && UInt64(run.count) <= limit, "limit \(limit): \(run)")
                if let last = found.last, last.upperBound == run.lowerBound {
                    found[found.count - 1] = last.lowerBound..<run.upperBound
                } else {
                    found.append(run)
                }
                next = run.upperBound
            }
            #expect(found == runs, "limit \(limit)")
        }
        for run in runs {
            let last = run.upperBound - 1
            #expect(try disk.nextMapped(at: last, limit: 256) == last..<run.upperBound)
        }
        #expect(try disk.nextMapped(at: blocks, limit: 256) == nil)
        try disk.close()
    }
}
