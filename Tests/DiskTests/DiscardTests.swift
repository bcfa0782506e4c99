import BlockModel
import System
import Testing
import TestSupport

@testable import Disk
@testable import LMDB
@testable import Store

/// A guest that discards all of a large disk, again and again.
@Suite struct DiscardTests {
    let scratch: ScratchDirectory
    let store: Store

    init() throws {
        scratch = try ScratchDirectory()
        store = try Store(path: scratch.path + "/store", creating: true)
        try store.create("d", byteCount: 16 << 40)
    }

    /// Which commit is the last.
    private func lastCommit() throws -> Int { try ReadTransaction(store.meta).id }

    @Test func takesACommitOnlyWhereSomethingIs() throws {
        let disk = try StoreDisk(store, "d")
        let whole = try #require(SectorRange(start: 0, count: disk.sectorCount))
        let places = [0, 1 << 20, disk.sectorCount - 8]
        for round in 1...3 as ClosedRange<UInt64> {
            for place in places { try disk.write(at: place, block(round)) }
            try disk.discard(whole)
            for place in places { #expect(try disk.sectors(at: place, count: 8).allSatisfy { $0 == 0 }) }
            let before = try lastCommit()
            for _ in 0..<100 { try disk.discard(whole) }
            #expect(try lastCommit() == before)
        }
        try disk.close()
        #expect(try store.statistics().mappedBytes == 0)
        #expect(try store.check(readData: true, repair: false) { _, _ in }.problems == [])
    }

    /// A discard of much that is mapped takes many commits, and between them others commit, too.
    @Test func leavesOthersTheirTurn() throws {
        let leaves: UInt64 = 128 * 40
        try store.create("other", byteCount: 1 << 20)
        var disk = try StoreDisk(store, "d")
        for leaf in 0..<leaves { try disk.write(at: leaf * 512 * 8, block(1)) }
        try disk.close()
        disk = try StoreDisk(store, "d")
        let whole = try #require(SectorRange(start: 0, count: disk.sectorCount))
        let others = Monitor((commits: 0, isOver: false))
        let other = try Thread("other") { [store] in
            while !others.with({ $0.isOver }) {
                let commits = others.with { $0.commits }
                guard (try? store.resize("other", to: UInt64(2 + commits) << 20)) != nil else { return }
                others.with { $0.commits += 1 }
            }
        }
        while others.with({ $0.commits }) == 0 {}
        let before = others.with { $0.commits }
        let first = try lastCommit()
        try disk.discard(whole)
        let commits = try lastCommit() - first
        let after = others.with { $0.commits }
        others.with { $0.isOver = true }
        other.join()
        // Without a pause between them, a few at most.
        #expect(after - before >= 40, "of \(commits) commits, \(after - before) were others'")
        try disk.close()
        #expect(try store.statistics().mappedBytes == 0)
    }
}
