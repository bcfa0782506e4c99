import BlockModel
import LMDB
import System
import Testing
import TestSupport

@testable import Packs
@testable import Store

/// What says which version of a pack is current, damaged.
@Suite struct VersionRecordTests {
    /// A check says so, what is lost by it, and goes on with the rest.
    @Test func aDamagedRecord() throws {
        let scratch = try ScratchDirectory()
        let store = try Store(path: scratch.path + "/store", creating: true)
        try store.write("keep", (1...100).map { block($0) })
        try store.write("gone", (101...150).map { block($0) })
        try store.write("other", (1001...1400).map { block($0) })
        try store.delete(store.lock("gone"))
        _ = try store.collect(shouldStop: { false }) { _, _ in }
        #expect(try store.current(1) != PackVersion(1, 0))
        var writing = try WriteTransaction(store.meta)
        try writing.put(store.parts.versions.table, 1, count: 16) { $0.zero(at: 0, count: 16) }
        try writing.commit()
        let report = try store.check(readData: true, repair: true) { _, _ in }
        #expect(report.disks == 2 && report.mappedBlocks == 500 && !report.isRepaired)
        #expect(report.problems.contains { $0.hasPrefix("pack 1: what says which version") }, "\(report.problems)")
        #expect(report.problems.contains { $0.contains("disk keep: block 0 refers to blob 1/") }, "\(report.problems)")
        #expect(!report.problems.contains { $0.contains("blob 2/") || $0.contains("pack 2") }, "\(report.problems)")
        // What is not in it is read, and what is is damaged.
        var reader = try BlockReader(store, disk: "other")
        var last = [UInt8](repeating: 0, count: 100 * blockSize)
        try last.withMutableBytes { (bytes) throws(Failure) in try reader.read(from: 300, into: &bytes) }
        #expect(last == (1301...1400).flatMap { block($0) })
        let failure = try #require(throws: Failure.self) { try SharingTests.read("keep", of: store, blocks: 100) }
        #expect(failure.kind == .damage)
    }
}
