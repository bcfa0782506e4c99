import BlockModel
import Glibc
import Packs
import System
import Testing
import TestSupport

@testable import Catalogue
@testable import Disk
@testable import LMDB
@testable import Store

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

    /// Written together, that is one after the other, in however many records and rings.
    @Test func theLastOfThoseWrittenTogetherWins() throws {
        try store.create("d", byteCount: 64 << 20)
        let disk = try StoreDisk(store, "d", journalBytes: 4 << 20)
        var model = ModelDisk(sectors: 64 << 11)
        var random = SeededGenerator(seed: 3)
        let bytes = (1...1200).flatMap { block(UInt64($0)) }
        for _ in 0..<60 {
            let parts = (0..<Int.random(in: 1...100, using: &random)).map { _ in
                // Single blocks, parts of some, and what takes several records, all over each other.
                let sectors = [8, 8, 8, 8, 3, 24, 40, 2300].randomElement(using: &random) ?? 8
                let start = Int.random(in: 0..<1200 * 8 - sectors, using: &random) & (sectors % 8 == 0 ? ~7 : ~0)
                return WritePart(
                    sector: UInt64(Int.random(in: 0..<3000, using: &random) & ~7), range: start * sectorSize..<(start + sectors) * sectorSize)
            }
            try disk.write(parts.span, of: bytes.rawBytes)
            for part in parts { model.write(at: Int(part.sector), Array(bytes[part.range])) }
            #expect(try disk.contents().prefix(6000 * sectorSize) == model.bytes.prefix(6000 * sectorSize))
        }
        try disk.close()
        try check()
    }

    @Test func whatIsWrittenTogetherIsRecoveredAsItWas() throws {
        try store.create("d", byteCount: 4 << 20)
        let disk = try StoreDisk(store, "d")
        disk.holdBack()
        let bytes = (1...100).flatMap { block(UInt64($0)) }
        // More than go into the journal at once, backwards.
        let parts = (0..<100).map { WritePart(sector: UInt64(99 - $0) * 8, range: $0 * blockSize..<($0 + 1) * blockSize) }
        try disk.write(parts.span, of: bytes.rawBytes)
        let found = try afterDeath(journalBytes: 64 << 20)
        #expect(found.prefix(100 * blockSize).elementsEqual((1...100).reversed().flatMap { block(UInt64($0)) }))
        try disk.close()
    }

    @Test func nothingIsWrittenWhenAPartIsOutside() throws {
        try store.create("d", byteCount: 1 << 20)
        let disk = try StoreDisk(store, "d")
        let bytes = block(1) + block(2)
        let parts = [WritePart(sector: 0, range: 0..<blockSize), WritePart(sector: 2041, range: blockSize..<2 * blockSize)]
        #expect { try disk.write(parts.span, of: bytes.rawBytes) } throws: { ($0 as? Failure)?.kind == .invalidRequest }
        #expect(try disk.contents().allSatisfy { $0 == 0 })
        try disk.close()
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
            #expect(try waitUntil { try store.statistics().mappedBytes == 300 * 4096 }, "round \(round)")
            try disk.discard(#require(SectorRange(start: 0, count: 2400)))
            #expect(try waitUntil { try store.statistics().mappedBytes == 0 }, "round \(round)")
        }
        try disk.close()
    }

    /// What the disk holds when its process dies now, and the next one has a journal of that size.
    func afterDeath(journalBytes: UInt64) throws -> [UInt8] {
        let copy = scratch.path + "/copy"
        #expect(try Child("/bin/cp", ["-r", "--sparse=always", store.path, copy]).wait().status == 0)
        let disk = try StoreDisk(Store(path: copy), "d", journalBytes: journalBytes)
        defer { try? disk.close() }
        return try disk.contents()
    }

    /// And until the staging has heard of it, too.
    func waitUntilMapped(_ blocks: UInt64, of disk: StoreDisk) throws {
        try waitUntil { try store.statistics().mappedBytes == blocks * 4096 && disk.stagedBytes == 0 }
    }

    /// The first record of a ring that begins anew is longer than what the ring had before.
    @Test func theRingBeginsAnewWithALongRecord() throws {
        var model = ModelDisk(sectors: 4096)
        try store.create("d", byteCount: 2 << 20)
        let disk = try StoreDisk(store, "d", journalBytes: 4 << 20)
        try disk.write(at: 0, (1...150).flatMap { block($0) })
        try waitUntilMapped(150, of: disk)
        disk.holdBack()
        let data = (1001...1256).flatMap { block($0) }
        try disk.write(at: 8, data)
        model.write(at: 0, block(1))
        model.write(at: 8, data)
        #expect(try afterDeath(journalBytes: 4 << 20) == model.bytes)
        try disk.close()
    }

    /// A larger ring, with records where the smaller has none; and a smaller one, just full, whose next record is at its
    /// beginning without a word of that.
    @Test(arguments: [(64, 4), (4, 64)]) func aRingOfAnotherSize(before: UInt64, after: UInt64) throws {
        var model = ModelDisk(sectors: 1100 * 8)
        try store.create("d", byteCount: 1100 * 4096)
        let disk = try StoreDisk(store, "d", journalBytes: before << 20)
        disk.holdBack()
        for piece in 0..<65 {
            let data = (0..<(piece == 63 ? 15 : 16)).flatMap { block(UInt64(1 + piece * 16 + $0)) }
            try disk.write(at: UInt64(piece * 128), data)
            model.write(at: piece * 128, data)
            if before == 4, piece == 63 { #expect(disk.journalEnd == 4 << 20) }
        }
        #expect(before == 4 ? disk.journalEnd < 1 << 20 : disk.journalEnd > 4 << 20)
        #expect(try afterDeath(journalBytes: after << 20) == model.bytes)
        try disk.close()
    }

    // MARK: Compression

    @Test(arguments: BlobCodec.allCases, 0..<2) func compressedOrNot(codec: BlobCodec, seed: Int) throws {
        let store = try Store(path: scratch.path + "/c", creating: true, codec: codec)
        var random = SeededGenerator(seed: UInt64(seed))
        try store.create("d", byteCount: 16 << 20)
        // Runs of one byte, text of few letters, and noise, of which some repeats.
        let blocks = (0..<600).map { index -> [UInt8] in
            var generator = SeededGenerator(seed: UInt64(index % 450))
            let letters = [1, 2, 20, 256].randomElement(using: &generator) ?? 1
            return (0..<blockSize).map { _ in UInt8(Int.random(in: 0..<letters, using: &generator)) }
        }
        var disk = try StoreDisk(store, "d")
        for start in stride(from: 0, to: 600, by: 150) { try disk.write(at: UInt64(start * 8), blocks[start..<start + 150].flatMap { $0 }) }
        try disk.close()
        let statistics = try store.statistics()
        let unique = Set(blocks.filter { $0.contains { $0 != 0 } })
        #expect(statistics.uniqueBytes == UInt64(unique.count) * 4096)
        #expect(statistics.settings.compression == .atOnce(codec))
        let payload = try File.allocatedBytes(ofFile: store.path + "/packs/data.mdb") ?? 0
        #expect(codec == .raw ? payload > statistics.uniqueBytes : payload < statistics.uniqueBytes)
        #expect(try store.check(readData: true, repair: false) { _, _ in }.problems == [])
        disk = try StoreDisk(store, "d", readOnly: true)
        for _ in 0..<100 {
            let index = Int.random(in: 0..<600, using: &random)
            #expect(try disk.sectors(at: UInt64(index * 8), count: 8) == blocks[index], "block \(index)")
        }
        // What is dead goes, whatever its codec, and what is alive stays.
        try disk.close()
        _ = consume disk
        disk = try StoreDisk(store, "d")
        try disk.discard(#require(SectorRange(start: 0, count: 8 * 300)))
        try disk.close()
        _ = try store.collect(shouldStop: { false }) { _, _ in }
        #expect(try store.statistics().reclaimableBytes == 0)
        disk = try StoreDisk(store, "d", readOnly: true)
        #expect(try disk.sectors(at: 2400, count: 2400) == blocks[300...].flatMap { $0 })
        #expect(try store.check(readData: true, repair: false) { _, _ in }.problems == [])
    }

    @Test func compressionCanChange() throws {
        try store.create("d", byteCount: 4 << 20)
        let blocks = (1...90).map { number in [UInt8](repeating: UInt8(number), count: blockSize) }
        for (index, codec) in [BlobCodec.raw, .lz4, .zstd].enumerated() {
            try store.use(codec)
            let disk = try StoreDisk(store, "d")
            try disk.write(at: UInt64(index * 240), blocks[index * 30..<index * 30 + 30].flatMap { $0 })
            try disk.close()
        }
        let disk = try StoreDisk(store, "d", readOnly: true)
        #expect(try disk.sectors(at: 0, count: 720) == blocks.flatMap { $0 })
        try check()
    }

    // MARK: Size

    @Test(arguments: [4096 * 3 + 512, 508 * 4096, 3 << 30, 600 << 30]) func aDiskGrowsInUseAndShrinksOtherwise(larger: UInt64) throws {
        try store.create("d", byteCount: 3 * 4096)
        let disk = try StoreDisk(store, "d")
        try disk.write(at: 0, (1...3).flatMap { block($0) })
        #expect(try !disk.refresh())
        try StoreDisk.resize("d", of: store, to: larger)
        #expect(try disk.refresh())
        #expect(disk.byteCount == larger)
        try disk.write(at: disk.sectorCount - 1, [UInt8](repeating: 7, count: 512))
        #expect(throws: Failure.self) { try disk.write(at: disk.sectorCount, [UInt8](repeating: 7, count: 512)) }
        #expect(throws: Failure.self) { try StoreDisk.resize("d", of: store, to: 4096) }
        #expect(try disk.sectors(at: 0, count: 24) == (1...3).flatMap { block($0) })
        try disk.close()
        _ = consume disk
        try check()
        // Nothing that was written goes unless that is asked for by name.
        let before = try store.disk("d")
        let lost = try #require(throws: Failure.self) { try StoreDisk.resize("d", of: store, to: 4096 + 512) }
        let bytes = larger == 4096 * 3 + 512 ? 3584 + 4096 + 512 : 3584 + 4096 + 4096
        #expect(lost.kind == .invalidRequest && lost.why == "\(bytes) bytes of data lie beyond that end, the first of them at byte 4608")
        #expect(try store.disk("d")?.byteCount == larger && store.disk("d")?.mappedBlocks == before?.mappedBlocks)
        // Cut within a block, whose rest is zeros when it is there again.
        try StoreDisk.resize("d", of: store, to: 4096 + 512, discardingData: true)
        try check()
        #expect(try store.statistics().mappedBytes == 2 * 4096)
        try StoreDisk.resize("d", of: store, to: larger)
        let again = try StoreDisk(store, "d", readOnly: true)
        #expect(try again.sectors(at: 0, count: 24) == block(1) + block(2).prefix(512) + [UInt8](repeating: 0, count: 7 * 512 + 4096))
        #expect(try again.sectors(at: again.sectorCount - 1, count: 1) == [UInt8](repeating: 0, count: 512))
        try check()
    }

    /// Where nothing but zeros lies beyond the new end, nothing is lost.
    @Test func aDiskWithoutDataAtItsEndShrinks() throws {
        try store.create("d", byteCount: 1 << 30)
        let disk = try StoreDisk(store, "d")
        try disk.write(at: 0, block(1).prefix(512) + [UInt8](repeating: 0, count: 4096 * 9 - 512))
        try disk.write(at: 8000, block(2))
        try disk.discard(#require(SectorRange(start: 8000, count: 8)))
        try disk.close()
        _ = consume disk
        try StoreDisk.resize("d", of: store, to: 20 * 4096)
        // Within a block whose rest is zeros.
        try StoreDisk.resize("d", of: store, to: 512)
        #expect(throws: Failure.self) { try StoreDisk.resize("d", of: store, to: 0) }
        #expect(try store.disk("d")?.byteCount == 512)
        try check()
    }

    // MARK: Holes

    @Test(arguments: 0..<8) func holesAreWhereNothingIs(seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed))
        let blocks = 3000
        try store.create("d", byteCount: UInt64(blocks * blockSize - 512 * (seed % 3)))
        let disk = try StoreDisk(store, "d")
        var isData = [Bool](repeating: false, count: blocks)
        for round in 0..<6 {
            let first = Int.random(in: 0..<blocks - 300, using: &random)
            let count = Int.random(in: 1...300, using: &random)
            if round % 3 == 2 {
                try disk.discard(#require(SectorRange(start: UInt64(first * 8), count: UInt64(count * 8))))
            } else {
                try disk.write(at: UInt64(first * 8), (0..<count).flatMap { block(UInt64($0 + 1)) })
            }
            for index in first..<first + count { isData[index] = round % 3 != 2 }
            // Some of it is in the map, some is staged.
            if round == 2 { try waitUntil(limit: 20) { try store.statistics().mappedBytes > 0 } }
        }
        var sector: UInt64 = 0
        var steps = 0
        while sector < disk.sectorCount {
            let limit = UInt64.random(in: 1...30_000, using: &random)
            let extent = try disk.extent(at: sector, limit: limit)
            #expect(extent.count >= 1 && extent.count <= max(limit, 1) && sector + extent.count <= disk.sectorCount)
            for at in sector..<sector + extent.count where isData[Int(at / 8)] == extent.isHole {
                Issue.record("seed \(seed): sector \(at)")
                return
            }
            sector += extent.count
            steps += 1
        }
        #expect(steps > 4)
        #expect(throws: Failure.self) { try disk.extent(at: disk.sectorCount, limit: 1) }
        try disk.close()
    }

    // MARK: Several threads

    /// Each thread has sectors of its own, in blocks that it shares with the others; all read, flush and discard.
    @Test(arguments: 0..<3) func manyThreadsOneDisk(seed: Int) throws {
        let sectors = 16_000
        let count = 4
        try store.create("d", byteCount: UInt64(sectors * sectorSize))
        let disk = try StoreDisk(store, "d", journalBytes: 4 << 20)
        let problems = Monitor<[String]>([])
        let models = Monitor([ModelDisk](repeating: ModelDisk(sectors: sectors), count: count))
        var threads: [System.Thread] = []
        for index in 0..<count {
            threads.append(
                try System.Thread("test") {
                    do throws(Failure) {
                        var random = SeededGenerator(seed: UInt64(seed * 100 + index))
                        var model = ModelDisk(sectors: sectors)
                        for step in 0..<400 {
                            // Sectors whose number leaves `index`, when divided by the number of threads.
                            let sector = Int.random(in: 0..<sectors / count, using: &random) * count + index
                            switch Int.random(in: 0..<8, using: &random) {
                            case 0: try disk.flush()
                            case 1:
                                try disk.discard(SectorRange(start: UInt64(sector), count: 1)!)
                                model.discard(at: sector, count: 1)
                            case 2, 3:
                                // A long read, of which its own sectors are to be right.
                                let first = min(sector, sectors - 400)
                                let found = try disk.sectors(at: UInt64(first), count: 400)
                                if let wrong = model.firstDifference(from: found, at: first, every: count, rest: index) {
                                    problems.with { $0.append("thread \(index), step \(step), sector \(wrong)") }
                                    return
                                }
                            default:
                                let data = Array(block(UInt64.random(in: 1...50, using: &random)).prefix(512))
                                try disk.write(at: UInt64(sector), data)
                                model.write(at: sector, data)
                            }
                        }
                        models.with { $0[index] = model }
                    } catch {
                        problems.with { $0.append("\(error)") }
                    }
                })
        }
        for thread in threads { thread.join() }
        #expect(problems.with { $0 } == [], "seed \(seed)")
        let whole = models.with { models in (0..<sectors).flatMap { models[$0 % count].read(at: $0, count: 1) } }
        #expect(try disk.contents() == whole, "seed \(seed)")
        try disk.close()
        let again = try StoreDisk(store, "d", readOnly: true)
        #expect(try again.contents() == whole, "seed \(seed)")
        try check()
    }

    /// Who has had what it wanted from the committer does not take it from the others.
    @Test func manyFlushesThatWaitForCommits() throws {
        try store.create("d", byteCount: 64 << 20)
        let disk = try StoreDisk(store, "d")
        disk.holdBack()
        let (count, rounds) = (4, 25)
        let done = Monitor(0)
        var threads: [System.Thread] = []
        for index in 0..<count {
            threads.append(
                try System.Thread("test") {
                    let data = [UInt8](repeating: UInt8(index + 1), count: 1 << 20)
                    for round in 0..<rounds {
                        for piece in 0..<3 { try? disk.write(at: UInt64((index * 8 + (round + piece) % 8) << 11), data) }
                        try? disk.flush()
                    }
                    done.with { $0 += 1 }
                    done.notify()
                })
        }
        let start = monotonicSeconds()
        let isDone = try done.wait { (done) throws(Failure) in
            done == count ? .done(true) : monotonicSeconds() > start + 600 ? .done(false) : .atMost(1)
        }
        #expect(isDone, "a flush waits for ever")
        // Sets whoever waits free.
        try disk.close()
        for thread in threads { thread.join() }
        try check()
    }

    /// Runs `body` on a thread of its own while nobody can commit, and expects it to wait for that.
    func expectToWaitForACommit(_ body: @escaping @Sendable () throws(Failure) -> Void) throws {
        let outcome = Monitor<Result<Void, Failure>?>(nil)
        let holding = try WriteTransaction(store.meta)
        let thread = try System.Thread("test") {
            do throws(Failure) {
                try body()
                outcome.with { $0 = .success(()) }
            } catch {
                outcome.with { $0 = .failure(error) }
            }
        }
        usleep(300_000)
        #expect(outcome.with { $0 == nil })
        holding.abort()
        thread.join()
        try outcome.with { $0 }?.get()
    }

    @Test func aFlushOfMuchIsACommit() throws {
        try store.create("d", byteCount: 16 << 20)
        let disk = try StoreDisk(store, "d")
        let data = (1...1280).flatMap { block($0) }
        try expectToWaitForACommit { () throws(Failure) in
            try disk.write(at: 0, data)
            try disk.flush()
        }
        #expect(try store.statistics().mappedBytes == 1280 * 4096)
        try disk.close()
    }

    @Test func aFlushOfLittleSynchronizesTheJournal() throws {
        try store.create("d", byteCount: 1 << 20)
        let disk = try StoreDisk(store, "d")
        disk.holdBack()
        #expect(disk.isSynchronized)
        try disk.write(at: 0, block(1))
        #expect(!disk.isSynchronized)
        try disk.flush()
        #expect(disk.isSynchronized)
        #expect(try store.statistics().mappedBytes == 0)
        try disk.close()
    }

    /// A ring that is full to its last byte takes not even a header.
    @Test func aFullRingMakesWritersWait() throws {
        var model = ModelDisk(sectors: 8192)
        try store.create("d", byteCount: 4 << 20)
        let disk = try StoreDisk(store, "d", journalBytes: 4 << 20)
        disk.holdBack()
        for number in 0..<1008 {
            try disk.write(at: UInt64(number * 8), block(UInt64(number + 1)))
            model.write(at: number * 8, block(UInt64(number + 1)))
        }
        for number in 0..<16 {
            try disk.discard(#require(SectorRange(start: UInt64(number * 8), count: 8)))
            model.discard(at: number * 8, count: 8)
        }
        #expect(disk.journalEnd == 4 << 20)
        try expectToWaitForACommit { () throws(Failure) in
            if let range = SectorRange(start: 800, count: 8) { try disk.discard(range) }
        }
        model.discard(at: 800, count: 8)
        #expect(try disk.contents() == model.bytes)
        try disk.close()
    }

    /// What it could not do because of the store, a disk does when that is well again.
    @Test func aCommitThatFailsIsTriedAgain() throws {
        try store.create("d", byteCount: 1 << 20)
        func put(_ record: [UInt8]) throws {
            var writing = try WriteTransaction(store.meta)
            try writing.put(store.parts.catalogue.table, "d", record.rawBytes)
            try writing.commit()
        }
        let disk = try StoreDisk(store, "d")
        let good = try #require(try store.disk("d")).encoded
        try put(Array(good.dropLast()))
        try disk.write(at: 0, block(1))
        // Some tries.
        usleep(1_500_000)
        #expect(try disk.sectors(at: 0, count: 8) == block(1))
        try put(good)
        try waitUntilMapped(1, of: disk)
        #expect(try store.statistics().mappedBytes == 4096)
        #expect(try disk.sectors(at: 0, count: 8) == block(1))
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
