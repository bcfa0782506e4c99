public import BlockModel
internal import Hashing
internal import LMDB

/// Blocks on their way into one disk's map: hashed outside the store's lock, entered under it.
/// Holds `capacity` blocks of data; belongs to one thread.
@safe
public final class Batch {
    /// Blocks of data that fit.
    public let capacity: Int
    private let storage: UnsafeMutableRawBufferPointer
    private var hasher: SHA256
    fileprivate var changes: [Change] = []
    /// Blocks of data that are in.
    public private(set) var dataBlocks = 0

    /// What becomes of one block.
    struct Change {
        let block: UInt64
        /// Index of its data, or −1: unmapped.
        var data: Int
        var digest: Digest
    }

    public init(capacity: Int) throws(Failure) {
        self.capacity = capacity
        unsafe storage = .allocate(byteCount: capacity * blockSize, alignment: 4096)
        hasher = try SHA256()
        changes.reserveCapacity(capacity)
    }

    deinit { unsafe storage.deallocate() }

    public var isEmpty: Bool { changes.isEmpty }
    public var isFull: Bool { dataBlocks == capacity || changes.count >= 4 * capacity }

    public func removeAll() {
        changes.removeAll(keepingCapacity: true)
        dataBlocks = 0
    }

    /// Unmaps `block`. Blocks come in ascending order, each once.
    public func appendUnmapped(_ block: UInt64) {
        changes.append(Change(block: block, data: -1, digest: Digest(0, 0, 0, 0)))
    }

    /// Lets `fill` write the block's 4096 bytes, then names it: zeros are unmapped, all else is hashed. The batch is not full.
    public func append(_ block: UInt64, fill: (inout MutableRawSpan) throws(Failure) -> Void) throws(Failure) {
        precondition(dataBlocks < capacity, "a full batch")
        let room = unsafe UnsafeMutableRawBufferPointer(rebasing: storage[dataBlocks * blockSize..<(dataBlocks + 1) * blockSize])
        var span = unsafe MutableRawSpan(_unsafeBytes: room)
        try fill(&span)
        if isZero(span.bytes) { return appendUnmapped(block) }
        changes.append(Change(block: block, data: dataBlocks, digest: try hasher.digest(span.bytes)))
        dataBlocks += 1
    }

    /// Lends the room of the first block; the batch is empty.
    func withScratch<Result>(_ body: (inout MutableRawSpan) throws(Failure) -> Result) throws(Failure) -> Result {
        var span = unsafe MutableRawSpan(_unsafeBytes: UnsafeMutableRawBufferPointer(rebasing: storage[..<blockSize]))
        return try body(&span)
    }

    /// The data of index `index`.
    @_lifetime(borrow self)
    fileprivate func data(_ index: Int) -> RawSpan {
        let bytes = unsafe UnsafeRawBufferPointer(rebasing: storage[index * blockSize..<(index + 1) * blockSize])
        return unsafe _overrideLifetime(RawSpan(_unsafeBytes: bytes), borrowing: self)
    }
}

extension Store {
    /// Enters the batch in the disk's map, storing each distinct block that the store does not have yet. When it
    /// returns, all of it is durable; when it throws, none of it happened.
    /// - Parameter journal: what the map holds of the disk's journal afterwards; nil leaves that as it is.
    public func commit(_ batch: Batch, to name: String, journal: JournalPosition? = nil) throws(Failure) {
        var transaction = try StoreTransaction.begin(self)
        var disk = try transaction.disk(name)
        let blobs = try transaction.place(batch)
        var changes: [MapChange] = []
        changes.reserveCapacity(batch.changes.count)
        for change in batch.changes {
            changes.append(MapChange(block: change.block, blob: change.data < 0 ? .none : blobs[change.data]))
        }
        try transaction.changeMap(of: &disk, changes)
        if let journal { disk.journal = journal }
        try transaction.putDisk(disk)
        try transaction.recordSuspects()
        try transaction.commit()
    }
}

extension Store {
    /// Writes down the blobs that readers of this process found damaged, so that the next write of the same content
    /// heals them, whichever process it comes from.
    public func recordDamage() throws(Failure) {
        guard !suspects.withLock({ $0.isEmpty }) else { return }
        var transaction = try StoreTransaction.begin(self)
        try transaction.recordSuspects()
        try transaction.commit()
    }
}

extension StoreTransaction {
    /// Finds or stores every block of the batch.
    /// - Returns: the blob of each data index.
    fileprivate mutating func place(_ batch: Batch) throws(Failure) -> [BlobNumber] {
        var blobs = [BlobNumber](repeating: .none, count: batch.dataBlocks)
        // Ascending digests walk the index from one end to the other.
        let order = batch.changes.filter { $0.data >= 0 }.sorted { $0.digest < $1.digest }
        var misses: [Batch.Change] = []
        var hits: [(BlobNumber, Int)] = []
        do {
            let packs = try ReadTransaction(store.packs)
            var buckets = try lmdb.view.cursor(store.tables.index)
            var previous: Batch.Change?
            for change in order {
                if let same = previous, same.digest == change.digest {
                    blobs[change.data] = blobs[same.data]
                    continue
                }
                previous = change
                if let blob = try DigestIndex.lookup(change.digest, &buckets, packs: packs.view, table: store.packTables.packs) {
                    blobs[change.data] = blob
                    hits.append((blob, change.data))
                } else {
                    misses.append(change)
                }
            }
        }
        let heals = try damagedBlobs(among: hits)
        if !misses.isEmpty || !heals.isEmpty {
            // In the order of the disk, not of the digests: what is written together is read together.
            misses.sort { $0.data < $1.data }
            try store(misses, healing: heals, from: batch, into: &blobs)
            // A miss that came up again in the batch takes the number of its first.
            var first: BlobNumber = .none
            var digest: Digest?
            for change in order {
                if change.digest != digest {
                    digest = change.digest
                    first = blobs[change.data]
                }
                blobs[change.data] = first
            }
        }
        return blobs
    }

    /// Appends `misses` to the open pack and to new ones, and writes `heals` over the damaged copies, durably.
    private mutating func store(
        _ misses: [Batch.Change], healing heals: [(blob: BlobNumber, data: Int)], from batch: Batch, into blobs: inout [BlobNumber]
    ) throws(Failure) {
        var packs = try WriteTransaction(store.packs)
        for heal in heals { try overwrite(heal.blob, with: batch.data(heal.data), &packs) }
        var builder = try openPack(packs.view)
        var known = builder.slotCount
        var entries: [DigestIndex.Entry] = []
        var digests: [Digest] = []
        for change in misses {
            if !builder.hasRoom(for: blockSize) {
                try put(builder, &packs)
                entries += try enter(digests, ofPack: builder.number, from: known) { _ in blockSize }
                builder = PackBuilder(number: builder.number + 1)
                digests.removeAll(keepingCapacity: true)
                known = 0
            }
            blobs[change.data] = builder.append(change.digest, batch.data(change.data))
            digests.append(change.digest)
        }
        if !digests.isEmpty {
            try put(builder, &packs)
            entries += try enter(digests, ofPack: builder.number, from: known) { _ in blockSize }
        }
        try packs.commit()
        for heal in heals { try lmdb.remove(store.tables.damaged, heal.blob.rawValue) }
        try updateIndex(adding: entries.sorted())
    }

    private func put(_ builder: PackBuilder, _ packs: inout WriteTransaction) throws(Failure) {
        let id = superblock.storeID.0
        try packs.put(store.packTables.packs, builder.number, count: builder.byteCount) { builder.write(into: &$0, storeID: id) }
    }

    /// The last pack when there is room in it and all is well with it, else a new one.
    private func openPack(_ packs: View) throws(Failure) -> PackBuilder {
        var cursor = try packs.cursor(store.packTables.packs)
        guard try cursor.last(), let last = cursor.integerKey else { return PackBuilder(number: superblock.indexedPack + 1) }
        if last == superblock.indexedPack, cursor.value.byteCount + blockSize <= PackFormat.capacity,
            let pack = PackView(cursor.value, number: last), pack.isIntact(storeID: superblock.storeID.0),
            let builder = PackBuilder(continuing: pack, number: last), builder.hasRoom(for: blockSize)
        {
            return builder
        }
        return PackBuilder(number: max(last, superblock.indexedPack) + 1)
    }

    // MARK: Healing

    /// Those of the hits whose stored copy is known to be damaged.
    private func damagedBlobs(among hits: [(BlobNumber, Int)]) throws(Failure) -> [(blob: BlobNumber, data: Int)] {
        let suspects = store.suspects.withLock { $0 }
        guard try lmdb.view.count(store.tables.damaged) > 0 || !suspects.isEmpty else { return [] }
        var damaged: [(blob: BlobNumber, data: Int)] = []
        for (blob, data) in hits {
            let isKnown = try lmdb.view.value(store.tables.damaged, blob.rawValue) != nil
            if isKnown || suspects.contains(blob) { damaged.append((blob, data)) }
        }
        store.suspects.withLock { suspects in for heal in damaged { suspects.remove(heal.blob) } }
        return damaged
    }

    private func overwrite(_ blob: BlobNumber, with block: RawSpan, _ packs: inout WriteTransaction) throws(Failure) {
        var copy: [UInt8] = []
        var place: Range<Int>?
        if let value = try packs.view.value(store.packTables.packs, blob.pack), let pack = PackView(value, number: blob.pack),
            let stored = pack.stored(blob.slot), stored.byteCount == block.byteCount
        {
            copy = unsafe value.withUnsafeBytes { unsafe [UInt8]($0) }
            place = value.byteOffsets(of: stored)
        }
        guard let place else { return }
        try packs.put(store.packTables.packs, blob.pack, count: copy.count) { value in
            value.copy(copy.rawBytes, to: 0)
            value.copy(block, to: place.lowerBound)
        }
    }

    /// Writes down the blobs that readers of this process found damaged.
    mutating func recordSuspects() throws(Failure) {
        let suspects = store.suspects.withLock { set in
            defer { set.removeAll() }
            return set
        }
        for blob in suspects { try lmdb.put(store.tables.damaged, blob.rawValue, count: 0) { _ in } }
    }
}
