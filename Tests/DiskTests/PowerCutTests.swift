import BlockModel
import Glibc
import Store
import System
import Testing
import TestSupport

@testable import Disk

/// The power fails: of what was written to the journal after the last flush, any sectors may be on the disk and any
/// may be what they were before.
@Suite struct PowerCutTests {
    static let blocks = 512

    /// A store and a journal at a moment, and what the disk may hold after the power failed then.
    struct Moment {
        let scratch: ScratchDirectory
        let store: String
        let journal: String
        /// The journal as the last flush left it, and as it is in the page cache.
        let flushed, written: [UInt8]
        /// The model after the flush, and after each step since.
        let models: [[UInt8]]
        /// The journal's length after each step since the flush.
        let ends: [Int]
    }

    /// A disk with some flushed steps and some that are not, none of them in the map yet.
    /// - Parameter wrapping: with a ring that is full of older records, and begins anew within these.
    static func moment(seed: UInt64, wrapping: Bool) throws -> Moment {
        let scratch = try ScratchDirectory()
        let store = try Store(path: scratch.path + "/store", creating: true)
        try store.create("d", byteCount: UInt64(blocks * blockSize))
        let disk = try StoreDisk(store, "d", journalBytes: 4 << 20)
        let path = "\(store.path)/journals/1"
        var random = SeededGenerator(seed: seed)
        var model = ModelDisk(sectors: blocks * sectorsPerBlock)
        if wrapping {
            let start = try #require(try store.disk("d")).journal.sequence
            let (pieces, length) = (15, 66)
            for _ in 0..<pieces {
                let first = Int.random(in: 0..<blocks - length, using: &random)
                let data = (0..<length).flatMap { _ in block(UInt64.random(in: 1...1000, using: &random)) }
                try disk.write(at: UInt64(first * 8), data)
                model.write(at: first * 8, data)
            }
            // Until the map has them all.
            try waitUntil { try store.disk("d")?.journal.sequence == start + UInt64(pieces) && disk.stagedBytes == 0 }
        }
        disk.holdBack()
        var flushed: [UInt8] = []
        var models: [[UInt8]] = []
        var ends: [Int] = []
        let steps = wrapping ? 24 : 12
        for index in 0..<steps {
            let first = Int.random(in: 0..<blocks - 8, using: &random)
            let count = Int.random(in: 1...(wrapping ? 7 : 3), using: &random)
            if Int.random(in: 0..<5, using: &random) == 0 {
                try disk.discard(try #require(SectorRange(start: UInt64(first * 8), count: UInt64(count * 8))))
                model.discard(at: first * 8, count: count * 8)
            } else {
                let data = (0..<count).flatMap { _ in block(UInt64.random(in: 1...1000, using: &random)) }
                try disk.write(at: UInt64(first * 8), data)
                model.write(at: first * 8, data)
            }
            if index == steps / 3 {
                try disk.flush()
                flushed = try Files.bytes(path)
                if !wrapping { flushed = Array(flushed.prefix(Int(disk.journalEnd))) }
            }
            if index >= steps / 3 {
                models.append(model.bytes)
                ends.append(Int(disk.journalEnd))
            }
        }
        let copy = scratch.path + "/copy"
        // Behind the last record are zeros, which are not looked at when the ring has not begun anew.
        let written = wrapping ? try Files.bytes(path) : Array(try Files.bytes(path).prefix(ends.last ?? 0))
        #expect(try Child("/bin/cp", ["-r", "--sparse=always", store.path, copy]).wait().status == 0)
        try disk.close()
        return Moment(
            scratch: scratch, store: copy, journal: copy + "/journals/1", flushed: flushed, written: written, models: models, ends: ends)
    }

    /// Opens a copy of the store with that journal; what the disk holds then.
    static func open(_ moment: Moment, journal: [UInt8]) throws -> [UInt8] {
        let path = moment.scratch.path + "/run"
        unsafe mkdir(path, 0o700)
        _ = try Child("/bin/cp", ["-r", "--sparse=always", moment.store + "/.", path]).wait()
        try Files.write(path + "/journals/1", journal)
        let store = try Store(path: path)
        let disk = try StoreDisk(store, "d", journalBytes: 4 << 20)
        let found = try disk.contents()
        try disk.close()
        #expect(try store.check(readData: false, repair: false) { _, _ in }.problems == [])
        return found
    }

    @Test(arguments: 0..<4) func cutAtAnyLength(seed: Int) throws {
        let moment = try Self.moment(seed: UInt64(seed), wrapping: false)
        var random = SeededGenerator(seed: UInt64(seed))
        for (steps, end) in moment.ends.enumerated() {
            // At the record's end, all steps up to here; a byte less, or somewhere before, one less.
            #expect(try Self.open(moment, journal: Array(moment.written.prefix(end))) == moment.models[steps], "seed \(seed)")
            guard steps > 0 else { continue }
            let short = Int.random(in: moment.ends[steps - 1]..<end, using: &random)
            for length in [end - 1, short] {
                #expect(try Self.open(moment, journal: Array(moment.written.prefix(length))) == moment.models[steps - 1], "seed \(seed), \(length) bytes")
            }
        }
    }

    @Test(arguments: [false, true], 0..<4) func anySectorsMayBeLost(wrapping: Bool, seed: Int) throws {
        let moment = try Self.moment(seed: UInt64(100 + seed), wrapping: wrapping)
        // In place of what was never there, zeros, or nothing.
        let old = moment.flushed + [UInt8](repeating: 0, count: max(0, moment.written.count - moment.flushed.count))
        #expect(try Self.open(moment, journal: moment.written) == moment.models.last, "seed \(seed)")
        #expect(try Self.open(moment, journal: moment.flushed) == moment.models[0], "seed \(seed)")
        var random = SeededGenerator(seed: UInt64(seed))
        var seen: Set<Int> = []
        for round in 0..<12 {
            var journal = old
            let unit = [512, 4096][round % 2]
            let chance = Int.random(in: 1...30, using: &random)
            for start in stride(from: 0, to: journal.count, by: unit) where Int.random(in: 0..<chance, using: &random) > 0 {
                let range = start..<min(start + unit, journal.count)
                journal.replaceSubrange(range, with: moment.written[range])
            }
            if Bool.random(using: &random) { journal.removeLast(Int.random(in: 0...journal.count - moment.flushed.count, using: &random)) }
            let steps = moment.models.firstIndex(of: try Self.open(moment, journal: journal))
            #expect(steps != nil, "wrapping \(wrapping), seed \(seed), round \(round): neither the flushed state nor a later one")
            seen.insert(steps ?? -1)
        }
        #expect(seen.count > 1, "seed \(seed): every cut ended alike")
    }

    /// The first record is lost and later ones are not, which come to lie behind the next writer's first: its truncation is
    /// lost, too.
    @Test func recordsOfAnOlderWriterNeverFitBehindNewerOnes() throws {
        let scratch = try ScratchDirectory()
        func copy(_ from: String, _ to: String) throws -> Store {
            #expect(try Child("/bin/cp", ["-r", "--sparse=always", from, scratch.path + "/" + to]).wait().status == 0)
            return try Store(path: scratch.path + "/" + to)
        }
        let store = try Store(path: scratch.path + "/store", creating: true)
        try store.create("d", byteCount: 8 * 4096)
        var disk = try StoreDisk(store, "d")
        disk.holdBack()
        for number in 0..<3 as Range<UInt64> { try disk.write(at: number * 8, block(number + 1)) }
        let second = try copy(store.path, "second")
        try disk.close()
        let journal = second.path + "/journals/1"
        try Files.flip(journal, at: 100)
        let old = try Files.bytes(journal)
        disk = try StoreDisk(second, "d")
        disk.holdBack()
        try disk.write(at: 40, block(9))
        let record = Int(disk.journalEnd)
        let third = try copy(second.path, "third")
        try disk.close()
        let new = try Files.bytes(third.path + "/journals/1")
        try Files.write(third.path + "/journals/1", Array(new[..<record] + old[record...]))
        disk = try StoreDisk(third, "d")
        let zeros = [UInt8](repeating: 0, count: 5 * 4096)
        #expect(try disk.contents() == zeros + block(9) + zeros.prefix(2 * 4096))
        try disk.close()
    }

    @Test func rotInAFlushedRecordEndsTheJournalThere() throws {
        let moment = try Self.moment(seed: 1, wrapping: false)
        for place in [8, 20, 70, 3000] {
            var journal = moment.written
            journal[moment.ends[0] + place] ^= 1
            #expect(try Self.open(moment, journal: journal) == moment.models[0])
        }
    }
}
