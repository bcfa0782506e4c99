import BlockModel
import Catalogue
import System
import Testing
import TestSupport

@testable import Store

/// Snapshots, clones and what becomes of them, against a dictionary.
@Suite struct CopiesTests {
    let scratch: ScratchDirectory
    let store: Store

    init() throws {
        scratch = try ScratchDirectory()
        store = try Store(path: scratch.path + "/store", creating: true)
    }

    /// A copy of what a disk or a snapshot is now.
    private func copy(_ name: String) throws -> DiskLock {
        let copy = try store.beginCopy()
        try store.fill([(copy.record.name, name)])
        return copy
    }

    private func name(_ copy: consuming DiskLock, _ name: CopyName) throws { try store.name([(copy.record.name, name)]) }

    private func snapshot(_ disk: String, _ name: String) throws {
        try self.name(copy(disk), .snapshot(#require(SnapshotName("\(disk)@\(name)"))))
    }

    private func clone(_ name: String, _ new: String) throws { try self.name(copy(name), .disk(new)) }

    /// What there should be: the blocks of each disk and snapshot, 0 where there is none.
    private typealias Model = [String: [UInt64]]

    private static let blockCount = 1200

    private static func isSnapshot(_ name: String) -> Bool { name.contains("@") }

    private static func distinct(_ model: Model, _ isWanted: (String) -> Bool) -> Set<UInt64> {
        Set(model.filter { isWanted($0.key) }.values.flatMap { $0 }).subtracting([0])
    }

    private func expect(_ model: Model, _ note: Comment) throws {
        let found = try store.statistics()
        let all = Self.distinct(model) { _ in true }, ofDisks = Self.distinct(model) { !Self.isSnapshot($0) }
        func mapped(_ isWanted: (String) -> Bool) -> UInt64 {
            UInt64(model.filter { isWanted($0.key) }.values.reduce(0) { $0 + $1.count { $0 != 0 } }) * 4096
        }
        #expect(found.uniqueBytes == UInt64(all.count) * 4096, note)
        #expect(found.uniqueOfDisksBytes == UInt64(ofDisks.count) * 4096, note)
        #expect(found.mappedBytes == mapped { !Self.isSnapshot($0) }, note)
        #expect(found.snapshotBytes == mapped { Self.isSnapshot($0) }, note)
        #expect(found.disks.map(\.name) == model.keys.filter { !Self.isSnapshot($0) }.sorted(), note)
        for disk in found.disks {
            let own = model.keys.filter { $0 == disk.name || $0.hasPrefix(disk.name + "@") }
            #expect(Set(disk.snapshots.map(\.name)) == Set(own.filter(Self.isSnapshot)), note)
            for entry in [disk] + disk.snapshots {
                let gone = entry.name == disk.name ? Set(own) : [entry.name]
                let exclusive = all.subtracting(Self.distinct(model) { !gone.contains($0) })
                #expect(entry.exclusiveBytes == UInt64(exclusive.count) * 4096, "\(note), \(entry.name)")
            }
        }
        #expect(try store.check(readData: false, repair: false) { _, _ in }.problems == [], note)
    }

    private func expectContent(_ model: Model, _ note: Comment) throws {
        for (name, blocks) in model {
            #expect(try SharingTests.read(name, of: store, blocks: blocks.count) == blocks.flatMap { block($0) }, "\(note), \(name)")
        }
    }

    @Test(arguments: 0..<12) func copiesAreWhatDictionariesAre(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        var model: Model = [:]
        for step in 0..<40 {
            try take(&model, step, &random)
            try expect(model, "seed \(seed), step \(step)")
        }
        try expectContent(model, "seed \(seed)")
        _ = try store.collect(shouldStop: { false }) { _, _ in }
        try expect(model, "seed \(seed), at the end")
        #expect(try store.statistics().reclaimableBytes == 0)
        try expectContent(model, "seed \(seed), at the end")
        for disk in model.keys where !Self.isSnapshot(disk) { try store.delete(try store.lock(disk), recursive: true) }
        _ = try store.collect(shouldStop: { false }) { _, _ in }
        try expect([:], "seed \(seed), nothing")
        #expect(try store.check(readData: false, repair: false) { _, _ in }.blobs == 0)
    }

    private func take(_ model: inout Model, _ step: Int, _ random: inout SeededGenerator) throws {
        let disks = model.keys.filter { !Self.isSnapshot($0) }.sorted(), snapshots = model.keys.filter(Self.isSnapshot).sorted()
        let disk = disks.randomElement(using: &random), snapshot = snapshots.randomElement(using: &random)
        switch (Int.random(in: 0..<12, using: &random), disk, snapshot) {
        case (0, let disk?, _):
            try self.snapshot(disk, "s\(step)")
            model["\(disk)@s\(step)"] = model[disk]
        case (1, let disk?, let snapshot):
            let source = Bool.random(using: &random) ? disk : snapshot ?? disk
            try clone(source, "d\(step)")
            model["d\(step)"] = model[source]
        case (2, _, let snapshot?):
            let name = try #require(SnapshotName(snapshot))
            try store.rollBack(store.lock(name.disk), to: name, journal: JournalPosition(sequence: UInt64(step) << 32, offset: 0))
            model[name.disk] = model[snapshot]
        case (3, let disk?, _):
            try store.rename(store.lock(disk), to: "r\(step)")
            for (name, blocks) in model where name == disk || name.hasPrefix(disk + "@") {
                model[name] = nil
                model["r\(step)" + name.dropFirst(disk.count)] = blocks
            }
        case (4, let disk?, _):
            try store.delete(store.lock(disk), recursive: true)
            model = model.filter { $0.key != disk && !$0.key.hasPrefix(disk + "@") }
        case (5, _, let snapshot?):
            try store.delete(store.lock(snapshot))
            model[snapshot] = nil
        case (6, _, _): _ = try store.collect(shouldStop: { false }) { _, _ in }
        default:
            // Some of them far behind the others; what is 0 unmaps.
            let name = disk ?? "d\(step)"
            var blocks = model[name] ?? [UInt64](repeating: 0, count: Self.blockCount)
            if model[name] == nil { try store.create(name, byteCount: UInt64(Self.blockCount * blockSize)) }
            var changes: [Int: UInt64] = [:]
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                let first = Int.random(in: 0..<Self.blockCount, using: &random)
                for index in first..<min(first + .random(in: 1...300, using: &random), Self.blockCount) {
                    changes[index] = .random(in: 0...700, using: &random)
                }
            }
            try store.write(name, changes.sorted { $0.key < $1.key }.map { (UInt64($0.key), block($0.value)) })
            for (index, value) in changes { blocks[index] = value }
            model[name] = blocks
        }
    }

    /// What a name stands for: nothing else is reached by it, and nothing is taken that is there.
    @Test func namesOfSnapshots() throws {
        try store.create("d", byteCount: 1 << 20)
        try store.create("e", byteCount: 1 << 20)
        try snapshot("d", "a")
        #expect(try store.disks().map(\.name) == ["d", "e"] && store.snapshots(of: "d").map(\.name) == ["d@a"])
        #expect(throws: Failure.self) { try snapshot("d", "a") }
        for name in ["", "a b", "a/b", "-a", ".a"] { #expect(throws: Failure.self, "'\(name)'") { try snapshot("d", name) } }
        #expect(throws: Failure.self) { try snapshot("f", "a") }
        // A snapshot has none.
        #expect(throws: Failure.self) { try snapshot("d@a", "b") }
        #expect(throws: Failure.self) { try store.create("d@b", byteCount: 1 << 20) }
        let busy = try #require(throws: Failure.self) { try store.delete(store.lock("d")) }
        #expect(busy.kind == .invalidRequest && busy.why == "it has 1 snapshot")
        // Of another disk.
        #expect(throws: Failure.self) {
            try store.rollBack(store.lock("e"), to: #require(SnapshotName("d@a")), journal: JournalPosition(sequence: 0, offset: 0))
        }
        try store.rename(store.lock("d@a"), to: "d@b")
        #expect(throws: Failure.self) { try store.rename(store.lock("d@b"), to: "e@b") }
        #expect(throws: Failure.self) { try store.rename(store.lock("d@b"), to: "f") }
        #expect(throws: Failure.self) { try store.rename(store.lock("d"), to: "e") }
        #expect(try store.snapshots(of: "d").map(\.name) == ["d@b"])
        // What failed has left nothing.
        try store.removeLeftovers()
        #expect(try store.check(readData: false, repair: false) { _, _ in }.disks == 2)
    }

    /// Who reads a snapshot keeps it.
    @Test func aSnapshotInUse() throws {
        try store.create("d", byteCount: 1 << 20)
        try snapshot("d", "a")
        try snapshot("d", "b")
        let held = try store.lock("d@a", exclusive: false)
        for operation in [
            { try store.delete(store.lock("d"), recursive: true) }, { try store.delete(store.lock("d@a")) }, { try store.rename(store.lock("d"), to: "e") },
        ] {
            let failure = try #require(throws: Failure.self) { try operation() }
            #expect(failure.kind == .busy)
            #expect(try store.snapshots(of: "d").map(\.name) == ["d@a", "d@b"])
        }
        _ = consume held
        try store.delete(store.lock("d"), recursive: true)
        #expect(try store.snapshots().isEmpty && store.disks().isEmpty)
    }

    /// All of several get their names, or none.
    @Test func severalAtOnce() throws {
        for name in ["d", "e"] { try store.create(name, byteCount: 1 << 20) }
        try snapshot("e", "a")
        let one = try copy("d"), other = try copy("e")
        let names = try ["d@a", "e@a"].map { CopyName.snapshot(try #require(SnapshotName($0))) }
        #expect(throws: Failure.self) { try store.name([(one.record.name, names[0]), (other.record.name, names[1])]) }
        #expect(try store.snapshots().map(\.name) == ["e@a"])
        try store.delete(store.lock("e@a"))
        try store.name([(one.record.name, names[0]), (other.record.name, names[1])])
        #expect(try store.snapshots().map(\.name) == ["d@a", "e@a"])
    }

    /// A copy whose holder is gone is removed, and no other.
    @Test func whatIsLeftOfACopy() throws {
        try store.create("d", byteCount: 1 << 20)
        try store.write("d", [1, 2, 3].map { block($0) })
        do { _ = try copy("d") }
        let held = try copy("d")
        try store.removeLeftovers()
        #expect(try store.check(readData: false, repair: false) { _, _ in }.disks == 2)
        _ = consume held
        try store.removeLeftovers()
        #expect(try store.check(readData: false, repair: false) { _, _ in }.disks == 1)
        #expect(try store.statistics().uniqueBytes == 3 * 4096)
    }

    /// A copy that is kept for somebody outlives whoever made it, until its owner is gone, or the machine's start.
    @Test func whatIsKept() throws {
        func kept() throws -> Set<String> {
            Set(try ["7-1", "7-2", "8-1"].filter { if case .some = try store.lockKeptCopy(of: $0) { true } else { false } })
        }
        func keep(_ owner: String, _ disk: String) throws {
            let copy = try store.beginCopy(keptFor: owner)
            try store.fill([(copy.record.name, disk)])
        }
        try store.create("d", byteCount: 1 << 20)
        try store.write("d", [1, 2, 3].map { block($0) })
        for owner in ["7-1", "7-2", "8-1"] { try keep(owner, "d") }
        try store.removeLeftovers()
        #expect(try kept() == ["7-1", "7-2", "8-1"])
        #expect(try store.disks().map(\.name) == ["d"])
        try store.removeKeptCopy(of: "7-2")
        #expect(try kept() == ["7-1", "8-1"])
        // One that is in use is not touched; nor is one whose owner is there.
        do {
            let held = try store.lockKeptCopy(of: "7-1")
            try store.removeKeptCopies(butOf: ["8-1"])
            _ = consume held
        }
        #expect(try kept() == ["7-1", "8-1"])
        try store.removeKeptCopies(butOf: ["8-1"])
        #expect(try kept() == ["8-1"])
        // Another with the same number, or after one that was killed at once: it begins anew.
        try store.write("d", [4].map { block($0) })
        try keep("8-1", "d")
        let again = try store.beginCopy(keptFor: "8-1")
        #expect(try kept() == [])
        _ = consume again
        try keep("8-1", "d")
        #expect(try store.check(readData: false, repair: false) { _, _ in }.disks == 2)
        // Of another start of the machine.
        let stranger = try store.makeDisk(".kept-another-8-1", byteCount: 512, incomplete: true)
        _ = consume stranger
        try store.removeLeftovers()
        #expect(try store.check(readData: false, repair: false) { _, _ in }.disks == 2)
    }
}
