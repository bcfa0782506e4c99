internal import BlockModel
internal import Glibc
internal import LMDB

// How blobs get into the digest index: not one by one, as each would change a page of its own, but through the table of
// recent blobs, by the thousand, in the order of their digests.
//
// 1. A commit enters its new blobs in the filter and in the table of recent blobs.
// 2. When seven in sixteen slots of the table are taken, a merge begins: `merging` says up to which blob, `merged` how far it
//    is in the order of digests. Each commit takes it on by a piece; the last piece moves `indexed`, and the table is cleaned.
//
// Every step is in a transaction of `meta`, so that a merge outlives whoever began it; entering a blob twice changes
// nothing. What is lost with the table is in the directories of the packs behind `indexed`.

extension StoreTransaction {
    /// The store's filter, up to date with all blobs.
    mutating func syncedFilter() throws(Failure) -> DigestFilter {
        if let filter = store.filter.withLock({ $0 }), isUsable(filter) { return try catchUp(filter) }
        // Another process may have made a new one.
        if let filter = DigestFilter(path: store.filterPath, storeID: superblock.storeID), isUsable(filter) {
            store.filter.withLock { $0 = filter }
            return try catchUp(filter)
        }
        return try makeFilter()
    }

    private func isUsable(_ filter: DigestFilter) -> Bool {
        filter.isValid && filter.entered <= filter.capacity && filter.covered >= superblock.indexed && filter.covered <= superblock.counted
            && filter.purged <= superblock.indexed && filter.recent <= filter.recentLimit
            // What went past the table is in the index only if its commit came to its end.
            && (filter.unsure == 0 || filter.unsure == superblock.pastTable)
            // A collection has this one's table made anew only where it can.
            && (!filter.isPrivate || filter.mark == superblock.pastTable || filter.unsure == superblock.pastTable)
            && tail(filter.covered) == filter.tail
    }

    /// The first word of the digest in the slot before `place`; 0: there is none.
    private func tail(_ place: PackPlace) -> UInt64 {
        guard place.slots > 0, let packs = try? ReadTransaction(store.packs) else { return 0 }
        return Self.tail(place, packs.view, store)
    }

    private static func tail(_ place: PackPlace, _ packs: View, _ store: Store) -> UInt64 {
        guard let pack = try? PackView.find(place.pack, in: packs, store.packTables.packs), let digest = pack.digest(Int(place.slots) - 1) else { return 0 }
        return digest.word0
    }

    /// Enters what others stored meanwhile, and cleans the table of what the index has.
    private mutating func catchUp(_ filter: DigestFilter) throws(Failure) -> DigestFilter {
        if filter.unsure != 0 { filter.noteUnsure(0) }
        if filter.purged < superblock.indexed { filter.purge(before: superblock.indexed) }
        if filter.covered < superblock.counted { try enterDirectories(in: filter, from: filter.covered) }
        filter.mark = superblock.pastTable
        return filter
    }

    /// Enters the blobs from a place on.
    private mutating func enterDirectories(in filter: DigestFilter, from start: PackPlace) throws(Failure) {
        var overflow: [DigestIndex.Entry] = []
        var tail: UInt64 = 0
        do {
            let packs = try ReadTransaction(store.packs)
            var scan = try Scan(packs.view, store.packTables.packs, expecting: PackFormat.expectedDirectory, from: max(start.pack, 1))
            while try scan.next(), let number = scan.integerKey, number <= superblock.counted.pack {
                if let pack = PackView(scan.value, number: number) {
                    let first = number == start.pack ? Int(start.slots) : 0
                    for slot in first..<max(first, pack.slotCount) where !pack.isCollected(slot) {
                        guard let digest = pack.digest(slot) else { continue }
                        let blob = BlobNumber(pack: number, slot: slot)
                        if !filter.insert(digest.word0, blob) { overflow.append(DigestIndex.Entry(digest, blob)) }
                    }
                }
            }
            tail = Self.tail(superblock.counted, packs.view, store)
        }
        try enter(overflow, past: filter)
        filter.cover(superblock.counted, tail: tail)
    }

    /// Blobs that the table has no room for go to the index at once.
    private mutating func enter(_ overflow: [DigestIndex.Entry], past filter: DigestFilter) throws(Failure) {
        guard !overflow.isEmpty else { return }
        superblock.pastTable = .random(in: 1 ... .max)
        filter.noteUnsure(superblock.pastTable)
        try updateIndex(adding: overflow.sorted())
    }

    /// Makes a filter from the index, and from the directories of the packs that it lacks.
    private mutating func makeFilter() throws(Failure) -> DigestFilter {
        try store.invalidateFilter(superblock.storeID)
        let pending = try slots(from: superblock.indexed)
        // A third more than there are now: room to grow by, and few times to do this again.
        let capacity = max(1 << 16, (try indexedEntries() + pending) / 10 * 13, DigestFilter.capacity(forRecent: pending))
        let filter = try DigestFilter(making: store.filterPath, capacity: capacity, storeID: superblock.storeID)
        try enterIndex(in: filter)
        try enterDirectories(in: filter, from: superblock.indexed)
        filter.validate(purged: superblock.indexed)
        filter.mark = superblock.pastTable
        store.filter.withLock { $0 = filter }
        return filter
    }

    /// How many the index has, about: buckets are three quarters full.
    private func indexedEntries() throws(Failure) -> UInt64 {
        UInt64(try lmdb.view.count(store.tables.index)) * UInt64(DigestIndex.entriesPerPage) / 4 * 3
    }

    /// How many slots there are from a place on, about.
    private func slots(from start: PackPlace) throws(Failure) -> UInt64 {
        let packs = try ReadTransaction(store.packs)
        // What is read is looked at again soon, for all that it has.
        var scan = try Scan(packs.view, store.packTables.packs, expecting: PackFormat.expectedDirectory, from: max(start.pack, 1))
        var total: UInt64 = 0
        while try scan.next(), let number = scan.integerKey {
            total += UInt64(PackView(scan.value, number: number)?.slotCount ?? 0)
        }
        return total
    }

    private func enterIndex(in filter: DigestFilter) throws(Failure) {
        var scan = try Scan(lmdb.view, store.tables.index, expecting: DigestIndex.pageBytes)
        while try scan.next(), let key = scan.integerKey {
            let bucket = scan.value
            for index in 0..<(try DigestIndex.entryCount(bucket, key: key)) {
                filter.enter(DigestIndex.Entry(bucket, at: DigestIndex.headerSize + index * DigestIndex.entrySize).prefix << 16)
            }
        }
    }

    // MARK: Merging

    /// Takes new blobs into the filter, and the merge on by a piece that keeps the table from filling up.
    mutating func index(_ blobs: [(word: UInt64, blob: BlobNumber)], in filter: DigestFilter) throws(Failure) {
        var overflow: [DigestIndex.Entry] = []
        for (word, blob) in blobs where !filter.insert(word, blob) { overflow.append(DigestIndex.Entry(word: word, blob)) }
        try enter(overflow, past: filter)
        let packs = try ReadTransaction(store.packs)
        filter.cover(superblock.counted, tail: Self.tail(superblock.counted, packs.view, store))
        if superblock.merging == .start {
            guard filter.isMergeDue else { return }
            superblock.merging = superblock.counted
            superblock.merged = 0
        }
        let limit = filter.mergePiece(from: superblock.merged, adding: blobs.count)
        let (piece, next) = filter.recent(from: superblock.merged, before: superblock.merging, limit: limit)
        try updateIndex(adding: piece.sorted())
        if let next {
            superblock.merged = next
        } else {
            superblock.indexed = max(superblock.indexed, superblock.merging)
            superblock.merging = .start
        }
    }

    /// Brings the index up to date from the packs' directories, about `limit` blobs of it.
    /// - Returns: whether all of it is.
    mutating func indexDirectories(limit: Int) throws(Failure) -> Bool {
        var entries: [DigestIndex.Entry] = []
        var reached = superblock.indexed
        do {
            let packs = try ReadTransaction(store.packs)
            var scan = try Scan(packs.view, store.packTables.packs, expecting: PackFormat.expectedDirectory, from: max(reached.pack, 1))
            var more = try scan.next()
            while more, entries.count < limit, let number = scan.integerKey {
                guard let pack = PackView(scan.value, number: number), pack.isIntact(storeID: superblock.storeID.0) else {
                    throw Failure(.damage, "pack \(number)", "its directory is damaged", remedy: "restore the store from a copy")
                }
                let first = number == superblock.indexed.pack ? Int(superblock.indexed.slots) : 0
                for slot in first..<max(first, pack.slotCount) where !pack.isCollected(slot) {
                    if let digest = pack.digest(slot) { entries.append(DigestIndex.Entry(digest, BlobNumber(pack: number, slot: slot))) }
                }
                reached = max(reached, PackPlace(pack: number, slots: UInt64(max(first, pack.slotCount))))
                more = try scan.next()
            }
            if !more { reached = max(reached, superblock.counted) }
        }
        try updateIndex(adding: entries.sorted())
        superblock.indexed = reached
        if superblock.merging <= reached { superblock.merging = .start }
        return reached >= superblock.counted
    }
}

extension Store {
    /// Has the filter made anew with its next use, in every process. For whoever holds `meta`'s write transaction.
    /// - Throws: when there is one that can't be looked at; others go on using it.
    func invalidateFilter(_ storeID: (UInt64, UInt64)) throws(Failure) {
        filter.withLock { filter in
            filter?.retire()
            filter = nil
        }
        // Nothing else in its place can be anybody's filter.
        var status = stat()
        guard unsafe lstat(filterPath, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { return }
        do throws(Failure) {
            _ = try File(path: filterPath, options: [.write, .notFollowing])
            DigestFilter(path: filterPath, storeID: storeID)?.retire()
        } catch where error.kind == .notFound {
            // There is none.
        }
    }
}
