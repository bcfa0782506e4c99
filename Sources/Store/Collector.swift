public import BlockModel
internal import LMDB

// Collecting: blobs that nothing refers to lose their bytes. Slots keep their numbers, so that no map changes: a
// pack is written anew, shorter, its collected slots marked in the directory; a pack with nothing left goes.
//
// For each piece of work:
// 1. `meta` notes which packs are at work.
// 2. The packs are written anew and committed; then index and totals follow, and the note goes, in one commit.
// A power cut within 2 leaves the note: the next writer finds slots that are collected and still in the index, and
// takes them out.

extension Store {
    /// Packs in one piece of work: about 26 MiB.
    private static let packsPerPiece = 32

    /// Frees the bytes of blobs that nothing refers to, and gives them back to the filesystem.
    /// - Parameter progress: told packs done and packs in all.
    /// - Returns: payload bytes that were freed.
    public func collect(shouldStop: () -> Bool, progress: (Int, Int) -> Void) throws(Failure) -> UInt64 {
        try removeLeftovers()
        try completeIndex()
        try settleCounts()
        var freed: UInt64 = 0
        var next: UInt64 = 1
        var done = 0
        while !shouldStop() {
            let (work, total) = try findWork(from: next)
            guard let last = work.last else { break }
            freed += try collect(work)
            next = last + 1
            done = min(total, done + work.count)
            progress(done, total)
        }
        try removeEmptyPacks()
        try trim()
        refillReserve()
        return freed
    }

    /// The next packs with dead blobs in them, and the number of all packs.
    private func findWork(from first: UInt64) throws(Failure) -> ([UInt64], Int) {
        let reading = try ReadTransaction(meta)
        let packReading = try ReadTransaction(packs)
        let total = try packReading.view.count(packTables.packs)
        var cursor = try packReading.view.cursor(packTables.packs)
        var work: [UInt64] = []
        var more = try cursor.seek(atOrAfter: first)
        while more, work.count < Self.packsPerPiece, let number = cursor.integerKey {
            if let pack = PackView(cursor.value, number: number), let counts = try ReferenceCounts.of(number, reading.view, tables),
                counts.indices.contains(where: { counts[$0] == 0 && !pack.isCollected($0) })
            {
                work.append(number)
            }
            more = try cursor.next()
        }
        return (work, total)
    }

    /// Brings all blobs into the index: what is collected is taken out of it.
    func completeIndex() throws(Failure) {
        var isDone = false
        while !isDone {
            var transaction = try StoreTransaction.begin(self)
            isDone = try transaction.indexDirectories(limit: 1 << 15)
            try transaction.commit()
        }
    }

    /// - Parameter noted: called when the packs are noted, before they are worked on.
    func collect(_ work: [UInt64], noted: () -> Void = {}) throws(Failure) -> UInt64 {
        let range = (work[0], work[work.count - 1])
        var transaction = try StoreTransaction.begin(self)
        // Another collection that comes in between may have put its own note in this one's place.
        while transaction.superblock.collecting != range {
            try transaction.finishCollecting(isOver: true)
            transaction.superblock.collecting = range
            try transaction.commit()
            noted()
            transaction = try StoreTransaction.begin(self, rebuilding: true)
        }
        let before = transaction.superblock.totals.deadBytes
        try transaction.rewrite(work)
        try transaction.finishCollecting(isOver: true)
        try transaction.adoptUnknownBlobs()
        let after = transaction.superblock.totals.deadBytes
        try transaction.commit()
        return before - min(before, after)
    }

    /// Removes packs all of whose slots are collected: first their counts, then they themselves.
    private func removeEmptyPacks() throws(Failure) {
        var transaction = try StoreTransaction.begin(self)
        var writing = try WriteTransaction(packs)
        var empty: [UInt64] = []
        do {
            var cursor = try writing.view.cursor(packTables.packs)
            var more = try cursor.first()
            while more, let number = cursor.integerKey {
                if let pack = PackView(cursor.value, number: number), pack.slotCount > 0, (0..<pack.slotCount).allSatisfy({ pack.isCollected($0) }) {
                    empty.append(number)
                }
                more = try cursor.next()
            }
        }
        guard !empty.isEmpty else { return }
        for number in empty {
            try transaction.lmdb.remove(tables.counts, number)
            try writing.remove(packTables.packs, number)
        }
        // A pack without counts is collected whole, and is found again; counts without a pack would be damage.
        try transaction.commit()
        try writing.commit()
    }
}

extension StoreTransaction {
    /// Writes packs without their dead blobs, durably.
    mutating func rewrite(_ work: [UInt64]) throws(Failure) {
        let id = superblock.storeID.0
        var packs = try WriteTransaction(store.packs)
        // What they hold is copied from where this transaction does not write.
        let before = try ReadTransaction(store.packs)
        var reader = CountReader(lmdb.view, store.tables)
        for number in work {
            // Dead is what `counts` and the changes that were put off meanwhile agree on, so that the totals do.
            guard let settled = try ReferenceCounts.of(number, lmdb.view, store.tables), let counts = try reader.counts(ofPack: number) else { continue }
            // What came after the index was complete is not in it, and stays.
            let indexed = number < superblock.indexed.pack ? Int.max : number == superblock.indexed.pack ? Int(superblock.indexed.slots) : 0
            guard let pack = try PackView.find(number, in: before.view, store.packTables.packs), pack.isIntact(storeID: id),
                let builder = unsafe PackBuilder(copying: pack, number: number, isDead: { $0 < min(counts.count, indexed) && counts[$0] == 0 && settled[$0] == 0 })
            else { continue }
            try packs.put(store.packTables.packs, number, count: builder.byteCount) { _ = builder.write(into: &$0, storeID: id) }
        }
        try packs.commit()
    }

    /// Takes collected slots out of index and totals, and the note away. Where there are none yet, it stays, as whoever
    /// noted it may be about to begin.
    /// - Parameter isOver: there will be none.
    mutating func finishCollecting(isOver: Bool = false) throws(Failure) {
        let (first, last) = superblock.collecting
        guard first > 0 else { return }
        var gone: [BlobNumber: Int] = [:]
        var entries: [DigestIndex.Entry] = []
        do {
            let packs = try ReadTransaction(store.packs)
            var cursor = try packs.view.cursor(store.packTables.packs)
            var more = try cursor.seek(atOrAfter: first)
            while more, let number = cursor.integerKey, number <= last {
                if let pack = PackView(cursor.value, number: number) {
                    for slot in 0..<pack.slotCount where pack.isCollected(slot) {
                        guard let digest = pack.digest(slot) else { continue }
                        let blob = BlobNumber(pack: number, slot: slot)
                        gone[blob] = pack.storedLength(slot)
                        entries.append(DigestIndex.Entry(digest, blob))
                    }
                }
                more = try cursor.next()
            }
        }
        let removed = try removeFromIndex(entries.sorted())
        guard isOver || !removed.isEmpty else { return }
        for blob in removed {
            superblock.totals.remove(bytes: gone[blob] ?? 0)
            try lmdb.remove(store.tables.damaged, blob.rawValue)
        }
        superblock.collecting = (0, 0)
        // It has digests that are gone, and the table may have their blobs.
        store.invalidateFilter(superblock.storeID)
    }
}
