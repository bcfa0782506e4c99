import BlockModel
import Glibc
import Synchronization
import System
import Testing
import TestSupport

@testable import Disk

/// Several threads on one copy-on-write disk, and what it takes from the disk below.
@Suite struct EphemeralDiskTests {
    let scratch: ScratchDirectory

    init() throws { scratch = try ScratchDirectory() }

    /// A raw file of random blocks.
    private func rawFile(sectors: Int, seed: UInt64) throws -> (path: String, model: ModelDisk) {
        var random = SeededGenerator(seed: seed)
        var model = ModelDisk(sectors: sectors)
        for sector in stride(from: 0, to: sectors, by: sectorsPerBlock) {
            model.write(at: sector, Array(block(random.next()).prefix(min(sectorsPerBlock, sectors - sector) * sectorSize)))
        }
        let path = scratch.path + "/raw"
        try Files.write(path, model.bytes)
        return (path, model)
    }

    private func over<Base: BlockDevice>(_ base: Base) throws(Failure) -> EphemeralDisk<Base> {
        try EphemeralDisk(over: base, scratchDirectory: scratch.path)
    }

    // MARK: Several threads

    /// Each thread has sectors of its own, in blocks that it shares with the others.
    @Test(arguments: 0..<6) func manyThreadsOneDisk(seed: Int) throws {
        let count = 4, sectors = 4000 + seed
        let (path, base) = try rawFile(sectors: sectors, seed: UInt64(seed))
        let disk = try over(RawFileDisk(path: path, readOnly: true))
        let problems = Monitor<[String]>([])
        let models = Monitor([ModelDisk](repeating: base, count: count))
        var threads: [System.Thread] = []
        for index in 0..<count {
            threads.append(
                try System.Thread("test") {
                    do throws(Failure) {
                        var random = SeededGenerator(seed: UInt64(seed * 100 + index))
                        var model = base
                        for step in 0..<600 {
                            let sector = Int.random(in: 0..<sectors / count, using: &random) * count + index
                            let data = Array(block(UInt64.random(in: 1...50, using: &random)).prefix(512))
                            switch Int.random(in: 0..<8, using: &random) {
                            case 0:
                                if let range = SectorRange(start: UInt64(sector), count: 1) { try disk.discard(range) }
                                model.discard(at: sector, count: 1)
                            case 1, 2, 3:
                                // A long read, of which its own sectors are to be right.
                                let first = min(sector, sectors - 200)
                                let found = try disk.sectors(at: UInt64(first), count: 200)
                                if let wrong = model.firstDifference(from: found, at: first, every: count, rest: index) {
                                    problems.with { $0.append("thread \(index), step \(step), sector \(wrong)") }
                                    return
                                }
                            case 4:
                                let other = (sector + 400 * count) % (sectors / count * count)
                                let parts = [sector, other].map { WritePart(sector: UInt64($0), range: 0..<512) }
                                try disk.write(parts.span, of: data.rawBytes)
                                for sector in [sector, other] { model.write(at: sector, data) }
                            default:
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
        #expect(try RawFileDisk(path: path, readOnly: true).contents() == base.bytes)
    }

    /// Blocks are written as a whole, alone or several together, always with one byte: nobody sees two.
    @Test func noBlockIsSeenHalfWritten() throws {
        let blocks = 4
        let disk = try over(DiscardDisk(byteCount: UInt64(blocks * blockSize)))
        let isDone = Atomic(false)
        let torn = Atomic(0)
        let writers = try (0..<2).map { index in
            let contents = (0..<4).map { [UInt8](repeating: UInt8($0 * 2 + index + 1), count: blockSize) }
            let parts = (0..<blocks).map { WritePart(sector: UInt64($0 * 8), range: 0..<blockSize) }
            return try System.Thread("write") {
                for round in 0..<20_000 {
                    let data = contents[round % 4]
                    if round % 3 == 0 {
                        try? disk.write(parts.span, of: data.rawBytes)
                    } else {
                        try? disk.write(at: UInt64(round % blocks * 8), data)
                    }
                }
            }
        }
        let readers = try (0..<2).map { _ in
            try System.Thread("read") {
                while !isDone.load(ordering: .relaxed) {
                    guard let found = try? disk.contents() else { break }
                    // What is copied meanwhile differs at its ends.
                    for start in stride(from: 0, to: found.count, by: blockSize) where found[start] != found[start + blockSize - 1] {
                        torn.add(1, ordering: .relaxed)
                    }
                }
            }
        }
        for thread in writers { thread.join() }
        isDone.store(true, ordering: .relaxed)
        for thread in readers { thread.join() }
        let count = torn.load(ordering: .relaxed)
        #expect(count == 0)
        try disk.close()
    }

    /// Each read of the disk below ends when so many are at work there.
    private final class Meeting: ForwardingDisk {
        let next: RawFileDisk
        private let wanted: Int
        private let arrived = Monitor(0)

        init(of wanted: Int, _ disk: RawFileDisk) {
            self.wanted = wanted
            next = disk
        }

        func comeAlong() {
            arrived.with { $0 += 1 }
            arrived.notify()
        }

        /// Waits for a read to have come: no more than a test should hang.
        func waitForReads(_ count: Int) throws(Failure) {
            let deadline = monotonicSeconds() + 600
            try arrived.wait { (arrived) throws(Failure) in
                if arrived >= count { return .done(()) }
                if monotonicSeconds() > deadline { throw Failure(.system, "meeting", "nobody else came") }
                return .atMost(1)
            }
        }

        func read(at sector: UInt64, into buffer: inout MutableRawSpan) throws(Failure) {
            comeAlong()
            try waitForReads(wanted)
            try next.read(at: sector, into: &buffer)
        }
    }

    @Test func readsOfTheBaseRunAtOnce() throws {
        let (path, model) = try rawFile(sectors: 64, seed: 1)
        let disk = try over(Meeting(of: 3, RawFileDisk(path: path, readOnly: true)))
        let found = Monitor([Int: [UInt8]]())
        let threads = try (0..<3).map { index in
            try System.Thread("read") {
                let bytes = try? disk.sectors(at: UInt64(index * 8), count: 8)
                found.with { $0[index] = bytes }
            }
        }
        for thread in threads { thread.join() }
        for index in 0..<3 { #expect(found.with { $0[index] } == model.read(at: index * 8, count: 8)) }
        try disk.close()
    }

    /// While the disk below takes its time with a read, or with what a part of a block needs of it, all else goes on.
    @Test(arguments: [false, true]) func nobodyWaitsForTheBase(writing: Bool) throws {
        let (path, model) = try rawFile(sectors: 64, seed: 1)
        let base = Meeting(of: 2, try RawFileDisk(path: path, readOnly: true))
        let disk = try over(base)
        let thread = try System.Thread("wait") {
            if writing {
                try? disk.write(at: 3, [UInt8](repeating: 9, count: sectorSize))
            } else {
                _ = try? disk.sectors(at: 0, count: 8)
            }
        }
        try base.waitForReads(1)
        try disk.write(at: 16, block(5))
        #expect(try disk.sectors(at: 16, count: 8) == block(5))
        // The whole of what the other one changes a part of.
        try disk.write(at: 0, block(6))
        #expect(try disk.sectors(at: 0, count: 8) == block(6))
        base.comeAlong()
        thread.join()
        var expected = model
        expected.write(at: 16, block(5))
        expected.write(at: 0, block(6))
        if writing { expected.write(at: 3, [UInt8](repeating: 9, count: sectorSize)) }
        #expect(try disk.contents() == expected.bytes)
        try disk.close()
    }

    /// The disk below gets another size while it is asked for the rest of its last block.
    @Test(arguments: [57, 64]) func theSizeChangesWithinAWrite(sectors: Int) throws {
        let (path, model) = try rawFile(sectors: 61, seed: 1)
        let base = Meeting(of: 2, try RawFileDisk(path: path, readOnly: true))
        let disk = try over(base)
        let failure = Monitor<Failure?>(nil)
        let data = [UInt8](repeating: 9, count: sectorSize)
        let thread = try System.Thread("write") {
            do throws(Failure) { try disk.write(at: 58, data) } catch { failure.with { $0 = error } }
        }
        try base.waitForReads(1)
        let file = try File(path: path, options: .write)
        try file.truncate(to: UInt64(sectors * sectorSize))
        var expected = model
        if sectors > 61 {
            let more = Array(block(3).prefix((sectors - 61) * sectorSize))
            try file.write(at: 61 * UInt64(sectorSize), more.rawBytes)
            expected.bytes += more
        } else {
            expected.bytes.removeLast((61 - sectors) * sectorSize)
        }
        #expect(try disk.refresh())
        base.comeAlong()
        thread.join()
        if sectors > 58 {
            expected.write(at: 58, data)
            #expect(failure.with { $0 } == nil)
        } else {
            #expect(failure.with { $0 }?.kind == .invalidRequest)
        }
        #expect(try disk.contents() == expected.bytes)
        try disk.close()
    }

    // MARK: What the disk below has

    @Test func whatIsUntouchedIsLent() throws {
        let (path, model) = try rawFile(sectors: 1024, seed: 2)
        let pinned = try PinnedFile(path)
        defer { withExtendedLifetime(pinned) {} }
        let disk = try over(RawFileDisk(path: path, readOnly: true))
        let range = try #require(SectorRange(start: 96, count: 128))
        func lent() throws -> [UInt8]? {
            guard let loan = disk.lend(range) else { return nil }
            let copy = try File(temporaryIn: scratch.path)
            try withExtendedLifetime(loan) { try copy.write(at: 0, unsafe RawSpan(_unsafeStart: loan.address, byteCount: 128 * sectorSize)) }
            var bytes = [UInt8](repeating: 0, count: 128 * sectorSize)
            _ = try bytes.withMutableBytes { (span) throws(Failure) in try copy.read(at: 0, into: &span) }
            return bytes
        }
        #expect(try lent() == model.read(at: 96, count: 128))
        // Up to both ends, nothing.
        try disk.write(at: 88, block(1))
        try disk.write(at: 224, block(1))
        #expect(try lent() == model.read(at: 96, count: 128))
        try disk.discard(#require(SectorRange(start: 223, count: 1)))
        #expect(try lent() == nil)
        #expect(disk.lend(try #require(SectorRange(start: 1000, count: 100))) == nil)
        try disk.close()
    }

    /// Sizes that end within blocks, which are changed or not.
    @Test(arguments: 0..<12 as Range<UInt64>) func theDiskFollowsItsBase(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        var sectors = 700
        let (path, base) = try rawFile(sectors: sectors, seed: seed)
        var below = base, model = base
        let file = try File(path: path, options: .write)
        let disk = try over(RawFileDisk(path: path, readOnly: true))
        for round in 0..<12 {
            for step in 0..<20 {
                let problem = try RandomStep(&random, sectors: sectors, longest: 40).run(on: disk, &model)
                #expect(problem == nil, "seed \(seed), round \(round), step \(step)")
            }
            // At the very end, for the most part.
            try disk.write(at: UInt64(sectors - 1), [UInt8](repeating: 7, count: sectorSize))
            model.write(at: sectors - 1, [UInt8](repeating: 7, count: sectorSize))
            #expect(try !disk.refresh())
            let wanted = Int.random(in: max(1, sectors - 30)...sectors + 30, using: &random)
            let new = block(random.next()) + block(random.next()) + block(random.next()) + block(random.next())
            try file.truncate(to: UInt64(wanted * sectorSize))
            if wanted > sectors {
                let more = Array(new.prefix((wanted - sectors) * sectorSize))
                try file.write(at: UInt64(sectors * sectorSize), more.rawBytes)
                below.bytes += more
                model.bytes += more
            } else {
                below.bytes.removeLast((sectors - wanted) * sectorSize)
                model.bytes.removeLast((sectors - wanted) * sectorSize)
            }
            #expect(try disk.refresh() == (wanted != sectors))
            sectors = wanted
            #expect(disk.sectorCount == UInt64(sectors))
            #expect(try disk.contents() == model.bytes, "seed \(seed), round \(round)")
        }
        try disk.close()
        #expect(try Files.bytes(path) == below.bytes)
    }

    @Test(arguments: 0..<4 as Range<UInt64>) func aBlockSetOfAnotherSize(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        var model = [Bool](repeating: false, count: 100_000)
        var set = BlockSet(blockCount: UInt64(model.count))
        for _ in 0..<8 {
            let first = Int.random(in: 0..<model.count, using: &random)
            let last = min(model.count - 1, first + Int.random(in: 0..<20_000, using: &random))
            set.insert(UInt64(first)...UInt64(last))
            for block in first...last { model[block] = true }
            let count = Int.random(in: 1...200_000, using: &random)
            set.resize(blockCount: UInt64(count))
            model.removeLast(max(0, model.count - count))
            model += [Bool](repeating: false, count: count - model.count)
            let wrong = model.indices.first { set.contains(UInt64($0)) != model[$0] }
            #expect(wrong == nil, "seed \(seed)")
            #expect(!set.contains(UInt64(count)) && !set.contains(1 << 40))
        }
    }
}
