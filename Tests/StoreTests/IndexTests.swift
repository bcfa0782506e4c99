import BlobModel
import BlockModel
import Hashing
import Maps
import System
import Testing
import TestSupport

@testable import Index
@testable import LMDB
@testable import Packs
@testable import Store

/// Index and maps against the dictionaries that they stand for.
@Suite struct IndexTests {
    let scratch: ScratchDirectory
    let store: Store

    init() throws {
        scratch = try ScratchDirectory()
        store = try Store(path: scratch.path + "/store", creating: true)
    }

    /// All entries, in the buckets' order; checks that each is where a lookup goes.
    func entries() throws -> [IndexEntry] {
        let reading = try ReadTransaction(store.meta)
        var all: [IndexEntry] = []
        try store.parts.index.forEachBucket(reading.view, damaged: { (failure) throws(Failure) in throw failure }) { (entry, key) throws(Failure) in
            all.append(entry)
            #expect(entry.prefix >= key)
            return true
        }
        return all
    }

    func store(_ digests: [Digest], pack number: UInt64) throws { try store.addPack(number, of: digests) }

    func lookup(_ digest: Digest) throws -> BlobNumber? {
        let reading = try ReadTransaction(store.meta)
        let packs = try store.snapshot()
        var cursor = try reading.view.cursor(store.parts.index.index)
        var finder = PackFinder(packs)
        return try Bucket.lookup(digest, &cursor) { (blob) throws(Failure) in try finder.holds(digest, blob) }
    }

    @Test(arguments: [1, 2]) func twentyThousandEntries(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        var expected: [Digest: BlobNumber] = [:]
        for number in 1...20 as ClosedRange<UInt64> {
            // Some digests huddle together, so that buckets split unevenly.
            let digests = (0..<1000).map { _ in
                Digest(Int.random(in: 0..<4, using: &random) == 0 ? random.next() >> 20 : random.next(), random.next(), 0, 0)
            }
            try store(digests, pack: number)
            for (slot, digest) in digests.enumerated() { expected[digest] = BlobNumber(pack: number, slot: slot) }
        }
        let found = try entries()
        #expect(found.count == expected.count)
        #expect(found == found.sorted())
        #expect(Set(found.map(\.blob)) == Set(expected.values))
        for (digest, blob) in expected.prefix(3000) { #expect(try lookup(digest) == blob, "seed \(seed)") }
        for _ in 0..<200 { #expect(try lookup(Digest(random.next(), 1, 2, 3)) == nil) }
        #expect(try store.check(readData: false, repair: false) { _, _ in }.problems == [])
    }

    /// More digests that share their first 48 bits than a bucket holds.
    @Test func collidingPrefixes() throws {
        var random = SeededGenerator(seed: 3)
        let prefix: UInt64 = 0x1234_5678_9abc
        let colliding = (0..<700).map { Digest(prefix << 16 | UInt64($0), random.next(), 0, 0) }
        let others = (0..<700).map { _ in Digest(random.next(), random.next(), 0, 0) }
        for (number, start) in stride(from: 0, to: 700, by: 100).enumerated() {
            try store(Array(colliding[start..<start + 100]) + Array(others[start..<start + 100]), pack: UInt64(number + 1))
        }
        for (index, digest) in colliding.enumerated() {
            #expect(try lookup(digest) == BlobNumber(pack: UInt64(index / 100 + 1), slot: index % 100))
        }
        for (index, digest) in others.enumerated() {
            #expect(try lookup(digest) == BlobNumber(pack: UInt64(index / 100 + 1), slot: 100 + index % 100))
        }
        #expect(try lookup(Digest(prefix << 16 | 5, 0, 0, 0)) == nil)
        #expect(try lookup(Digest((prefix - 1) << 16, 0, 0, 0)) == nil)
        #expect(try lookup(Digest((prefix + 1) << 16, 0, 0, 0)) == nil)
        #expect(try store.check(readData: false, repair: false) { _, _ in }.problems == [])
    }

    /// What is known of one state, and of one key, is not taken for another's.
    @Test func cachedValuesBelongToAStateAndAKey() throws {
        let digests = (0..<40).map { Digest(UInt64($0) << 20, 1, 2, 3) }
        try store(digests, pack: 1)
        try store(digests, pack: 17)
        let table = try store.packTable
        let reading = try ReadTransaction(table.environment)
        let view = reading.view
        let cache = try ValueCache(capacity: 16)
        defer { withExtendedLifetime(cache) {} }
        func insert(_ pack: UInt64) throws {
            guard let value = try view.value(table.packs, PackVersion(pack, 0).key) else { throw Failure(.damage, "pack \(pack)", "missing") }
            cache.places.insert(pack, in: 5, value, note: Int(pack) + 40)
        }
        /// The number in the pack that is known, and what was noted of it.
        func found(_ pack: UInt64, in state: Int) -> [UInt64] {
            guard let value = cache.places.value(pack, in: state, view), let place = unsafe cache.places.find(pack, in: state) else { return [] }
            return unsafe [value.load(at: 8), UInt64(place.note)]
        }
        #expect(found(1, in: 5) == [])
        try insert(1)
        #expect(found(1, in: 5) == [1, 41])
        #expect(found(1, in: 6) == [])
        #expect(found(17, in: 5) == [])
        try insert(17)
        #expect(found(17, in: 5) == [17, 57])
        #expect(found(1, in: 5) == [])
        // A finder that takes what was noted, seen or not.
        let packs = try store.snapshot()
        for blob in [BlobNumber(pack: 1, slot: 3), BlobNumber(pack: 17, slot: 3), BlobNumber(pack: 1, slot: 39)] {
            var finder = PackFinder(packs, cache.places, rewrites: 0)
            try finder.prefetch(blob)
            #expect(try finder.digest(blob) == digests[blob.slot])
            #expect(try finder.digest(BlobNumber(pack: blob.pack, slot: 40)) == nil)
        }
        var finder = PackFinder(packs, cache.places, rewrites: 0)
        try finder.prefetch(BlobNumber(pack: 2, slot: 0))
        #expect(try finder.digest(BlobNumber(pack: 2, slot: 0)) == nil)
    }

    /// Evenly spread digests, and such as are not: those of some ranges only.
    @Test(arguments: [0, 1, 40, 5000], [false, true]) func cachedBucketsAreWhereLMDBFindsThem(count: Int, isUneven: Bool) throws {
        var random = SeededGenerator(seed: UInt64(count))
        func word() -> UInt64 {
            let word = random.next()
            return isUneven ? word >> UInt64.random(in: 0...40, using: &random) : word
        }
        if count > 0 { try store((0..<count).map { _ in Digest(word(), 0, 0, 0) }, pack: 1) }
        let known = try #require(try BucketCache(store.meta, store.parts.index.index))
        let reading = try ReadTransaction(store.meta)
        var cursor = try reading.view.cursor(store.parts.index.index)
        let edges = [0, 1, Bucket.prefixes - 1] + (try entries().map(\.prefix))
        for prefix in edges + (0..<2000).map({ _ in word() >> 16 }) {
            let found = try Bucket.seek(prefix, &cursor)
            let (key, end, start) = unsafe known.bucket(of: prefix).map { unsafe ($0.key, $0.end, UInt(bitPattern: $0.bytes.baseAddress)) } ?? (0, 0, 0)
            #expect(found?.key ?? 0 == key && found?.end ?? 0 == end)
            let address = found == nil ? 0 : unsafe cursor.value.withUnsafeBytes { UInt(bitPattern: $0.baseAddress) }
            #expect(address == start)
        }
    }

    // MARK: Maps

    /// Sizes whose trees have 1 to 4 levels; the model maps blocks to blobs.
    @Test(arguments: [500, 508 * 4 + 3, 508 * 508 + 9, 508 * 508 * 508 + 77] as [UInt64], 0..<3)
    func aMapIsADictionary(blocks: UInt64, seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed))
        try store((0..<200).map { Digest(UInt64($0 + 1) << 50, 0, 0, 0) }, pack: 1)
        try store.create("d", byteCount: blocks * 4096)
        #expect(try #require(try store.disk("d")).map.height == ["500": 0, "2035": 1, "258073": 2][String(blocks)] ?? 3)
        var model: [UInt64: BlobNumber] = [:]
        for round in 0..<12 {
            if round % 4 != 3 {
                var changes: [UInt64: BlobNumber] = [:]
                var block = UInt64.random(in: 0..<blocks, using: &random)
                for _ in 0..<300 {
                    // Runs, and jumps.
                    block = Int.random(in: 0..<20, using: &random) == 0 ? .random(in: 0..<blocks, using: &random) : (block + 1) % blocks
                    changes[block] =
                        Int.random(in: 0..<6, using: &random) == 0 ? BlobNumber.none : BlobNumber(pack: 1, slot: Int.random(in: 0..<200, using: &random))
                }
                var transaction = try StoreTransaction.begin(store)
                var disk = try transaction.disk("d")
                try transaction.changeMap(of: &disk, changes.sorted { $0.key < $1.key }.map { MapChange(block: $0.key, blob: $0.value) })
                try transaction.put(disk)
                try transaction.commit()
                for (block, blob) in changes { model[block] = blob == .none ? nil : blob }
            } else {
                let first = UInt64.random(in: 0..<blocks, using: &random)
                let end = Bool.random(using: &random) ? UInt64.random(in: first...blocks, using: &random) : .max
                var next = first
                var pieces = 0
                while next < end, pieces < 100_000 {
                    var transaction = try StoreTransaction.begin(store)
                    var disk = try transaction.disk("d")
                    let after = try transaction.unmap(&disk, from: next, to: end, leaves: 2)
                    #expect(after > next, "no progress")
                    next = max(after, next + 1)
                    try transaction.put(disk)
                    try transaction.commit()
                    pieces += 1
                }
                model = model.filter { $0.key < first || $0.key >= end }
            }
            #expect(try contents() == model, "seed \(seed), round \(round)")
            #expect(try store.disk("d")?.map.mappedBlocks == UInt64(model.count))
        }
        #expect(try store.check(readData: false, repair: false) { _, _ in }.problems == [])
        try store.unmap("d", from: 0, to: BlockMaps.maximumBlocks)
        let reading = try ReadTransaction(store.meta)
        let nodes = try store.parts.maps.nodeCount(reading.view)
        #expect(nodes == 0)
    }

    func contents() throws -> [UInt64: BlobNumber] {
        let reading = try ReadTransaction(store.meta)
        guard let disk = try store.parts.catalogue.disk("d", reading.view) else { return [:] }
        let map = store.parts.maps.reader(disk.map, blockCount: disk.blockCount, reading.view)
        var found: [UInt64: BlobNumber] = [:]
        var block: UInt64 = 0
        while block < map.blockCount {
            let leaf = try map.leaf(over: block)
            if !leaf.isEmpty {
                for block in leaf.first..<leaf.end where leaf.blob(block) != .none { found[block] = leaf.blob(block) }
            }
            block = leaf.end
        }
        return found
    }
}
