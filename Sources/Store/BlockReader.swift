public import BlockModel
internal import Hashing
internal import LMDB

/// Reads blocks through a disk's map, straight from LMDB's memory map; each is checked against its digest
/// before anyone sees it. Belongs to one thread.
public struct BlockReader: ~Copyable {
    private let store: Store
    private var meta: ReadTransaction
    private var packs: ReadTransaction
    private var hasher: SHA256

    public init(_ store: Store) throws(Failure) {
        let hasher = try SHA256()
        var meta = try ReadTransaction(store.meta)
        var packs = try ReadTransaction(store.packs)
        meta.reset()
        packs.reset()
        self.store = store
        self.hasher = hasher
        self.meta = meta
        self.packs = packs
    }

    /// Copies the blocks from `first` on into `buffer`, whose length is a multiple of 4096; what is not mapped is zeros.
    /// Sees the newest commit.
    /// - Parameter wanted: whether the block at that index of the buffer is to be read; others are left alone.
    /// - Throws: `.damage` when a block's data is not what was written. Its part of the buffer is zeros then.
    public mutating func read(
        disk name: String, from first: UInt64, into buffer: inout MutableRawSpan, wanted: (Int) -> Bool = { _ in true }
    ) throws(Failure) {
        // A blob that died after `meta`'s state was taken may be collected by now: look again.
        for _ in 0..<4 {
            if try readOnce(disk: name, from: first, into: &buffer, wanted: wanted) { return }
        }
        throw Failure(.damage, "disk \(name), block \(first) or one after it", "its blob is missing", remedy: "restore the store from a copy")
    }

    /// False: a blob is not there, or not any more.
    private mutating func readOnce(
        disk name: String, from first: UInt64, into buffer: inout MutableRawSpan, wanted: (Int) -> Bool
    ) throws(Failure) -> Bool {
        // `meta` first: a blob that it names is in any later state of `packs`.
        try meta.renew()
        defer { meta.reset() }
        try packs.renew()
        defer { packs.reset() }
        let view = meta.view
        guard let disk = try view.disk(name, store.tables) else { throw store.noSuchDisk(name) }
        let map = MapReader(disk, view, store.tables)
        var leaf = Leaf(first: 0, end: 0, bytes: nil)
        for index in 0..<buffer.byteCount / blockSize {
            guard wanted(index) else { continue }
            let block = first &+ UInt64(index)
            if !leaf.covers(block) { leaf = try map.leaf(over: block) }
            let blob = leaf.blob(block)
            if blob == .none {
                buffer.zero(at: index * blockSize, count: blockSize)
            } else {
                guard try copy(blob, of: block, into: &buffer, at: index * blockSize) else { return false }
            }
        }
        return true
    }

    /// False: the blob is not there, or not any more.
    private func copy(_ blob: BlobNumber, of block: UInt64, into buffer: inout MutableRawSpan, at offset: Int) throws(Failure) -> Bool {
        guard let pack = try PackView.find(blob.pack, in: packs.view, store.packTables.packs) else { return false }
        if let digest = pack.digest(blob.slot) {
            if pack.isCollected(blob.slot) { return false }
            // The private copy is what is checked, and what is given out.
            if pack.copyBlock(blob.slot, to: &buffer, at: offset),
                try hasher.digest(buffer.bytes.extracting(offset..<offset + blockSize)) == digest
            {
                return true
            }
        }
        buffer.zero(at: offset, count: blockSize)
        _ = store.suspects.withLock { $0.insert(blob) }
        throw Failure(.damage, "block \(block), blob \(blob)", "its data is not what was written",
            remedy: "write the block again, or restore the store from a copy")
    }

    /// A mapped block and its name.
    public struct MappedBlock: Sendable {
        public let block: UInt64
        /// Nil: the directory of its pack is damaged.
        public let digest: Digest?
    }

    /// The mapped blocks from `first` to before `end`, at most `limit`, and the block to go on from. Sees the newest commit.
    public mutating func mapped(disk name: String, from first: UInt64, to end: UInt64, limit: Int) throws(Failure) -> (blocks: [MappedBlock], next: UInt64) {
        try meta.renew()
        defer { meta.reset() }
        try packs.renew()
        defer { packs.reset() }
        let view = meta.view
        guard let disk = try view.disk(name, store.tables) else { throw store.noSuchDisk(name) }
        let map = MapReader(disk, view, store.tables)
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
                    let pack = try PackView.find(blob.pack, in: packs.view, store.packTables.packs)
                    let digest = if let pack { pack.digest(blob.slot) } else { Digest?.none }
                    found.append(MappedBlock(block: block, digest: digest))
                }
                block += 1
            }
        }
        return (found, min(block, end))
    }
}
