public import BlockModel
internal import LMDB

extension Store {
    /// Enters the batch in the disk's map, storing each distinct block that the store does not have yet. When it
    /// returns, all of it is durable; when it throws, none of it happened.
    /// - Parameters:
    ///   - journal: what the map holds of the disk's journal afterwards; nil leaves that as it is.
    ///   - patience: how long to wait for other writers; as long as others of the process when not given.
    public func commit(_ batch: Batch, to name: String, journal: JournalPosition? = nil, _ patience: Patience? = nil) throws(Failure) {
        try batch.name()
        let suspects: Set<BlobNumber>
        if (0..<batch.count).contains(where: { batch[$0].source != nil }) {
            suspects = try commit(batch, to: name, journal, patience, .beyondReserve)
        } else {
            // What only unmaps makes room.
            suspects = try wayOut(patience) { (room) throws(Failure) in try commit(batch, to: name, journal, patience, room) }
        }
        self.suspects.withLock { $0.subtract(suspects) }
    }

    /// - Returns: damaged blobs that are written down.
    private func commit(
        _ batch: Batch, to name: String, _ journal: JournalPosition?, _ patience: Patience?, _ room: Room
    ) throws(Failure) -> Set<BlobNumber> {
        var transaction = try StoreTransaction.begin(self, patience, room: room)
        transaction.isUnmapping = room != .beyondReserve
        var disk = try transaction.disk(name)
        try transaction.place(batch)
        var changes: [MapChange] = []
        changes.reserveCapacity(batch.count)
        for index in 0..<batch.count { changes.append(MapChange(block: batch[index].block, blob: batch[index].blob)) }
        try transaction.changeMap(of: &disk, changes)
        if let journal { disk.journal = journal }
        try transaction.putDisk(disk)
        let suspects = try transaction.recordSuspects()
        try transaction.commit()
        return suspects
    }
}

extension Store {
    /// Writes down the blobs that readers of this process found damaged, so that the next write of the same content
    /// heals them, whichever process it comes from.
    public func recordDamage(_ patience: Patience? = nil) throws(Failure) {
        guard !isReadOnly, !suspects.withLock({ $0.isEmpty }) else { return }
        var transaction = try StoreTransaction.begin(self, patience)
        let suspects = try transaction.recordSuspects()
        try transaction.commit()
        self.suspects.withLock { $0.subtract(suspects) }
    }
}

extension StoreTransaction {
    /// Finds or stores every block of the batch.
    fileprivate mutating func place(_ batch: Batch) throws(Failure) {
        // Where nothing is to be found, nothing need be known.
        guard (0..<batch.count).contains(where: { batch[$0].source != nil }) else {
            for index in 0..<batch.count { batch[index].blob = .none }
            return
        }
        let filter = try syncedFilter()
        var misses: [Int] = []
        var hits: [Int] = []
        try lookUp(batch, filter, &misses, &hits)
        let heals = try damagedBlobs(among: hits, batch)
        if !misses.isEmpty || !heals.isEmpty { try store(misses, healing: heals, from: batch, filter) }
        for index in 0..<batch.count {
            let twin = Int(batch[index].twin)
            if twin >= 0 { batch[index].blob = batch[twin].blob }
        }
    }

    /// Looks for every block, in the order of the disk: what was written together once is often written together again,
    /// so that behind a find the next blob of the pack is tried first, which needs no look at the index. The longer that
    /// does not help, the more look-ups are made ready at once.
    private func lookUp(_ batch: Batch, _ filter: DigestFilter, _ misses: inout [Int], _ hits: inout [Int]) throws(Failure) {
        let reading = try ReadTransaction(store.packs)
        let state = reading.id
        let kept = store.knownPacks.withLock { $0.take() }
        let known = if let kept { kept } else { try KnownValues(capacity: 1 << 15) }
        defer { store.knownPacks.withLock { $0 = known } }
        var packs = PackFinder(reading.view, store.packTables.packs, known, state)
        var buckets = try lmdb.view.cursor(store.tables.index)
        let knownBuckets = try store.buckets.withLock { (memory) throws(Failure) in
            try memory.buckets(store, superblock, lmdb.view, lookUps: batch.count)
        }
        var expected = BlobNumber.none
        var ready = 0
        var ahead = 1
        batch.clearPending()
        for index in 0..<batch.count {
            batch[index].twin = -1
            let guess = index < ready ? batch[index].blob : .none
            batch[index].blob = .none
            guard batch[index].source != nil else { continue }
            let digest = batch[index].digest
            var found = BlobNumber.none
            if expected != .none, try packs.holds(digest, expected) {
                found = expected
                ahead = 1
            } else if guess != .none, try packs.holds(digest, guess) {
                found = guess
            } else {
                found = try Self.find(digest, filter, &buckets, &packs)
                if index >= ready {
                    ready = min(batch.count, index + 1 + ahead)
                    ahead = min(2 * ahead, Self.mostAhead)
                    try prepare(index + 1..<ready, of: batch, filter, &buckets, knownBuckets, &packs)
                }
            }
            if found == .none {
                expected = .none
                let twin = batch.findOrEnter(index)
                if twin >= 0 { batch[index].twin = Int32(twin) } else { misses.append(index) }
            } else {
                batch[index].blob = found
                hits.append(index)
                expected = try packs.next(after: found)
            }
        }
    }

    /// Look-ups that are made ready at once: enough that the processor never waits for the last of them.
    private static var mostAhead: Int { 64 }

    /// Notes for each of the changes which blob it most likely is, and has the processor fetch what shows whether it is.
    private func prepare(
        _ changes: Range<Int>, of batch: Batch, _ filter: DigestFilter, _ buckets: inout Cursor, _ known: KnownBuckets?, _ packs: inout PackFinder
    ) throws(Failure) {
        let data = changes.filter { batch[$0].source != nil }
        let guesses = try Self.guess(data.map { batch[$0].digest.word0 }, filter, &buckets, known)
        for (index, guess) in zip(data, guesses) {
            batch[index].blob = guess
            if guess != .none { try packs.prefetch(guess) }
        }
    }

    /// For each first word of a digest a blob whose digest begins like that, or `.none`: the one that `find` would try first.
    static func guess(
        _ words: [UInt64], _ filter: DigestFilter, _ buckets: inout Cursor, _ known: KnownBuckets? = nil
    ) throws(Failure) -> [BlobNumber] {
        for word in words { filter.prefetch(word) }
        var guesses = [BlobNumber](repeating: .none, count: words.count)
        var rest: [Int] = []
        for (index, word) in words.enumerated() where filter.mayContain(word) {
            let isRecent = try filter.findRecent(word) { blob in
                guesses[index] = blob
                return true
            }
            if !isRecent { rest.append(index) }
        }
        let blobs = try DigestIndex.firstBlobs(of: rest.map { words[$0] }, &buckets, known)
        for (index, blob) in zip(rest, blobs) { guesses[index] = blob }
        return guesses
    }

    /// The blob of that digest, or `.none`: what the filter does not know is new, and nobody has to be asked.
    @inline(__always)
    static func find(_ digest: Digest, _ filter: DigestFilter, _ buckets: inout Cursor, _ packs: inout PackFinder) throws(Failure) -> BlobNumber {
        guard filter.mayContain(digest.word0) else { return .none }
        var found = BlobNumber.none
        let isRecent = try filter.findRecent(digest.word0) { (blob) throws(Failure) in
            guard try packs.holds(digest, blob) else { return false }
            found = blob
            return true
        }
        return isRecent ? found : try DigestIndex.lookup(digest, &buckets, &packs) ?? .none
    }

    /// Appends `misses` to the open pack and to new ones, in the order of the disk, so that what is written together is
    /// read together; writes `heals` over the damaged copies. All of it is durable then.
    private mutating func store(_ misses: [Int], healing heals: [Int], from batch: Batch, _ filter: DigestFilter) throws(Failure) {
        var packs = try WriteTransaction(store.packs, patience)
        // What the open pack has is copied from here, where this transaction does not write.
        let before = try ReadTransaction(store.packs)
        let healed = try overwrite(heals, from: batch, &packs, before.view)
        // What could not be put right where it is, is stored once more: a block that was written has to be there.
        let misses = (misses + firsts(of: Set(heals).subtracting(healed), in: batch)).sorted()
        var builder = unsafe try openPack(before.view, not: Set(healed.map { batch[$0].blob.pack }))
        var known = builder.slotCount
        let room = superblock.compression == .none ? nil : try CompressedBlocks(superblock.compression)
        var next = 0
        while next < misses.count {
            let end = min(misses.count, next + CompressedBlocks.capacity)
            try room?.compress(misses[next..<end], of: batch)
            for place in next..<end {
                let change = batch[misses[place]]
                guard let source = change.source else { continue }
                let (codec, check, stored) = room?.result(place - next) ?? (.raw, change.check, source)
                if !builder.hasRoom(for: stored.count) {
                    try put(builder, &packs, from: known)
                    builder = PackBuilder(number: builder.number + 1)
                    known = 0
                }
                batch[misses[place]].blob = builder.append(change.digest, check: check, codec, stored)
            }
            // The compressed blocks make room for the next.
            if room != nil, builder.slotCount > known, end < misses.count {
                try put(builder, &packs, from: known)
                builder = PackBuilder(number: builder.number + 1)
                known = 0
            }
            next = end
        }
        if builder.slotCount > known { try put(builder, &packs, from: known) }
        withExtendedLifetime(room) {}
        try packs.commit()
        store.suspects.withLock { suspects in for heal in healed { suspects.remove(batch[heal].blob) } }
        for heal in healed { try lmdb.remove(store.tables.damaged, batch[heal].blob.rawValue) }
        try index(misses.map { (batch[$0].digest.word0, batch[$0].blob) }, in: filter)
    }

    private mutating func put(_ builder: PackBuilder, _ packs: inout WriteTransaction, from known: Int) throws(Failure) {
        let id = superblock.storeID.0
        var isTrue = false
        try packs.put(store.packTables.packs, builder.number, count: builder.byteCount) {
            isTrue = builder.write(into: &$0, storeID: id, checkingFrom: known)
        }
        guard isTrue else {
            throw Failure(.damage, "store a block in pack \(builder.number)", "it changed after it was hashed", remedy: "check the memory and the disk of this machine")
        }
        enter(pack: builder.number, slots: builder.slotCount, from: known) { builder.storedLength($0) }
    }

    /// The last pack when there is room in it and all is well with it, else a new one.
    /// - Parameter rewritten: packs that this transaction has written already.
    @unsafe private func openPack(_ packs: View, not rewritten: Set<UInt64>) throws(Failure) -> PackBuilder {
        var cursor = try packs.cursor(store.packTables.packs)
        guard try cursor.last(), let last = cursor.integerKey else { return PackBuilder(number: superblock.counted.pack + 1) }
        if last == superblock.counted.pack, !rewritten.contains(last), cursor.value.byteCount + Self.leastRoom <= PackFormat.capacity,
            let pack = PackView(cursor.value, number: last), pack.isIntact(storeID: superblock.storeID.0),
            let builder = unsafe PackBuilder(continuing: pack, number: last), builder.hasRoom(for: blockSize)
        {
            return builder
        }
        return PackBuilder(number: max(last, superblock.counted.pack) + 1)
    }

    /// A pack with less room is not opened again.
    private static var leastRoom: Int { blockSize + PackFormat.entrySize }

    // MARK: Healing

    /// Those of the changes that are the first of their content in the batch; the others follow them.
    private func firsts(of changes: Set<Int>, in batch: Batch) -> [Int] {
        changes.sorted().filter { index in
            let twin = batch.findOrEnter(index)
            batch[index].twin = Int32(twin)
            return twin < 0
        }
    }

    /// Those of the hits whose stored copy is known to be damaged.
    private func damagedBlobs(among hits: [Int], _ batch: Batch) throws(Failure) -> [Int] {
        let suspects = store.suspects.withLock { $0 }
        guard try lmdb.view.count(store.tables.damaged) > 0 || !suspects.isEmpty else { return [] }
        var damaged: [Int] = []
        for hit in hits {
            let blob = batch[hit].blob
            let isKnown = try lmdb.view.value(store.tables.damaged, blob.rawValue) != nil
            if isKnown || suspects.contains(blob) { damaged.append(hit) }
        }
        return damaged
    }

    /// Writes packs anew with the data of `heals` in place of what is damaged.
    /// - Returns: the heals that were done: a pack whose other blobs can't be had is left alone.
    private mutating func overwrite(
        _ heals: [Int], from batch: Batch, _ packs: inout WriteTransaction, _ before: View
    ) throws(Failure) -> [Int] {
        var done: [Int] = []
        for (number, group) in Dictionary(grouping: heals, by: { batch[$0].blob.pack }) {
            guard let pack = try PackView.find(number, in: before, store.packTables.packs), pack.isIntact(storeID: superblock.storeID.0),
                var builder = unsafe PackBuilder(copying: pack, number: number, isDead: { _ in false })
            else { continue }
            let counts = try ReferenceCounts.of(number, lmdb.view, store.tables) ?? []
            // Each takes the form that it had, so that the pack keeps its size. They are lent until it is written.
            var rooms: [CompressedBlocks] = []
            for (codec, heals) in Dictionary(grouping: group, by: { pack.codec(batch[$0].blob.slot) }) {
                for start in stride(from: 0, to: heals.count, by: CompressedBlocks.capacity) {
                    let part = heals[start..<min(start + CompressedBlocks.capacity, heals.count)]
                    let room = try CompressedBlocks(Compression(rawValue: UInt32(codec)) ?? .none)
                    try room.compress(part, of: batch)
                    rooms.append(room)
                    for (place, heal) in part.enumerated() {
                        let change = batch[heal]
                        let slot = change.blob.slot
                        guard let source = change.source else { continue }
                        let (codec, check, stored) = room.result(place) ?? (.raw, change.check, source)
                        let old = builder.storedLength(slot)
                        guard builder.replace(slot, check: check, codec, stored) else { continue }
                        done.append(heal)
                        if slot >= counts.count || counts[slot] == 0 { superblock.totals.deadBytes &+= UInt64(stored.count) &- UInt64(old) }
                    }
                }
            }
            let id = superblock.storeID.0
            try packs.put(store.packTables.packs, number, count: builder.byteCount) { _ = builder.write(into: &$0, storeID: id) }
            withExtendedLifetime(rooms) {}
        }
        return done
    }

    /// Writes down the blobs that readers of this process found damaged.
    /// - Returns: them, which are not to be written down again once this is committed.
    mutating func recordSuspects() throws(Failure) -> Set<BlobNumber> {
        let suspects = store.suspects.withLock { $0 }
        for blob in suspects { try lmdb.put(store.tables.damaged, blob.rawValue, count: 0) { _ in } }
        return suspects
    }
}
