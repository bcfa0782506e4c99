import Maps
import System
import Testing
import TestSupport

@testable import Catalogue

/// What every catalogue does, whatever it keeps its records in.
@Suite struct DiskCatalogueTests {
    let scratch: ScratchDirectory

    init() throws { scratch = try ScratchDirectory() }

    enum Kind: CaseIterable { case lmdb, memory }

    private func make(_ kind: Kind) throws -> any CataloguePlace { kind == .lmdb ? try LMDBPlace(scratch.path) : MemoryPlace() }

    private static func record(_ name: String, _ random: inout SeededGenerator) -> DiskRecord {
        var disk = DiskRecord(
            name: name, number: .random(in: 1 ... .max, using: &random), byteCount: .random(in: 1...1 << 38, using: &random) * 512,
            created: .random(in: 0 ... .max, using: &random))
        change(&disk, &random)
        return disk
    }

    private static func change(_ disk: inout DiskRecord, _ random: inout SeededGenerator) {
        disk.byteCount = .random(in: 1...1 << 38, using: &random) * 512
        disk.map = MapRoot(
            node: .random(in: 0 ... .max, using: &random), height: .random(in: 0...4, using: &random), mappedBlocks: .random(in: 0...99, using: &random))
        disk.isIncomplete = .random(using: &random)
        disk.journal = JournalPosition(sequence: .random(in: 0 ... .max, using: &random), offset: .random(in: 0 ... .max, using: &random))
    }

    private static func expect(_ model: [String: DiskRecord], _ place: some CataloguePlace, location: SourceLocation = #_sourceLocation) throws {
        try place.read { (reading) throws in
            for (name, disk) in model { #expect(try place.catalogue.disk(name, reading) == disk, sourceLocation: location) }
            let sorted = model.values.sorted { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
            #expect(try place.catalogue.disks(reading) == sorted, sourceLocation: location)
            for prefix in ["", "d", "d1", "\u{c3a4}", "ä", "e", "~", String(repeating: "n", count: 255)] {
                let expected = sorted.filter { $0.name.utf8.starts(with: prefix.utf8) }
                #expect(try place.catalogue.disks(beginning: prefix, reading) == expected, "\(prefix)", sourceLocation: location)
            }
        }
    }

    /// Adds, changes and removes against a dictionary.
    @Test(arguments: Kind.allCases, 0..<4 as Range<UInt64>) func whatIsPutIsFound(kind: Kind, seed: UInt64) throws {
        try Self.whatIsPutIsFound(make(kind), seed)
    }

    private static func whatIsPutIsFound(_ place: some CataloguePlace, _ seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        var model: [String: DiskRecord] = [:]
        // Some that begin alike, the longest, and bytes of all kinds.
        let names = (0..<40).map { "d\($0)" } + ["d", "D", "ä", "z", "\u{10ffff}", String(repeating: "n", count: 255)]
        for _ in 0..<60 {
            try place.write { (writing) throws in
                for name in (0..<3).map({ _ in names.randomElement(using: &random)! }) {
                    if var disk = model[name] {
                        if Bool.random(using: &random) {
                            try place.catalogue.remove(name, &writing)
                            model[name] = nil
                        } else {
                            change(&disk, &random)
                            try place.catalogue.change(disk, &writing)
                            model[name] = disk
                        }
                    } else {
                        let disk = record(name, &random)
                        try place.catalogue.add(disk, &writing)
                        model[name] = disk
                    }
                    let seen = try place.look(writing) { try place.catalogue.disk(name, $0) }
                    #expect(seen == model[name], "seed \(seed)")
                }
            }
            try expect(model, place)
        }
    }

    @Test(arguments: Kind.allCases) func aNameIsAddedOnce(kind: Kind) throws { try Self.aNameIsAddedOnce(make(kind)) }

    private static func aNameIsAddedOnce(_ place: some CataloguePlace) throws {
        var random = SeededGenerator(seed: 1)
        let disk = record("d", &random), other = record("d", &random)
        try place.write { (writing) throws in
            try place.catalogue.add(disk, &writing)
            let failure = try #require(throws: Failure.self) { try place.catalogue.add(other, &writing) }
            #expect(failure.kind == .exists)
        }
        try expect(["d": disk], place)
        try place.write { (writing) throws in
            #expect(throws: Failure.self) { try place.catalogue.add(other, &writing) }
            // What is not there can be removed.
            try place.catalogue.remove("e", &writing)
            try place.catalogue.remove("d", &writing)
            try place.catalogue.add(other, &writing)
        }
        try expect(["d": other], place)
    }

    /// Names that look alike, and that Swift takes for equal, are of two disks.
    @Test(arguments: Kind.allCases) func aNameIsItsBytes(kind: Kind) throws { try Self.aNameIsItsBytes(make(kind)) }

    private static func aNameIsItsBytes(_ place: some CataloguePlace) throws {
        var random = SeededGenerator(seed: 2)
        let one = record("\u{e9}", &random), two = record("e\u{301}", &random)
        #expect(one.name == two.name)
        try place.write { (writing) throws in
            try place.catalogue.add(one, &writing)
            try place.catalogue.add(two, &writing)
        }
        try place.read { (reading) throws in
            #expect(try place.catalogue.disk("\u{e9}", reading)?.number == one.number)
            #expect(try place.catalogue.disk("e\u{301}", reading)?.number == two.number)
            #expect(try place.catalogue.disks(reading).map(\.number) == [two.number, one.number])
        }
    }

    @Test(arguments: Kind.allCases) func allOfATransactionOrNothing(kind: Kind) throws { try Self.allOfATransactionOrNothing(make(kind)) }

    private struct Dropped: Error {}

    private static func allOfATransactionOrNothing(_ place: some CataloguePlace) throws {
        var random = SeededGenerator(seed: 3)
        let disk = record("d", &random), other = record("e", &random)
        var changed = disk
        change(&changed, &random)
        try place.write { (writing) throws in try place.catalogue.add(disk, &writing) }
        #expect(throws: Dropped.self) {
            try place.write { (writing) throws in
                try place.catalogue.change(changed, &writing)
                try place.catalogue.add(other, &writing)
                throw Dropped()
            }
        }
        try expect(["d": disk], place)
        // What somebody reads stays what it was.
        try place.read { (reading) throws in
            try place.write { (writing) throws in
                try place.catalogue.change(changed, &writing)
                try place.catalogue.add(other, &writing)
            }
            #expect(try place.catalogue.disks(reading) == [disk])
        }
        try expect(["d": changed, "e": other], place)
    }

    @Test(arguments: Kind.allCases) func aDamagedRecordIsNone(kind: Kind) throws { try Self.aDamagedRecordIsNone(make(kind)) }

    private static func aDamagedRecordIsNone(_ place: some CataloguePlace) throws {
        var random = SeededGenerator(seed: 4)
        let good = record("good", &random)
        try place.write { (writing) throws in try place.catalogue.add(good, &writing) }
        for number in 0..<82 {
            let bad = record("bad", &random)
            try place.write { (writing) throws in
                try place.catalogue.change(bad, &writing)
                // A bit of each byte, and a byte less or more.
                try place.damage(
                    "bad", { if number < 80 { $0[number] ^= 1 << (number % 8) } else if number == 80 { $0.removeLast() } else { $0.append(0) } }, &writing)
            }
            try place.read { (reading) throws in
                let one = try #require(throws: Failure.self) { _ = try place.catalogue.disk("bad", reading) }
                let all = try #require(throws: Failure.self) { _ = try place.catalogue.disks(reading) }
                #expect(one.kind == .damage && all.kind == .damage, "byte \(number)")
                #expect(try place.catalogue.disk("good", reading) == good)
            }
        }
    }
}
