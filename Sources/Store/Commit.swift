internal import BlobModel
internal import BlockModel
public import Catalogue
internal import Index
internal import LMDB
internal import Maps
internal import Packs
public import System

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
        parts.damage.forget(suspects)
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
        try transaction.put(disk)
        let suspects = try transaction.recordSuspects()
        try transaction.commit()
        return suspects
    }

    /// Writes down the blobs that readers of this process found damaged, so that the next write of the same content
    /// heals them, whichever process it comes from.
    public func recordDamage(_ patience: Patience? = nil) throws(Failure) {
        guard !isReadOnly, !parts.damage.found.isEmpty else { return }
        var transaction = try StoreTransaction.begin(self, patience)
        let suspects = try transaction.recordSuspects()
        try transaction.commit()
        parts.damage.forget(suspects)
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
        let filter = try synchronizedFilter()
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
        let snapshot = try store.packs.snapshot()
        let kept = store.packCache.withLock { $0.take() }
        let cache = if let kept { kept } else { try ValueCache(capacity: 1 << 15) }
        defer { store.packCache.withLock { $0 = cache } }
        var packs = PackFinder(snapshot, cache)
        var lookup = try store.parts.index.lookup(filter, superblock.index, lmdb.view, lookUps: batch.count)
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
                found = try lookup.find(digest) { (blob) throws(Failure) in try packs.holds(digest, blob) }
                if index >= ready {
                    ready = min(batch.count, index + 1 + ahead)
                    ahead = min(2 * ahead, Self.mostAhead)
                    try prepare(index + 1..<ready, of: batch, &lookup, &packs)
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
        _ changes: Range<Int>, of batch: Batch, _ lookup: inout DigestLookup, _ packs: inout PackFinder
    ) throws(Failure) {
        let data = changes.filter { batch[$0].source != nil }
        let guesses = try lookup.guess(data.map { batch[$0].digest.word0 })
        for (index, guess) in zip(data, guesses) {
            batch[index].blob = guess
            if guess != .none { try packs.prefetch(guess) }
        }
    }

    /// Stores `misses`, in the order of the disk, so that what is written together is read together; writes `heals` over the damaged
    /// copies. All of it is durable then.
    private mutating func store(_ misses: [Int], healing heals: [Int], from batch: Batch, _ filter: DigestFilter) throws(Failure) {
        let healed = try overwrite(heals, from: batch)
        // What could not be put right where it is, is stored once more: a block that was written has to be there.
        let misses = (misses + firsts(of: Set(heals).subtracting(healed), in: batch)).sorted()
        let blobs = misses.compactMap { index in
            batch[index].source.map { NewBlob(digest: batch[index].digest, check: batch[index].check, source: $0) }
        }
        var next = 0
        for sealed in try store.packs.seal(blobs, superblock.codec, patience) {
            for slot in sealed.first..<sealed.slotCount {
                batch[misses[next]].blob = BlobNumber(pack: sealed.number, slot: slot)
                next += 1
            }
            enter(sealed)
        }
        let healedBlobs = healed.map { batch[$0].blob }
        store.parts.damage.forget(healedBlobs)
        try store.parts.damage.remove(healedBlobs, &lmdb)
        try index(misses.map { (batch[$0].digest.word0, batch[$0].blob) }, in: filter)
    }

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
        let damage = store.parts.damage
        let suspects = damage.found
        guard try damage.count(lmdb.view) > 0 || !suspects.isEmpty else { return [] }
        var damaged: [Int] = []
        for hit in hits {
            let blob = batch[hit].blob
            let isKnown = try damage.has(blob, lmdb.view)
            if isKnown || suspects.contains(blob) { damaged.append(hit) }
        }
        return damaged
    }

    /// Writes packs anew with the data of `heals` in place of what is damaged.
    /// - Returns: the heals that were done: a pack whose other blobs can't be had is left alone.
    private mutating func overwrite(_ heals: [Int], from batch: Batch) throws(Failure) -> [Int] {
        var changes: [UInt64: PackRewrite] = [:]
        for heal in heals {
            let change = batch[heal]
            guard let source = change.source else { continue }
            changes[change.blob.pack, default: PackRewrite(number: change.blob.pack)].healed[change.blob.slot] =
                NewBlob(digest: change.digest, check: change.check, source: source)
        }
        var done: Set<BlobNumber> = []
        for pack in try store.packs.rewrite(changes.values.sorted { $0.number < $1.number }, patience) {
            let settled = try store.parts.counts.settled(ofPack: pack.number, lmdb.view) ?? []
            for (slot, length) in pack.healed {
                done.insert(BlobNumber(pack: pack.number, slot: slot))
                if slot >= settled.count || settled[slot] == 0 { counts.totals.deadBytes &+= UInt64(length.now) &- UInt64(length.before) }
            }
        }
        return heals.filter { done.contains(batch[$0].blob) }
    }

    /// Writes down the blobs that readers of this process found damaged.
    /// - Returns: them, which are not to be written down again once this is committed.
    mutating func recordSuspects() throws(Failure) -> Set<BlobNumber> {
        let suspects = store.parts.damage.found
        try store.parts.damage.record(suspects, &lmdb)
        return suspects
    }
}
