import BlockModel
import Glibc
import Store
import TestSupport
import Testing

@testable import Disk

@Suite struct StoreDiskTests {
    let scratch: ScratchDirectory
    let store: Store

    init() throws {
        scratch = try ScratchDirectory()
        store = try Store(path: scratch.path + "/store", creating: true)
    }

    func check(readData: Bool = true) throws {
        let report = try store.check(readData: readData, repair: false) { _, _ in }
        #expect(report.problems == [])
    }

    /// What the model says the store should hold: mapped blocks and distinct ones.
    func expected(_ models: [ModelDisk]) -> (mapped: UInt64, unique: UInt64) {
        var mapped: UInt64 = 0
        var unique: Set<[UInt8]> = []
        for model in models {
            for start in stride(from: 0, to: model.bytes.count, by: blockSize) {
                var block = Array(model.bytes[start..<min(start + blockSize, model.bytes.count)])
                guard block.contains(where: { $0 != 0 }) else { continue }
                block += [UInt8](repeating: 0, count: blockSize - block.count)
                mapped += 1
                unique.insert(block)
            }
        }
        return (mapped, UInt64(unique.count))
    }

    @Test(arguments: 0..<24)
    func behavesLikeAnArrayOfSectors(seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed))
        // Odd sizes: the last block may be short of sectors.
        let sectors = 6000 + Int.random(in: 0..<17, using: &random)
        try store.create("d", byteCount: UInt64(sectors * sectorSize))
        var model = ModelDisk(sectors: sectors)
        var disk = try StoreDisk(store, "d", journalBytes: 4 << 20)
        for step in 0..<250 {
            let next = RandomStep(&random, sectors: sectors)
            if let problem = try next.run(on: disk, &model) {
                Issue.record("seed \(seed), step \(step): \(problem)")
                return
            }
            if Int.random(in: 0..<60, using: &random) == 0 {
                try disk.close()
                disk = try StoreDisk(store, "d", journalBytes: 4 << 20)
            }
        }
        #expect(try disk.contents() == model.bytes, "seed \(seed)")
        try disk.close()
        let statistics = try store.statistics()
        let (mapped, unique) = expected([model])
        #expect(statistics.mappedBytes == mapped * 4096, "seed \(seed)")
        #expect(statistics.uniqueBytes == unique * 4096, "seed \(seed)")
        try check()
    }

    @Test func twoDisksShareBlocks() throws {
        try store.create("a", byteCount: 4 << 20)
        try store.create("b", byteCount: 8 << 20)
        let data = (1...512).flatMap { block(UInt64($0)) }
        for name in ["a", "b"] {
            let disk = try StoreDisk(store, name)
            try disk.write(at: 0, data)
            try disk.write(at: 4096, name == "b" ? data : Array(data.prefix(512)))
            try disk.close()
        }
        let statistics = try store.statistics()
        // The last 512 bytes of disk a's write make one more block, cut from block 1.
        #expect(statistics.mappedBytes == UInt64(512 + 1 + 1024) * 4096 - 4096 * 0)
        #expect(statistics.uniqueBytes == 513 * 4096)
        #expect(statistics.disks.map(\.exclusiveBytes) == [4096, 0])
        try check()
    }

    @Test func aLargeDiscardGoesToTheMapAtOnce() throws {
        let blocks = 6000
        try store.create("d", byteCount: UInt64(blocks * blockSize))
        var disk = try StoreDisk(store, "d")
        for start in stride(from: 0, to: blocks, by: 500) {
            try disk.write(at: UInt64(start * 8), (start..<start + 500).flatMap { block(UInt64($0 + 1)) })
        }
        try disk.close()
        disk = try StoreDisk(store, "d")
        let whole = try #require(SectorRange(start: 3, count: UInt64(blocks * 8 - 5)))
        try disk.discard(whole)
        let first = try disk.sectors(at: 0, count: 8)
        #expect(Array(first.prefix(3 * 512)) == Array(block(1).prefix(3 * 512)))
        #expect(first.dropFirst(3 * 512).allSatisfy { $0 == 0 })
        try disk.close()
        let statistics = try store.statistics()
        #expect(statistics.mappedBytes == 2 * 4096)
        #expect(statistics.reclaimableBytes == UInt64(blocks) * 4096)
        try check()
    }

    @Test func whatWasAcknowledgedSurvivesAProcessThatJustStops() throws {
        try store.create("d", byteCount: 4 << 20)
        var random = SeededGenerator(seed: 7)
        var model = ModelDisk(sectors: 8192)
        for _ in 0..<6 {
            // A disk whose committer never runs is what a dead process leaves: a journal, and a map that is behind.
            let disk = try StoreDisk(store, "d", journalBytes: 4 << 20)
            for _ in 0..<12 { _ = try RandomStep(&random, sectors: 8192, longest: 64).run(on: disk, &model) }
            let left = try StoreDiskTests.copyJournal(of: disk, store)
            try disk.close()
            try left.restore()
        }
        let disk = try StoreDisk(store, "d")
        #expect(try disk.contents() == model.bytes)
        try disk.close()
        try check()
    }

    /// The journal's bytes at one instant, to be put back later: as if the process had died there. What the map
    /// took in meanwhile is taken in again.
    struct Journal {
        let path: String
        let bytes: [UInt8]
        func restore() throws {
            try File(path: path, options: [.write, .create]).write(at: 0, bytes.rawBytes)
        }
    }

    static func copyJournal(of disk: StoreDisk, _ store: Store) throws -> Journal {
        let record = try #require(try store.disk("d"))
        let path = "\(store.path)/journals/\(record.number)"
        let file = try File(path: path)
        var bytes = [UInt8](repeating: 0, count: Int(try file.size()))
        _ = try bytes.withMutableBytes { (span) throws(Failure) in try file.read(at: 0, into: &span) }
        return Journal(path: path, bytes: bytes)
    }

    /// The ring begins anew, or wraps, with nothing staged: what comes then is committed by itself all the same.
    @Test func theCommitterWakesAfterASkip() throws {
        try store.create("d", byteCount: 64 << 20)
        let disk = try StoreDisk(store, "d", journalBytes: 4 << 20)
        for round in 1...3 as ClosedRange<UInt64> {
            try disk.write(at: 0, (1...300).flatMap { block($0 + round * 1000) })
            var mapped: UInt64 = 0
            for _ in 0..<200 where mapped != 300 * 4096 {
                usleep(20_000)
                mapped = try store.statistics().mappedBytes
            }
            #expect(mapped == 300 * 4096, "round \(round)")
            try disk.discard(#require(SectorRange(start: 0, count: 2400)))
            for _ in 0..<200 where mapped != 0 {
                usleep(20_000)
                mapped = try store.statistics().mappedBytes
            }
            #expect(mapped == 0, "round \(round)")
        }
        try disk.close()
    }

    @Test func oneWriterADisk() throws {
        try store.create("d", byteCount: 1 << 20)
        let disk = try StoreDisk(store, "d")
        let other = try Store(path: store.path)
        #expect(throws: Failure.self) { _ = try StoreDisk(other, "d") }
        #expect(throws: Failure.self) { _ = try StoreDisk(other, "d", readOnly: true) }
        #expect(try other.statistics().disks.first?.isAttached == true)
        try disk.close()
    }

    @Test func readOnlyDisksShareAndRefuse() throws {
        try store.create("d", byteCount: 1 << 20)
        let writer = try StoreDisk(store, "d")
        try writer.write(at: 8, block(5))
        try writer.close()
        _ = consume writer
        let one = try StoreDisk(store, "d", readOnly: true)
        let two = try StoreDisk(store, "d", readOnly: true)
        #expect(try one.sectors(at: 8, count: 8) == block(5))
        #expect(try two.sectors(at: 8, count: 8) == block(5))
        #expect(throws: Failure.self) { try one.write(at: 0, block(1)) }
        #expect(throws: Failure.self) { try one.discard(SectorRange(start: 0, count: 8)!) }
    }

    @Test func outsideTheDisk() throws {
        try store.create("d", byteCount: 1 << 20)
        let disk = try StoreDisk(store, "d")
        #expect(throws: Failure.self) { try disk.write(at: 2047, block(1)) }
        #expect(throws: Failure.self) { try disk.write(at: .max, block(1)) }
        #expect(throws: Failure.self) { _ = try disk.sectors(at: 2048, count: 1) }
        #expect(throws: Failure.self) { try disk.discard(SectorRange(start: 2041, count: 8)!) }
        try disk.close()
    }
}
