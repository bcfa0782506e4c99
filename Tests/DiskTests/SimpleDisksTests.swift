import BlockModel
import Glibc
import System
import Testing
import TestSupport

@testable import Disk

/// The disks that are no store: each beside a plain array of sectors.
@Suite struct SimpleDisksTests {
    let scratch: ScratchDirectory

    init() throws { scratch = try ScratchDirectory() }

    /// An image of `model`'s bytes.
    private func image(_ model: ModelDisk, name: String = "image") throws -> String {
        let path = scratch.path + "/" + name
        let file = try File(path: path, options: [.write, .create, .truncate])
        try file.write(at: 0, model.bytes.rawBytes)
        return path
    }

    /// A model full of random blocks.
    private func filledModel(sectors: Int, _ random: inout SeededGenerator) -> ModelDisk {
        var model = ModelDisk(sectors: sectors)
        for sector in stride(from: 0, to: sectors, by: sectorsPerBlock) {
            model.write(at: sector, Array(block(random.next()).prefix(min(sectorsPerBlock, sectors - sector) * sectorSize)))
        }
        return model
    }

    private func expectFailure(_ kind: Failure.Kind, _ body: () throws(Failure) -> Void) {
        do throws(Failure) {
            try body()
            Issue.record("no failure")
        } catch {
            #expect(error.kind == kind, "\(error)")
        }
    }

    /// What every disk refuses.
    private func expectRefusalOutside(_ disk: some BlockDevice) {
        let end = disk.sectorCount
        for (sector, count) in [(end, 1), (end - 1, 2), (.max, 1), (.max - 1, 2), (0, Int(end) + 1)] as [(UInt64, Int)] {
            let data = [UInt8](repeating: 1, count: count * sectorSize)
            expectFailure(.invalidRequest) { () throws(Failure) in _ = try disk.sectors(at: sector, count: count) }
            expectFailure(.invalidRequest) { () throws(Failure) in try disk.write(at: sector, data) }
            if let range = SectorRange(start: sector, count: UInt64(count)) {
                expectFailure(.invalidRequest) { () throws(Failure) in try disk.discard(range) }
            }
        }
        expectFailure(.invalidRequest) { () throws(Failure) in try disk.write(at: 0, [UInt8](repeating: 1, count: 100)) }
    }

    // MARK: Discard

    @Test(arguments: 0..<4 as Range<UInt64>) func discardDiskForgets(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let disk = try DiscardDisk(byteCount: 1000 * 512)
        let zeros = ModelDisk(sectors: 1000)
        for step in 0..<100 {
            var model = zeros
            let problem = try RandomStep(&random, sectors: 1000).run(on: disk, &model)
            #expect(problem == nil, "seed \(seed), step \(step)")
        }
        #expect(try disk.contents() == zeros.bytes)
        expectRefusalOutside(disk)
        expectFailure(.usage) { () throws(Failure) in _ = try DiscardDisk(byteCount: 1000) }
    }

    @Test func discardDiskForReaders() throws {
        let disk = try DiscardDisk(byteCount: 10 * 512, readOnly: true)
        #expect(disk.isReadOnly)
        expectFailure(.invalidRequest) { () throws(Failure) in try disk.write(at: 0, [UInt8](repeating: 1, count: 512)) }
        let range = try #require(SectorRange(start: 0, count: 1))
        expectFailure(.invalidRequest) { () throws(Failure) in try disk.discard(range) }
        #expect(try disk.contents() == ModelDisk(sectors: 10).bytes)
    }

    // MARK: Raw files

    @Test(arguments: 0..<8 as Range<UInt64>) func rawFileDiskIsAnArrayOfSectors(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let sectors = 2000 + Int.random(in: 0..<9, using: &random)
        var model = filledModel(sectors: sectors, &random)
        let path = try image(model)
        var disk = try RawFileDisk(path: path, readOnly: false)
        for step in 0..<200 {
            if let problem = try RandomStep(&random, sectors: sectors).run(on: disk, &model) {
                Issue.record("seed \(seed), step \(step): \(problem)")
                return
            }
            if Int.random(in: 0..<50, using: &random) == 0 {
                try disk.close()
                disk = try RawFileDisk(path: path, readOnly: false)
            }
        }
        expectRefusalOutside(disk)
        #expect(try disk.contents() == model.bytes, "seed \(seed)")
        try disk.close()
        try disk.close()
        #expect(try File(path: path).size() == UInt64(model.bytes.count))
    }

    @Test func rawFilesOfWrongKindOrSize() throws {
        expectFailure(.notFound) { () throws(Failure) in _ = try RawFileDisk(path: scratch.path + "/none", readOnly: false) }
        expectFailure(.usage) { () throws(Failure) in _ = try RawFileDisk(path: scratch.path, readOnly: true) }
        expectFailure(.usage) { () throws(Failure) in _ = try RawFileDisk(path: "/dev/zero", readOnly: true) }
        for byteCount in [0, 1, 511, 513, 4000] as [UInt64] {
            let path = scratch.path + "/odd"
            try File(path: path, options: [.write, .create]).truncate(to: byteCount)
            do throws(Failure) {
                _ = try RawFileDisk(path: path, readOnly: false)
                Issue.record("\(byteCount) bytes were accepted")
            } catch {
                #expect(error.kind == .usage)
                #expect(error.remedy != nil)
                #expect(error.what.contains(path))
            }
        }
    }

    @Test func oneWriterOrManyReaders() throws {
        let path = try image(ModelDisk(sectors: 8))
        let writer = try RawFileDisk(path: path, readOnly: false)
        expectFailure(.busy) { () throws(Failure) in _ = try RawFileDisk(path: path, readOnly: false) }
        expectFailure(.busy) { () throws(Failure) in _ = try RawFileDisk(path: path, readOnly: true) }
        try writer.close()
        let first = try RawFileDisk(path: path, readOnly: true), second = try RawFileDisk(path: path, readOnly: true)
        expectFailure(.busy) { () throws(Failure) in _ = try RawFileDisk(path: path, readOnly: false) }
        try first.close()
        try second.close()
        try RawFileDisk(path: path, readOnly: false).close()
    }

    @Test func readOnlyRawFilesRefuseChanges() throws {
        var random = SeededGenerator(seed: 1)
        let model = filledModel(sectors: 64, &random)
        let disk = try RawFileDisk(path: try image(model), readOnly: true)
        #expect(disk.isReadOnly)
        expectFailure(.invalidRequest) { () throws(Failure) in try disk.write(at: 0, block(1)) }
        let range = try #require(SectorRange(start: 0, count: 8))
        expectFailure(.invalidRequest) { () throws(Failure) in try disk.discard(range) }
        try disk.flush()
        #expect(try disk.contents() == model.bytes)
        try disk.close()
    }

    @Test func discardGivesSpaceBack() throws {
        var random = SeededGenerator(seed: 2)
        let path = try image(filledModel(sectors: 4096, &random))
        let disk = try RawFileDisk(path: path, readOnly: false)
        try disk.flush()
        let before = try File(path: path).allocatedBytes()
        try disk.discard(try #require(SectorRange(start: 0, count: 2048)))
        #expect(try File(path: path).allocatedBytes() <= before - (1 << 20))
        try disk.close()
    }

    @Test func aFileThatShrinksIsAFailure() throws {
        let path = try image(ModelDisk(sectors: 64))
        let disk = try RawFileDisk(path: path, readOnly: true)
        try File(path: path, options: .write).truncate(to: 4096)
        expectFailure(.system) { () throws(Failure) in _ = try disk.sectors(at: 0, count: 64) }
        #expect(try disk.sectors(at: 0, count: 8) == [UInt8](repeating: 0, count: 4096))
    }

    /// What a loan has, by a system call, as nobody else may look at it.
    private func bytes(_ loan: LentMemory, _ count: Int) throws -> [UInt8] {
        let copy = try File(temporaryIn: scratch.path)
        try withExtendedLifetime(loan) { try copy.write(at: 0, unsafe RawSpan(_unsafeStart: loan.address, byteCount: count)) }
        var bytes = [UInt8](repeating: 0, count: count)
        #expect(try bytes.withMutableBytes { (span) throws(Failure) in try copy.read(at: 0, into: &span) } == count)
        return bytes
    }

    @Test(arguments: [false, true]) func whatIsInMemoryIsLent(readOnly: Bool) throws {
        var random = SeededGenerator(seed: 4)
        let sectors = 4096
        let model = filledModel(sectors: sectors, &random)
        let path = try image(model), file = try File(path: path, options: .write)
        let pinned = try PinnedFile(path)
        defer { withExtendedLifetime(pinned) {} }
        let disk = try RawFileDisk(path: path, readOnly: readOnly)
        let range = try #require(SectorRange(start: 3, count: 129))
        let first = try #require(disk.lend(range))
        // Each mapping ends after some loans, and stays while it is in use.
        for _ in 0..<2500 {
            let start = Int.random(in: 0..<sectors - 64, using: &random)
            let count = Int.random(in: 32...min(2048, sectors - start), using: &random)
            let range = try #require(SectorRange(start: UInt64(start), count: UInt64(count)))
            let loan = try #require(disk.lend(range))
            if start % 50 == 0 { #expect(try bytes(loan, count * sectorSize) == model.read(at: start, count: count)) }
        }
        if !readOnly { try disk.write(at: 8, block(7)) }
        #expect(try bytes(first, 129 * sectorSize) == disk.sectors(at: 3, count: 129))
        // Little is sooner read; more is never asked for; outside there is nothing.
        for (start, count) in [(0, 31), (0, 2049), (4064, 64), (1 << 40, 64)] as [(UInt64, UInt64)] {
            let other = try #require(SectorRange(start: start, count: count))
            #expect(disk.lend(other) == nil)
        }
        // Behind the end of a file that was cut, nothing is left of any loan, whether or not the disk knows.
        try file.truncate(to: 64 * UInt64(sectorSize))
        for loan in [first, disk.lend(range)].compactMap({ $0 }) {
            #expect(throws: Failure.self) { try bytes(loan, 129 * sectorSize) }
        }
        try file.truncate(to: 8192 * UInt64(sectorSize))
        #expect(try disk.refresh())
        // The mapping is of another size.
        let grown = try #require(SectorRange(start: 5000, count: 64))
        #expect(try disk.sectors(at: 5000, count: 64) == [UInt8](repeating: 0, count: 64 * sectorSize))
        #expect(disk.lend(grown) == nil)
        try disk.close()
    }

    /// What would have to be fetched is better read.
    @Test func whatIsNotInMemoryIsNotLent() throws {
        let path = scratch.path + "/sparse"
        try File(path: path, options: [.write, .create]).truncate(to: 1 << 20)
        let disk = try RawFileDisk(path: path, readOnly: false)
        let range = try #require(SectorRange(start: 0, count: 64))
        #expect(disk.lend(range) == nil)
        try disk.write(at: 0, [UInt8](repeating: 3, count: 63 * sectorSize - 4096))
        #expect(disk.lend(range) == nil)
        try disk.write(at: 32, [UInt8](repeating: 4, count: 32 * sectorSize))
        let pinned = try PinnedFile(path)
        defer { withExtendedLifetime(pinned) {} }
        #expect(try bytes(#require(disk.lend(range)), 64 * sectorSize) == disk.sectors(at: 0, count: 64))
        try disk.close()
    }

    @Test(arguments: [false, true]) func aFileOfAnotherSizeIsADiskOfIt(readOnly: Bool) throws {
        var random = SeededGenerator(seed: 3)
        let model = filledModel(sectors: 64, &random)
        let path = try image(model), file = try File(path: path, options: .write)
        let disk = try RawFileDisk(path: path, readOnly: readOnly)
        #expect(try !disk.refresh())
        // Nothing changes before somebody asks, and what is no whole sector never counts.
        try file.truncate(to: 100 * UInt64(sectorSize) + 511)
        expectRefusalOutside(disk)
        #expect(disk.sectorCount == 64)
        #expect(try disk.refresh())
        #expect(try !disk.refresh())
        #expect(disk.sectorCount == 100)
        #expect(try disk.contents() == model.bytes + [UInt8](repeating: 0, count: 36 * sectorSize))
        #expect(try disk.extent(at: 0, limit: .max).count <= 100)
        if !readOnly { try disk.write(at: 92, block(7)) }
        expectRefusalOutside(disk)
        try file.truncate(to: 16 * UInt64(sectorSize))
        #expect(try disk.refresh())
        #expect(disk.sectorCount == 16)
        expectRefusalOutside(disk)
        #expect(try disk.contents() == model.read(at: 0, count: 16))
        try disk.close()
        #expect(try file.size() == 16 * UInt64(sectorSize))
    }

    // MARK: Copy on write

    @Test(arguments: 0..<16 as Range<UInt64>) func ephemeralDiskLeavesItsBaseAlone(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let sectors = 3000 + Int.random(in: 0..<17, using: &random)
        let base = filledModel(sectors: sectors, &random)
        let path = try image(base)
        var model = base
        let disk = try EphemeralDisk(over: try RawFileDisk(path: path, readOnly: true), scratchDirectory: scratch.path)
        #expect(!disk.isReadOnly)
        for step in 0..<150 {
            let next = RandomStep(&random, sectors: sectors, longest: step % 2 == 0 ? 20 : 300)
            if let problem = try next.run(on: disk, &model) {
                Issue.record("seed \(seed), step \(step): \(problem)")
                return
            }
        }
        expectRefusalOutside(disk)
        #expect(try disk.contents() == model.bytes, "seed \(seed)")
        try disk.close()
        try disk.close()
        let again = try RawFileDisk(path: path, readOnly: false)
        #expect(try again.contents() == base.bytes, "seed \(seed)")
        try again.close()
    }

    @Test func nothingOfAnEphemeralDiskHasAName() throws {
        let path = try image(ModelDisk(sectors: 64))
        let empty = try ScratchDirectory()
        let disk = try EphemeralDisk(over: try RawFileDisk(path: path, readOnly: true), scratchDirectory: empty.path)
        try disk.write(at: 3, block(1))
        #expect(entries(of: empty.path) == [])
        try disk.close()
        expectFailure(.notFound) { () throws(Failure) in
            _ = try EphemeralDisk(over: try DiscardDisk(byteCount: 512), scratchDirectory: empty.path + "/none")
        }
    }

    @Test(arguments: 0..<8 as Range<UInt64>) func blockSetIsASet(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        let count = UInt64.random(in: 1...200_000, using: &random)
        var set = BlockSet(blockCount: count)
        var model = [Bool](repeating: false, count: Int(count))
        for _ in 0..<30 {
            let first = UInt64.random(in: 0..<count, using: &random)
            let length = UInt64.random(in: 1...(Bool.random(using: &random) ? 200 : 70_000), using: &random)
            let last = min(count - 1, first + length - 1)
            set.insert(first...last)
            for block in first...last { model[Int(block)] = true }
        }
        let wrong = model.indices.first { set.contains(UInt64($0)) != model[$0] }
        #expect(wrong == nil, "seed \(seed)")
    }
}

/// Names in a directory.
private func entries(of path: String) -> [String] {
    guard let directory = unsafe opendir(path) else { return ["no such directory"] }
    defer { unsafe _ = closedir(directory) }
    var names: [String] = []
    while let entry = unsafe readdir(directory) {
        let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        if name != ".", name != ".." { names.append(name) }
    }
    return names
}
