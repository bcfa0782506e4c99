internal import BlockModel
internal import LMDB

/// One change of the store: maps, counts, index and totals together, or nothing of it.
///
/// Lock order: `meta`'s write transaction first, then `packs`'s. Packs are committed first, inside: a pack that
/// `meta` does not know yet is found by the next transaction, here, and its blobs get a reference count of 0.
struct StoreTransaction: ~Copyable {
    let store: Store
    /// For `packs`, which it waits for, too.
    let patience: Patience?
    var lmdb: WriteTransaction
    var superblock: Superblock
    /// References won and lost.
    var countChanges: [CountChange] = []
    /// It unmaps long ranges, as a deletion does, which has to work where no space is left.
    var isUnmapping = false
    /// Packs that have slots without a count, and how many slots they have now.
    var newSlots: [UInt64: Int] = [:]

    private init(_ store: Store, _ patience: Patience?, _ lmdb: consuming WriteTransaction, _ superblock: Superblock) {
        self.store = store
        self.patience = patience
        self.lmdb = lmdb
        self.superblock = superblock
    }

    /// Waits for the other writers.
    /// - Parameters:
    ///   - patience: for how long; as long as others of the process when not given.
    ///   - room: one that may be made where no space is left does not finish a collection that was interrupted, as that may take much.
    ///   - rebuilding: without a look at counts and index, which are about to be made anew.
    static func begin(
        _ store: Store, _ patience: Patience? = nil, room: Room = .beyondReserve, rebuilding: Bool = false
    ) throws(Failure) -> StoreTransaction {
        let lmdb = try room == .beyondReserve ? lockBeyondReserve(store, patience) : WriteTransaction(store.meta, patience)
        if room == .reserve { store.giveUpReserve() }
        let superblock = try superblock(lmdb, store)
        var transaction = StoreTransaction(store, patience, lmdb, superblock)
        if !rebuilding {
            if room == .beyondReserve { try transaction.finishCollecting() }
            try transaction.adoptUnknownBlobs()
        }
        return transaction
    }

    /// Waits for the other writers, and sees to it that the reserve is there.
    private static func lockBeyondReserve(_ store: Store, _ patience: Patience?) throws(Failure) -> WriteTransaction {
        do {
            let lmdb = try WriteTransaction(store.meta, patience)
            if store.fillReserve() { return lmdb }
            lmdb.abort()
        }
        // Whoever gave it up may have been killed before what it freed was given back.
        if store.mayRegain() { store.regain(patience) }
        let lmdb = try WriteTransaction(store.meta, patience)
        if store.fillReserve() { return lmdb }
        lmdb.abort()
        throw store.isFull
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

    /// Counts the blobs of packs that were committed just before their writer died.
    mutating func adoptUnknownBlobs() throws(Failure) {
        // A writer may have died between its commit and the word of it to the readers (mdb.c, `mdb_env_write_meta`).
        // The next writer passes that word on when it takes the lock of the dead; a reader alone sees too little.
        try WriteTransaction(store.packs, patience).abort()
        let packs = try ReadTransaction(store.packs)
        var cursor = try packs.view.cursor(store.packTables.packs)
        guard try cursor.last(), let last = cursor.integerKey else { return }
        if last == superblock.counted.pack,
            let pack = PackView(cursor.value, number: last), UInt64(pack.slotCount) == superblock.counted.slots
        {
            return
        }
        var more = try cursor.seek(atOrAfter: max(superblock.counted.pack, 1))
        while more, let number = cursor.integerKey {
            guard let pack = PackView(cursor.value, number: number), pack.isIntact(storeID: superblock.storeID.0) else {
                throw Failure(.damage, "pack \(number)", "its directory is damaged", remedy: "restore the store from a copy")
            }
            let known = number == superblock.counted.pack ? Int(superblock.counted.slots) : 0
            enter(pack: number, slots: pack.slotCount, from: known) { pack.isCollected($0) ? nil : pack.storedLength($0) }
            more = try cursor.next()
        }
    }

    /// The slots of a pack from `first` on are there, with a reference count of 0.
    /// - Parameter length: stored bytes of a slot; nil: it was collected.
    mutating func enter(pack: UInt64, slots: Int, from first: Int, length: (Int) -> Int?) {
        guard slots > first else { return }
        newSlots[pack] = slots
        for slot in first..<slots {
            guard let bytes = length(slot) else { continue }
            superblock.totals.add(bytes: bytes)
        }
        superblock.counted = PackPlace(pack: pack, slots: UInt64(slots))
    }
}
