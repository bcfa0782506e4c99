import BlobModel
import LMDB
import System
import Testing
import TestSupport

@testable import Maps

/// Trees over nodes of each kind, against dictionaries.
@Suite struct MapTreesTests {
    let scratch: ScratchDirectory

    init() throws { scratch = try ScratchDirectory() }

    /// A disk's map, and what it should be.
    struct Disk {
        var map: MapRoot
        var blockCount: UInt64
        var blocks: [UInt64: BlobNumber] = [:]

        init(blockCount: UInt64) {
            map = MapRoot(forBlocks: blockCount)
            self.blockCount = blockCount
        }
    }

    /// All of a store that has to do with maps, as of a commit.
    struct Content {
        var disks: [Disk] = []
        var nextNode: UInt64 = 1
        var references: [BlobNumber: Int64] = [:]
    }

    /// Sizes of trees of one level to five.
    private static let sizes: [UInt64] = [1, 300, 508, 509, 508 * 508, 508 * 508 + 1, 1 << 35]

    // MARK: Steps

    /// Blocks beside each other, here and there.
    private static func changes(_ disk: Disk, _ random: inout SeededGenerator) -> [MapChange] {
        var changes: [UInt64: BlobNumber] = [:]
        for _ in 0..<Int.random(in: 1...4, using: &random) {
            // Mostly near the beginning, so that some meet others.
            let first = UInt64.random(in: 0..<min(disk.blockCount, Bool.random(using: &random) ? 3000 : .max), using: &random)
            let blob = BlobNumber(pack: .random(in: 1...3, using: &random), slot: .random(in: 0..<9, using: &random))
            let unmaps = Int.random(in: 0..<3, using: &random) == 0
            for block in first..<min(first + .random(in: 1...700, using: &random), disk.blockCount) {
                changes[block] = unmaps ? BlobNumber.none : BlobNumber(pack: blob.pack, slot: blob.slot + Int(block % 50))
            }
        }
        return changes.sorted { $0.key < $1.key }.map { MapChange(block: $0.key, blob: $0.value) }
    }

    private static func change<Nodes: MapNodes>(
        _ content: inout Content, _ trees: MapTrees<Nodes>, _ writing: inout Nodes.Writing, _ random: inout SeededGenerator
    ) throws {
        var edit = MapEdit(nextNode: content.nextNode)
        let index = Int.random(in: 0..<content.disks.count, using: &random)
        var disk = content.disks[index]
        switch Int.random(in: 0..<9, using: &random) {
        case 6, 7:
            // Another disk becomes what this one is.
            let other = Int.random(in: 0..<content.disks.count, using: &random)
            try trees.share(disk.map, &writing)
            try trees.detach(content.disks[other].map, &writing)
            content.disks[other] = disk
        case 8: _ = try trees.free(leaves: .random(in: 1...3, using: &random), &edit, &writing)
        case 0:
            disk.blockCount = max(disk.blockCount, sizes.randomElement(using: &random)!)
            try trees.grow(&disk.map, toBlocks: disk.blockCount, &edit, &writing)
        case 1:
            let first = UInt64.random(in: 0..<min(disk.blockCount, 4000), using: &random)
            let end = Bool.random(using: &random) ? UInt64.max : first + .random(in: 0...2000, using: &random)
            var next = first
            while next < end {
                let done = try trees.unmap(&disk.map, from: next, to: end, leaves: .random(in: 1...3, using: &random), &edit, &writing)
                #expect(done > next)
                next = done
            }
            disk.blocks = disk.blocks.filter { !(first..<end).contains($0.key) }
        default:
            let changes = changes(disk, &random)
            try trees.change(&disk.map, changes[...], &edit, &writing)
            for change in changes { disk.blocks[change.block] = change.blob == .none ? nil : change.blob }
        }
        content.disks[index] = disk
        content.nextNode = edit.nextNode
        for reference in edit.references { content.references[reference.blob, default: 0] += reference.change }
    }

    // MARK: What must be true

    private static func expect(_ content: Content, _ place: some MapPlace, _ cache: ValueCache, _ seed: UInt64) throws {
        let trees = MapTrees(place.nodes)
        var references: [BlobNumber: Int64] = [:]
        try place.read { (reading, state) throws in
            var walk = MapWalk(trees, reading)
            for disk in content.disks {
                #expect(disk.map.mappedBlocks == UInt64(disk.blocks.count), "seed \(seed)")
                let walked = try walk.walk(disk.map) {
                    #expect(disk.blocks[$0] == $1, "seed \(seed)")
                    references[$1, default: 0] += 1
                } problem: {
                    Issue.record("\($0), seed \(seed)")
                }
                #expect(walked == MappedBlocks(count: disk.map.mappedBlocks, end: disk.blocks.keys.max().map { $0 + 1 } ?? 0), "seed \(seed)")
                let reader = trees.reader(disk.map, blockCount: disk.blockCount, reading, cache.places, state)
                var end: UInt64 = 0, mapped = 0
                try reader.forEachLeaf { (leaf) throws(Failure) in
                    #expect(leaf.first <= end && end < leaf.end, "seed \(seed)")
                    if !leaf.isEmpty { for block in leaf.first..<leaf.end where leaf.blob(block) != .none { mapped += 1 } }
                    end = leaf.end
                }
                #expect(end >= disk.blockCount && mapped == disk.blocks.count, "seed \(seed)")
                for block in Array(disk.blocks.keys.prefix(40)) + [0, disk.blockCount - 1] {
                    let leaf = try reader.leaf(over: block)
                    #expect(leaf.covers(block) && leaf.blob(block) == disk.blocks[block] ?? .none, "seed \(seed), block \(block)")
                }
            }
            try walk.walkDetached {
                references[$0, default: 0] += 1
            } problem: {
                Issue.record("\($0), seed \(seed)")
            }
            #expect(try walk.strangers() == 0, "seed \(seed)")
            try walk.checkReferences { Issue.record("\($0), seed \(seed)") }
            try expectReleases(content, trees, reading, references, seed)
            try expectDifferences(content, trees, reading, seed)
        }
        #expect(content.references.filter { $0.value != 0 } == references, "seed \(seed)")
    }

    /// What would go with some of the disks, by what the others keep.
    private static func expectReleases<Nodes: MapNodes>(
        _ content: Content, _ trees: MapTrees<Nodes>, _ reading: Nodes.Reading, _ all: [BlobNumber: Int64], _ seed: UInt64
    ) throws {
        for gone in 0..<1 << content.disks.count {
            var left: [BlobNumber: Int64] = [:]
            var walk = MapWalk(trees, reading)
            var release = MapRelease(trees, reading)
            var released: [BlobNumber: Int64] = [:]
            try release.releaseDetached { released[$0, default: 0] += 1 }
            for (index, disk) in content.disks.enumerated() {
                if gone >> index & 1 != 0 {
                    try release.release(disk.map) { released[$0, default: 0] += 1 }
                } else {
                    _ = try walk.walk(disk.map) {
                        left[$1, default: 0] += 1
                    } problem: {
                        Issue.record("\($0)")
                    }
                }
            }
            #expect(all.merging(released) { $0 - $1 }.filter { $0.value != 0 } == left, "seed \(seed)")
        }
    }

    private static func expectDifferences<Nodes: MapNodes>(
        _ content: Content, _ trees: MapTrees<Nodes>, _ reading: Nodes.Reading, _ seed: UInt64
    ) throws {
        for old in content.disks {
            for new in content.disks {
                var blocks = old.blocks
                var last: UInt64?
                try trees.forEachDifference(old.map, new.map, reading) { (block, before, after) throws(Failure) in
                    #expect(last ?? 0 < block || last == nil && block == 0)
                    #expect(before == blocks[block] ?? .none && before != after, "seed \(seed)")
                    blocks[block] = after == .none ? nil : after
                    last = block
                    return true
                }
                #expect(blocks == new.blocks, "seed \(seed)")
                // From the middle on, and no further than asked.
                guard let last else { continue }
                var found: [UInt64] = []
                try trees.forEachDifference(old.map, new.map, from: last, reading) { (block, _, _) throws(Failure) in
                    found.append(block)
                    return false
                }
                #expect(found == [last], "seed \(seed)")
            }
        }
    }

    private struct Dropped: Error {}

    @Test(arguments: Kind.allCases, 0..<4 as Range<UInt64>) func treesAreWhatDictionariesAre(kind: Kind, seed: UInt64) throws {
        try Self.treesAreWhatDictionariesAre(kind.make(scratch.path), seed)
    }

    private static func treesAreWhatDictionariesAre(_ place: some MapPlace, _ seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let trees = MapTrees(place.nodes)
        let cache = try ValueCache(capacity: 64)
        var content = Content()
        content.disks = (0..<3).map { _ in Disk(blockCount: sizes.randomElement(using: &random)!) }
        for _ in 0..<25 {
            var changed = content
            let steps = Int.random(in: 1...3, using: &random), isDropped = Int.random(in: 0..<5, using: &random) == 0
            do {
                try place.write { (writing) throws in
                    for _ in 0..<steps { try change(&changed, trees, &writing, &random) }
                    if isDropped { throw Dropped() }
                }
                content = changed
            } catch is Dropped {}
            try expect(content, place, cache, seed)
        }
        // All of it goes.
        try place.write { (writing) throws in
            for index in content.disks.indices {
                var edit = MapEdit(nextNode: content.nextNode)
                #expect(
                    try trees.unmap(&content.disks[index].map, from: 0, to: BlockMaps.maximumBlocks, leaves: .max, &edit, &writing) == BlockMaps.maximumBlocks)
                #expect(content.disks[index].map.node == 0 && content.disks[index].map.mappedBlocks == 0)
                while try trees.free(leaves: 1, &edit, &writing) {}
                content.nextNode = edit.nextNode
                for reference in edit.references { content.references[reference.blob, default: 0] += reference.change }
            }
        }
        #expect(content.references.allSatisfy { $0.value == 0 })
        try place.read { (reading, _) throws in
            #expect(try trees.nodeCount(reading) == 0 && place.nodes.sharedCount(reading) == 0 && !trees.hasDetached(reading))
        }
    }

    /// Of a tree of three levels, what has to be written for a block, and for what is so already.
    @Test(arguments: Kind.allCases) func whatStaysIsNotWritten(kind: Kind) throws {
        // What may not be written over takes its parents along.
        try Self.whatStaysIsNotWritten(kind.make(scratch.path), added: kind == .lmdb ? 0 : 3, replaced: kind == .lmdb ? 1 : 0)
    }

    private static func whatStaysIsNotWritten(_ place: some MapPlace, added: Int, replaced: Int) throws {
        let nodes = FaultyMapNodes(below: place.nodes)
        let trees = MapTrees(nodes)
        var map = MapRoot(forBlocks: 508 * 508 + 1), edit = MapEdit(nextNode: 1)
        func expect(_ block: UInt64, _ slot: Int, added: Int, replaced: Int) throws {
            let before = (nodes.faults.added.load(ordering: .relaxed), nodes.faults.replaced.load(ordering: .relaxed))
            try place.write { (writing) throws in
                try trees.change(&map, [MapChange(block: block, blob: BlobNumber(pack: 1, slot: slot))][...], &edit, &writing)
            }
            #expect(nodes.faults.added.load(ordering: .relaxed) - before.0 == added, "block \(block)")
            #expect(nodes.faults.replaced.load(ordering: .relaxed) - before.1 == replaced, "block \(block)")
        }
        try expect(9, 1, added: 3, replaced: 0)
        try expect(9, 2, added: added, replaced: replaced)
        try expect(9, 2, added: 0, replaced: 0)
        #expect(edit.references.reduce(0) { $0 + $1.change } == 1)
        try place.write { (writing) throws in
            #expect(try trees.unmap(&map, from: 10, to: 400, leaves: 1, &edit, &writing) == 400)
        }
        #expect(nodes.faults.added.load(ordering: .relaxed) == 3 + added && nodes.faults.replaced.load(ordering: .relaxed) == replaced)
    }

    // MARK: Faults

    /// A transaction that can't reach a node fails, is dropped, and done again; whoever reads tries again.
    @Test(arguments: Kind.allCases, 0..<3 as Range<UInt64>) func nodesThatCannotBeReached(kind: Kind, seed: UInt64) throws {
        try Self.nodesThatCannotBeReached(kind.make(scratch.path), seed)
    }

    private static func nodesThatCannotBeReached(_ place: some MapPlace, _ seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let faulty = FaultyMapNodes(below: place.nodes)
        let trees = MapTrees(faulty)
        let cache = try ValueCache(capacity: 64)
        var content = Content()
        content.disks = [Disk(blockCount: 508 * 508 + 1), Disk(blockCount: 3000)]
        var failures = 0
        for _ in 0..<12 {
            let before = random
            var calls = 0
            while true {
                random = before
                var changed = content
                faulty.faults.fail(behind: calls)
                do {
                    try place.write { (writing) throws in try change(&changed, trees, &writing, &random) }
                } catch {
                    #expect((error as? Failure) == failure)
                    failures += 1
                    // Each call of it fails once, at first; of many, some.
                    calls += calls < 12 ? 1 : 7
                    if failures % 10 == 0 { try expect(content, place, cache, seed) }
                    continue
                }
                content = changed
                break
            }
            faulty.faults.fail(behind: nil)
            try expect(content, place, cache, seed)
        }
        #expect(failures > 30)
        try place.write { (writing) throws in
            var edit = MapEdit(nextNode: content.nextNode)
            let mapped = MapChange(block: 77, blob: BlobNumber(pack: 1, slot: 1))
            try trees.change(&content.disks[0].map, [mapped][...], &edit, &writing)
            content.disks[0].blocks[mapped.block] = mapped.blob
        }
        try place.read { (reading, _) throws in
            let disk = content.disks[0]
            let block: UInt64 = 77
            let reader = trees.reader(disk.map, blockCount: disk.blockCount, reading)
            for calls in 0...disk.map.height {
                faulty.faults.fail(behind: calls)
                #expect(throws: failure) { _ = try trees.reader(disk.map, blockCount: disk.blockCount, reading).leaf(over: block) }
                #expect(try reader.leaf(over: block).blob(block) == disk.blocks[block])
                // A check says nothing of what it could not see.
                faulty.faults.fail(behind: calls)
                var walk = MapWalk(trees, reading)
                #expect(throws: failure) {
                    _ = try walk.walk(disk.map) { _, _ in
                    } problem: {
                        Issue.record("\($0)")
                    }
                }
            }
        }
    }

    @Test(arguments: Kind.allCases) func aDamagedNode(kind: Kind) throws { try Self.aDamagedNode(kind.make(scratch.path)) }

    private static func aDamagedNode(_ place: some MapPlace) throws {
        let trees = MapTrees(place.nodes)
        var map = MapRoot(forBlocks: 508 * 508)
        try place.write { (writing) throws in
            var edit = MapEdit(nextNode: 1)
            let changes = [0, 1000, 2000].map { MapChange(block: $0, blob: BlobNumber(pack: 1, slot: 1)) }
            try trees.change(&map, changes[...], &edit, &writing)
        }
        let leaf = try place.read { (reading, _) throws in try trees.reader(map, blockCount: 508 * 508, reading).leafPlace(over: 1000).node }
        for change: (inout [UInt8]) -> Void in [
            { $0[700] ^= 4 },
            {
                $0[700] ^= 4; $0.removeLast()
            }, { $0 = [] },
        ] {
            try place.damage(leaf, change)
            try place.read { (reading, _) throws in
                let reader = trees.reader(map, blockCount: 508 * 508, reading)
                do {
                    _ = try reader.leaf(over: 1000).end
                    Issue.record("it was read")
                } catch { #expect((error as? Failure)?.kind == .damage) }
                #expect(try reader.leaf(over: 2000).blob(2000) == BlobNumber(pack: 1, slot: 1))
                var walk = MapWalk(trees, reading)
                var found: [UInt64] = [], problems = 0
                _ = try walk.walk(map) { block, _ in
                    found.append(block)
                } problem: { _ in
                    problems += 1
                }
                #expect(found == [0, 2000] && problems == 1)
            }
            #expect(throws: Failure.self) {
                try place.write { (writing) throws in
                    var changed = map, edit = MapEdit(nextNode: 100)
                    try trees.change(&changed, [MapChange(block: 1001, blob: BlobNumber(pack: 1, slot: 1))][...], &edit, &writing)
                }
            }
        }
    }
}
