internal import BlockModel
internal import LMDB

/// One change of the store: maps, counts, index and totals together, or nothing of it.
///
/// Lock order: `meta`'s write transaction first, then `packs`'s. Packs are committed first, inside: a pack that
/// `meta` does not know yet is found by the next transaction, here, and its blobs enter the index with no reference.
struct StoreTransaction: ~Copyable {
    let store: Store
    var lmdb: WriteTransaction
    var superblock: Superblock
    /// References won and lost, per blob.
    var countChanges: [BlobNumber: Int64] = [:]

    private init(_ store: Store, _ lmdb: consuming WriteTransaction, _ superblock: Superblock) {
        self.store = store
        self.lmdb = lmdb
        self.superblock = superblock
    }

    /// Waits for the other writers.
    /// - Parameter rebuilding: without a look at the index, which is about to be made anew.
    static func begin(_ store: Store, rebuilding: Bool = false) throws(Failure) -> StoreTransaction {
        let lmdb = try WriteTransaction(store.meta)
        let superblock = try superblock(lmdb, store)
        var transaction = StoreTransaction(store, lmdb, superblock)
        if !rebuilding {
            try transaction.finishCollecting()
            try transaction.adoptUnknownBlobs()
        }
        return transaction
    }

    private static func superblock(_ lmdb: borrowing WriteTransaction, _ store: Store) throws(Failure) -> Superblock {
        try Store.superblock(lmdb.view, store.tables.store, store.metaPath)
    }

    /// Drops all of it.
    consuming func abandon() { lmdb.abort() }

    consuming func commit() throws(Failure) {
        try applyCountChanges()
        try lmdb.put(store.tables.store, Superblock.key, superblock.encoded.rawBytes)
        try lmdb.commit()
    }

    /// Indexes the blobs of packs that were committed just before their writer died.
    mutating func adoptUnknownBlobs() throws(Failure) {
        // A writer may have died between its commit and the word of it to the readers (mdb.c, `mdb_env_write_meta`).
        // The next writer passes that word on when it takes the lock of the dead; a reader alone sees too little.
        try WriteTransaction(store.packs).abort()
        let packs = try ReadTransaction(store.packs)
        var cursor = try packs.view.cursor(store.packTables.packs)
        guard try cursor.last(), let last = cursor.integerKey else { return }
        if last == superblock.indexedPack,
            let pack = PackView(cursor.value, number: last), UInt64(pack.slotCount) == superblock.indexedSlots
        {
            return
        }
        var added: [DigestIndex.Entry] = []
        var more = try cursor.seek(atOrAfter: max(superblock.indexedPack, 1))
        while more, let number = cursor.integerKey {
            guard let pack = PackView(cursor.value, number: number), pack.isIntact(storeID: superblock.storeID.0) else {
                throw Failure(.damage, "pack \(number)", "its directory is damaged", remedy: "restore the store from a copy")
            }
            let known = number == superblock.indexedPack ? Int(superblock.indexedSlots) : 0
            var digests: [Digest] = []
            for slot in known..<max(known, pack.slotCount) { if let digest = pack.digest(slot) { digests.append(digest) } }
            added += try enter(digests, ofPack: number, from: known) { pack.isCollected($0) ? nil : pack.storedLength($0) }
            more = try cursor.next()
        }
        try updateIndex(adding: added.sorted())
    }

    /// Gives the blobs of a pack from slot `first` on a reference count of 0, and moves the mark.
    /// - Parameter length: stored bytes of a slot; nil: it was collected.
    /// - Returns: their entries for the index.
    mutating func enter(_ digests: [Digest], ofPack pack: UInt64, from first: Int, length: (Int) -> Int?) throws(Failure) -> [DigestIndex.Entry] {
        guard !digests.isEmpty else { return [] }
        var counts = try counts(ofPack: pack) ?? []
        counts += [UInt32](repeating: 0, count: max(0, first + digests.count - counts.count))
        try putCounts(counts, ofPack: pack)
        var entries: [DigestIndex.Entry] = []
        for (index, digest) in digests.enumerated() {
            guard let bytes = length(first + index) else { continue }
            superblock.deadBlobs += 1
            superblock.deadBytes += UInt64(bytes)
            entries.append(DigestIndex.Entry(digest, BlobNumber(pack: pack, slot: first + index)))
        }
        superblock.indexedPack = pack
        superblock.indexedSlots = UInt64(first + digests.count)
        return entries
    }
}
