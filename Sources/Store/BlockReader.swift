internal import BlobModel
public import BlockModel
internal import Catalogue
internal import LMDB
internal import Maps
internal import Packs
public import System

/// Reads blocks through a disk's map, straight from LMDB's memory map; each is compared with its check word before
/// anyone sees it. Belongs to one thread at a time.
public struct BlockReader: ~Copyable {
    private let store: Store
    private let diskName: String
    private var meta: ReadTransaction
    private var packs: PackSnapshot
    private let decoder = BlobDecoder()
    /// The disk's record as of the transaction `seen`.
    private var disk: DiskRecord?
    private var seen = 0
    /// The superblock's, as of the same.
    private var rewrites: UInt64 = 0
    /// Enough for the leaves of 128 GiB of disk, and for packs of 23 GiB of data. 2 MiB and one, of which a thread takes what
    /// it uses.
    private let nodeCache, packCache: ValueCache

    /// For the disk of that name.
    public init(_ store: Store, disk name: String) throws(Failure) {
        let nodeCache = try ValueCache(capacity: 1 << 16)
        let packCache = try ValueCache(capacity: 1 << 15)
        var meta = try ReadTransaction(store.meta)
        var packs = try store.snapshot()
        meta.reset()
        packs.reset()
        self.nodeCache = nodeCache
        self.packCache = packCache
        self.store = store
        diskName = name
        self.meta = meta
        self.packs = packs
    }

    /// Sees the newest commit. `meta` comes first: a blob that it refers to is in every later state of `packs`, unless it has died since.
    private mutating func renew() throws(Failure) -> DiskRecord {
        try meta.renew()
        do throws(Failure) {
            try packs.renew()
            if let disk, meta.id == seen { return disk }
            guard let found = try store.parts.catalogue.disk(diskName, meta.view) else { throw store.noSuchDisk(diskName) }
            disk = found
            rewrites = try store.parts.superblock.superblock(meta.view).rewrites
            seen = meta.id
            return found
        } catch {
            reset()
            throw error
        }
    }

    private mutating func reset() {
        packs.reset()
        meta.reset()
    }

    /// The disk's size in bytes, as of the newest commit.
    public mutating func byteCount() throws(Failure) -> UInt64 {
        let disk = try renew()
        defer { reset() }
        return disk.byteCount
    }

    /// Copies the blocks from `first` on into `buffer`, whose length is a multiple of 4096; what is not mapped is zeros.
    /// Sees the newest commit.
    /// - Parameter wanted: which blocks of the buffer are to be read; others are left alone.
    /// - Throws: `.damage` when a block's data is not what was written. Its part of the buffer is zeros then.
    public mutating func read(from first: UInt64, into buffer: inout MutableRawSpan, wanted: BlockMask = .all) throws(Failure) {
        var tries = 0
        while let (block, blob) = try readOnce(from: first, into: &buffer, wanted: wanted) {
            // A blob that died after `meta`'s state was taken may be collected by now, or its pack written anew: look again.
            tries += 1
            guard tries == 4 else { continue }
            store.parts.damage.noteMissing(blob, block, of: diskName)
            throw Failure(.damage, .block(block, of: diskName), "blob \(blob) is missing", remedy: "restore the store from a copy")
        }
    }

    /// - Returns: a block whose blob is not there, or not any more.
    private mutating func readOnce(
        from first: UInt64, into buffer: inout MutableRawSpan, wanted: BlockMask
    ) throws(Failure) -> (block: UInt64, blob: BlobNumber)? {
        let disk = try renew()
        defer { reset() }
        let map = store.parts.maps.reader(disk.map, blockCount: disk.blockCount, meta.view, nodeCache.places, seen)
        var finder = PackFinder(packs, packCache.places, rewrites: rewrites)
        var leaf = Leaf()
        for index in 0..<buffer.byteCount / blockSize {
            guard wanted.contains(index) else { continue }
            let block = first &+ UInt64(index)
            if !leaf.covers(block) { leaf = try map.leaf(over: block) }
            let blob = leaf.blob(block)
            guard blob != .none else {
                buffer.zero(at: index * blockSize, count: blockSize)
                continue
            }
            switch try finder.copyBlock(blob, to: &buffer, at: index * blockSize, decoder) {
            case .read: continue
            case .missing: return (block, blob)
            case .damaged: break
            }
            buffer.zero(at: index * blockSize, count: blockSize)
            store.parts.damage.suspect(blob, block, of: diskName)
            throw Failure(
                .damage, .block(block, of: diskName), "the data of blob \(blob) is not what was written",
                remedy: "write the block again, or restore the store from a copy")
        }
        return nil
    }

    /// Has the processor fetch what reads of these ranges look at first. In a large store each read waits for memory five
    /// times: for where the leaf is, its entry, where the pack is, its directory's entry, the data. Here all wait together.
    public mutating func prefetch(_ ranges: [SectorRange]) throws(Failure) {
        let disk = try renew()
        defer { reset() }
        let map = store.parts.maps.reader(disk.map, blockCount: disk.blockCount, meta.view, nodeCache.places, seen)
        var finder = PackFinder(packs, packCache.places, rewrites: rewrites)
        var blocks = InlineArray<64, UInt64>(repeating: 0)
        var count = 0
        for range in ranges {
            var block = range.start / UInt64(sectorsPerBlock)
            // The processor foresees the rest of a longer range by itself.
            let end = min((range.end + UInt64(sectorsPerBlock) - 1) / UInt64(sectorsPerBlock), block + Self.prefetchedOfRange, map.blockCount)
            while block < end, count < blocks.count {
                blocks[count] = block
                count += 1
                block += 1
            }
        }
        // The tables of places grow with the store, too, so that their lines are fetched a step ahead.
        var places = InlineArray<64, LeafPlace>(repeating: LeafPlace(node: 0, first: 0, end: 0))
        for index in 0..<count {
            places[index] = try map.leafPlace(over: blocks[index])
            map.prefetch(places[index])
        }
        for index in 0..<count { try map.leaf(places[index]).prefetch(blocks[index]) }
        var blobs = InlineArray<64, BlobNumber>(repeating: .none)
        for index in 0..<count {
            blobs[index] = try map.leaf(places[index]).blob(blocks[index])
            if blobs[index] != .none { finder.prefetch(pack: blobs[index].pack) }
        }
        for index in 0..<count where blobs[index] != .none { try finder.prefetch(blobs[index]) }
        for index in 0..<count where blobs[index] != .none { try finder.prefetchStored(blobs[index], count: Self.prefetchedOfBlock) }
    }

    private static var prefetchedOfRange: UInt64 { 4 }
    /// Bytes of a block that are fetched: the processor foresees the rest by itself.
    private static var prefetchedOfBlock: Int { 1024 }

    /// How many blocks from `first` on, `limit` at most, are alike: mapped or not.
    public mutating func run(from first: UInt64, limit: UInt64) throws(Failure) -> (isMapped: Bool, count: UInt64) {
        let disk = try renew()
        defer { reset() }
        let map = store.parts.maps.reader(disk.map, blockCount: disk.blockCount, meta.view, nodeCache.places, seen)
        let end = first &+ max(1, min(limit, map.blockCount &- min(first, map.blockCount)))
        var leaf = try map.leaf(over: first)
        let isMapped = leaf.blob(first) != .none
        var block = first
        while block < end {
            if !leaf.covers(block) { leaf = try map.leaf(over: block) }
            if leaf.isEmpty {
                guard !isMapped else { break }
                block = leaf.end
            } else {
                guard (leaf.blob(block) != .none) == isMapped else { break }
                block += 1
            }
        }
        return (isMapped, min(block, end) - first)
    }

    /// The first run of mapped blocks from `first` to before `end`, of which there are `limit` at most; nil: nothing is mapped there. Looks no
    /// further than the run goes, and at no pack. Sees the newest commit.
    public mutating func nextMapped(from first: UInt64, to end: UInt64, limit: UInt64) throws(Failure) -> Range<UInt64>? {
        let disk = try renew()
        defer { reset() }
        let map = store.parts.maps.reader(disk.map, blockCount: disk.blockCount, meta.view, nodeCache.places, seen)
        let end = min(end, map.blockCount)
        var leaf = Leaf()
        var start = first
        while start < end {
            if !leaf.covers(start) { leaf = try map.leaf(over: start) }
            if leaf.blob(start) != .none { break }
            start = leaf.isEmpty ? leaf.end : start + 1
        }
        guard start < end else { return nil }
        var block = start + 1
        while block < end, block - start < limit {
            if !leaf.covers(block) { leaf = try map.leaf(over: block) }
            guard leaf.blob(block) != .none else { break }
            block += 1
        }
        return start..<block
    }

    /// A mapped block and its name.
    public struct MappedBlock: Sendable {
        public let block: UInt64
        /// Nil: the directory of its pack is damaged.
        public let digest: Digest?
    }

    /// The mapped blocks from `first` to before `end`, at most `limit`, and the block to go on from. Sees the newest commit.
    public mutating func mapped(from first: UInt64, to end: UInt64, limit: Int) throws(Failure) -> (blocks: [MappedBlock], next: UInt64) {
        // A pack may just have been written anew: look again.
        for _ in 0..<3 {
            let found = try mappedOnce(from: first, to: end, limit: limit)
            if found.blocks.allSatisfy({ $0.digest != nil }) { return found }
        }
        return try mappedOnce(from: first, to: end, limit: limit)
    }

    private mutating func mappedOnce(from first: UInt64, to end: UInt64, limit: Int) throws(Failure) -> (blocks: [MappedBlock], next: UInt64) {
        let disk = try renew()
        defer { reset() }
        let map = store.parts.maps.reader(disk.map, blockCount: disk.blockCount, meta.view, nodeCache.places, seen)
        var finder = PackFinder(packs)
        let end = min(end, map.blockCount)
        var found: [MappedBlock] = []
        var block = first
        while block < end, found.count < limit {
            let leaf = try map.leaf(over: block)
            guard !leaf.isEmpty else {
                block = leaf.end
                continue
            }
            while block < min(leaf.end, end), found.count < limit {
                let blob = leaf.blob(block)
                if blob != .none {
                    let digest = try finder.digest(blob)
                    found.append(MappedBlock(block: block, digest: digest))
                }
                block += 1
            }
        }
        return (found, min(block, end))
    }
}

/// Some of the first 256 blocks of a buffer.
public struct BlockMask: Sendable {
    /// Most blocks that a mask can tell apart.
    public static let capacity = 256
    /// Every block, of a buffer of any length.
    public static let all = BlockMask(isAll: true)
    public static let empty = BlockMask(isAll: false)

    private var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    private let isAll: Bool
    private init(isAll: Bool) { self.isAll = isAll }

    public var isEmpty: Bool { !isAll && words == (0, 0, 0, 0) }

    public mutating func insert(_ index: Int) {
        let bit: UInt64 = 1 << UInt64(index & 63)
        switch index >> 6 {
        case 0: words.0 |= bit
        case 1: words.1 |= bit
        case 2: words.2 |= bit
        default: words.3 |= bit
        }
    }

    func contains(_ index: Int) -> Bool {
        if isAll { return true }
        let word =
            switch index >> 6 {
            case 0: words.0
            case 1: words.1
            case 2: words.2
            case 3: words.3
            default: 0 as UInt64
            }
        return word >> UInt64(index & 63) & 1 != 0
    }
}
