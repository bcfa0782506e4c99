internal import BlobModel
internal import BlockModel
internal import Index
internal import LMDB
internal import Packs
internal import System

/// Where the blocks of a batch are stored, or will be: what looking them up gives, sealing completes, and a commit refers to.
struct Placement: ~Copyable {
    /// Of each change of the batch; `.none`: it unmaps, or has no blob yet.
    fileprivate(set) var blobs: [BlobNumber]
    /// Changes whose content the store had.
    fileprivate(set) var hits: [Int] = []
    /// Changes whose content is new, each the first of it in the batch, and not stored yet.
    fileprivate(set) var misses: [Int] = []
    /// Those that were stored for this batch.
    fileprivate(set) var stored: [Int] = []
    /// Changes with the content of an earlier one that the store did not have.
    fileprivate var duplicates: [(change: Int, first: Int)] = []
    /// What was stored for it, which belongs to its writer until something refers to it.
    fileprivate var claims: [SealedBlobs] = []
    /// Another writer may have stored the same content between the look-up and the sealing.
    private(set) var mayComeSecond = false

    fileprivate init(count: Int) { blobs = [BlobNumber](repeating: .none, count: count) }

    /// Every block of that batch is unmapped.
    static func unmapping(_ batch: HashedBatch) -> Placement { Placement(count: batch.count) }

    /// The blobs of the changes, in their order.
    consuming func resolved() -> [BlobNumber] {
        for (change, first) in duplicates { blobs[change] = blobs[first] }
        return blobs
    }

    /// Stores what is new, in the order of the disk, so that what is written together is read together. It is durable then.
    /// - Parameter counted: the place up to which everything was looked at.
    mutating func seal(_ batch: HashedBatch, in packs: any PackStore, _ codec: BlobCodec, behind counted: PackPlace, _ patience: Patience?) throws(Failure) {
        guard !misses.isEmpty else { return }
        let new = misses.compactMap { index in
            batch[index].source.map { NewBlob(digest: batch[index].digest, check: batch[index].check, source: $0) }
        }
        let sealed = try packs.seal(new, codec, patience)
        for (index, blob) in zip(misses, sealed.numbers) { blobs[index] = blob }
        if sealed.previous != counted { mayComeSecond = true }
        claims.append(sealed)
        stored += misses
        misses = []
    }

    /// The changes of `lost` have no blob any more, and are new, but for those with the content of another of them.
    fileprivate mutating func lose(_ lost: [Int], of batch: HashedBatch) {
        let gone = Set(lost)
        hits.removeAll { gone.contains($0) }
        var table = DuplicateTable(capacity: lost.count)
        for index in lost {
            blobs[index] = .none
            if let first = table.findOrEnter(index, of: batch) { duplicates.append((index, first)) } else { misses.append(index) }
        }
    }
}

/// The new blocks of a batch by their digests.
private struct DuplicateTable {
    /// Index of the change plus one; 0: free. Twice as many as there can be.
    private var slots: [Int32]

    init(capacity: Int) {
        var size = 16
        while size < 2 * capacity { size *= 2 }
        slots = [Int32](repeating: 0, count: size)
    }

    /// The first change that was entered with that digest; else `index` is entered.
    mutating func findOrEnter(_ index: Int, of batch: HashedBatch) -> Int? {
        let digest = batch[index].digest
        let mask = slots.count - 1
        var slot = Int(truncatingIfNeeded: digest.word1) & mask
        while slots[slot] != 0 {
            let other = Int(slots[slot]) - 1
            if batch[other].digest == digest { return other }
            slot = (slot + 1) & mask
        }
        slots[slot] = Int32(index + 1)
        return nil
    }
}

// MARK: Looking up

/// Looks up a batch, in the order of the disk: what was written together once is often written together again,
/// so that behind a find the next blob of the pack is tried first, which needs no look at the index. The longer that
/// does not help, the more look-ups are made ready at once.
struct BatchLookup {
    /// Look-ups that are made ready at once: enough that the processor never waits for the last of them.
    private static let mostAhead = 64
    /// Blobs that the index does not have yet: nobody has committed since they were stored.
    private let uncounted: [Digest: BlobNumber]
    /// For each change that was made ready, the blob that it most likely is.
    private var guesses: [BlobNumber]
    private var ready = 0
    private var ahead = 1

    private init(count: Int, _ uncounted: [Digest: BlobNumber]) {
        guesses = [BlobNumber](repeating: .none, count: count)
        self.uncounted = uncounted
    }

    static func place(
        _ batch: HashedBatch, _ lookup: inout DigestLookup, _ packs: inout PackFinder, uncounted: [Digest: BlobNumber] = [:]
    ) throws(Failure) -> Placement {
        var this = BatchLookup(count: batch.count, uncounted)
        return try this.place(batch, &lookup, &packs)
    }

    private mutating func place(_ batch: HashedBatch, _ lookup: inout DigestLookup, _ packs: inout PackFinder) throws(Failure) -> Placement {
        var placement = Placement(count: batch.count)
        var table = DuplicateTable(capacity: batch.count)
        var expected = BlobNumber.none
        for index in 0..<batch.count where batch[index].source != nil {
            let found = try find(index, of: batch, expecting: expected, &lookup, &packs)
            if found == .none {
                expected = .none
                if let first = table.findOrEnter(index, of: batch) { placement.duplicates.append((index, first)) } else { placement.misses.append(index) }
            } else {
                placement.blobs[index] = found
                placement.hits.append(index)
                expected = try packs.next(after: found)
            }
        }
        return placement
    }

    private mutating func find(
        _ index: Int, of batch: HashedBatch, expecting expected: BlobNumber, _ lookup: inout DigestLookup, _ packs: inout PackFinder
    ) throws(Failure) -> BlobNumber {
        let digest = batch[index].digest
        if expected != .none, try packs.holds(digest, expected) {
            ahead = 1
            return expected
        }
        let guess = index < ready ? guesses[index] : .none
        if guess != .none, try packs.holds(digest, guess) { return guess }
        let found = try lookup.find(digest) { (blob) throws(Failure) in try packs.holds(digest, blob) }
        if index >= ready {
            ready = min(batch.count, index + 1 + ahead)
            ahead = min(2 * ahead, Self.mostAhead)
            try prepare(index + 1..<ready, of: batch, &lookup, &packs)
        }
        return found == .none && !uncounted.isEmpty ? uncounted[digest] ?? .none : found
    }

    /// Has the processor fetch what shows whether the guesses are right.
    private mutating func prepare(
        _ changes: Range<Int>, of batch: HashedBatch, _ lookup: inout DigestLookup, _ packs: inout PackFinder
    ) throws(Failure) {
        let data = changes.filter { batch[$0].source != nil }
        for (index, guess) in zip(data, try lookup.guess(data.map { batch[$0].digest.word0 })) {
            guesses[index] = guess
            if guess != .none { try packs.prefetch(guess) }
        }
    }
}

extension Store {
    /// Lends a finder of what a snapshot shows, with what is known of where packs lie: while nothing is stored, the next finds them again.
    /// - Parameter rewrites: how often other versions became current, as of no later moment than the snapshot's.
    func withFinder<Result: ~Copyable>(
        _ snapshot: borrowing PackSnapshot, rewrites: UInt64, _ body: (inout PackFinder) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let kept = packCache.withLock { $0.take() }
        let cache = if let kept { kept } else { try ValueCache(capacity: 1 << 15) }
        defer { packCache.withLock { $0 = cache } }
        var finder = PackFinder(snapshot, cache.places, rewrites: rewrites)
        return try body(&finder)
    }

    /// Finds or stores every block of a batch, without the store's lock, under which all that is left is to refer to them.
    /// - Returns: nil: that takes the lock, as there is no filter that can be trusted, no room but the reserve, or damage to be healed.
    func place(_ batch: HashedBatch, _ patience: Patience?) throws(Failure) -> EarlyPlacement? {
        guard reserve.isWhole, parts.damage.found.isEmpty else { return nil }
        guard var early = try lookUp(batch) else { return nil }
        try early.placement.seal(batch, in: packs, early.superblock.codec, behind: early.superblock.counted, patience)
        return early
    }

    func lookUp(_ batch: HashedBatch) throws(Failure) -> EarlyPlacement? {
        let reading = try ReadTransaction(meta)
        let superblock = try parts.superblock.superblock(reading.view)
        guard try parts.damage.count(reading.view) == 0, let filter = parts.index.filter(for: superblock.index, superblock.counted) else { return nil }
        let moment = filter.moment
        let snapshot = try snapshot()
        guard let uncounted = try uncounted(snapshot, from: superblock.counted) else { return nil }
        var lookup = try parts.index.lookup(filter, superblock.index, reading.view, lookUps: batch.count)
        let placement = try withFinder(snapshot, rewrites: superblock.rewrites) { (packs) throws(Failure) in
            try BatchLookup.place(batch, &lookup, &packs, uncounted: uncounted)
        }
        // Else it may have overlooked something.
        guard filter.isSteady(since: moment) else { return nil }
        return EarlyPlacement(placement: placement, superblock: superblock, state: reading.id)
    }
}

extension Store {
    /// More blobs that nobody has counted are counted first, under the lock.
    private static let mostUncounted = 1 << 16

    /// What is stored behind `counted`: others are about to refer to it, or were killed before they could. Nil: it is too much.
    private func uncounted(_ snapshot: borrowing PackSnapshot, from counted: PackPlace) throws(Failure) -> [Digest: BlobNumber]? {
        if try snapshot.last() == counted { return [:] }
        var blobs: [Digest: BlobNumber] = [:]
        try snapshot.forEachBlob(from: counted, skippingDamaged: true) { (blob, digest) throws(Failure) in
            if blobs[digest] == nil { blobs[digest] = blob }
            return blobs.count <= Self.mostUncounted
        }
        return blobs.count <= Self.mostUncounted ? blobs : nil
    }
}

/// A placement that was made without the lock, and the state of the store that was looked at.
struct EarlyPlacement: ~Copyable {
    var placement: Placement
    let superblock: Superblock
    let state: Int
}

// MARK: Under the lock

extension StoreTransaction {
    /// Sees to it that every block of the batch has its blob: one that was placed early has it, unless others came in between.
    mutating func confirm(_ early: consuming EarlyPlacement?, _ batch: HashedBatch) throws(Failure) -> [BlobNumber] {
        var filter = try synchronizedFilter()
        var placement: Placement
        var isChanged = false
        switch consume early {
        case .some(let early):
            isChanged = lmdb.id - 1 != early.state
            let mayBeGone = superblock.rewrites != early.superblock.rewrites
            placement = early.placement
            if mayBeGone { try dropCollected(from: &placement, of: batch) }
        case .none:
            placement = try lookUp(batch, filter)
        }
        try leaveSeconds(&placement, batch, filter)
        try heal(&placement, batch, filter)
        if !placement.misses.isEmpty {
            try placement.seal(batch, in: store.packs, superblock.codec, behind: superblock.counted, patience)
            try adoptUnknownBlobs()
            filter = try synchronizedFilter()
        }
        if isChanged || placement.mayComeSecond { try takeFirsts(&placement, batch, filter) }
        try advanceMerge(filter, entered: placement.stored.count)
        claims += placement.claims
        return placement.resolved()
    }

    /// Lends a finder of what this transaction has. If it has made something current itself, nothing is remembered, as it may not be committed.
    private func withFinder<Result: ~Copyable>(_ body: (inout PackFinder) throws(Failure) -> Result) throws(Failure) -> Result {
        let snapshot = try snapshot()
        if switched.isEmpty { return try store.withFinder(snapshot, rewrites: superblock.rewrites, body) }
        var finder = PackFinder(snapshot)
        return try body(&finder)
    }

    private func lookUp(_ batch: HashedBatch, _ filter: DigestFilter) throws(Failure) -> Placement {
        var lookup = try store.parts.index.lookup(filter, superblock.index, lmdb.view, lookUps: batch.count)
        return try withFinder { (packs) throws(Failure) in try BatchLookup.place(batch, &lookup, &packs) }
    }

    /// Blobs that were found and are not there any more are to be stored again.
    private func dropCollected(from placement: inout Placement, of batch: HashedBatch) throws(Failure) {
        let hits = placement.hits, blobs = placement.blobs
        let lost = try withFinder { (packs) throws(Failure) in
            var lost: [Int] = []
            for index in hits {
                let isThere = try packs.holds(batch[index].digest, blobs[index])
                if !isThere { lost.append(index) }
            }
            return lost
        }
        if !lost.isEmpty { placement.lose(lost, of: batch) }
    }

    /// A blob that was found behind another one may be the second with its content, which no look-up gives: the first takes its place.
    private func leaveSeconds(_ placement: inout Placement, _ batch: HashedBatch, _ filter: DigestFilter) throws(Failure) {
        guard try store.parts.index.hasSeconds(lmdb.view) else { return }
        let blobs = placement.blobs
        var seconds: [Int] = []
        for hit in placement.hits where try store.parts.index.isSecond(blobs[hit], lmdb.view) { seconds.append(hit) }
        for (index, first) in zip(seconds, try find(seconds, of: batch, filter) { (_) throws(Failure) in true }) where first != .none {
            placement.blobs[index] = first
        }
    }

    /// The blobs of some of the changes, or `.none`.
    private func find(
        _ changes: [Int], of batch: HashedBatch, _ filter: DigestFilter, where isUsable: (BlobNumber) throws(Failure) -> Bool
    ) throws(Failure) -> [BlobNumber] {
        var lookup = try store.parts.index.lookup(filter, superblock.index, lmdb.view)
        return try withFinder { (packs) throws(Failure) in
            var found: [BlobNumber] = []
            for index in changes {
                let digest = batch[index].digest
                let blob = try lookup.find(digest) { (blob) throws(Failure) in
                    guard try packs.holds(digest, blob) else { return false }
                    return try isUsable(blob)
                }
                found.append(blob)
            }
            return found
        }
    }

    /// Of two writers that stored the same content at the same moment, both refer to what came first; the other's is dead at once.
    private func takeFirsts(_ placement: inout Placement, _ batch: HashedBatch, _ filter: DigestFilter) throws(Failure) {
        // A damaged blob that could not be healed does not count.
        let damage = store.parts.damage, damaged = try damage.count(lmdb.view) > 0 || !damage.found.isEmpty
        let firsts = try find(placement.stored, of: batch, filter) { (blob) throws(Failure) in
            guard damaged else { return true }
            return try !isDamaged(blob)
        }
        for (index, first) in zip(placement.stored, firsts) where first != .none { placement.blobs[index] = first }
    }

    // MARK: Healing

    /// Whether a blob's stored copy is known to be damaged.
    private func isDamaged(_ blob: BlobNumber) throws(Failure) -> Bool {
        if healed.contains(blob) { return false }
        let damage = store.parts.damage
        return try damage.has(blob, lmdb.view) || damage.found.contains(blob)
    }

    /// Those of the hits whose stored copy is known to be damaged.
    private func damagedBlobs(among hits: [Int], _ blobs: [BlobNumber]) throws(Failure) -> [Int] {
        let damage = store.parts.damage
        guard try damage.count(lmdb.view) > 0 || !damage.found.isEmpty else { return [] }
        var damaged: [Int] = []
        for hit in hits {
            let isBad = try isDamaged(blobs[hit])
            if isBad { damaged.append(hit) }
        }
        return damaged
    }

    /// Writes packs anew with the data of the batch in place of what is damaged. What can't be put right where it is, as the rest of its
    /// pack can't be had, is stored once more, if that was not done before: a block that was written has to be there.
    private mutating func heal(_ placement: inout Placement, _ batch: HashedBatch, _ filter: DigestFilter) throws(Failure) {
        let damaged = try damagedBlobs(among: placement.hits, placement.blobs)
        guard !damaged.isEmpty else { return }
        var changes: [UInt64: PackRewrite] = [:]
        do {
            let snapshot = try snapshot()
            for index in damaged {
                let change = batch[index], blob = placement.blobs[index]
                guard let source = change.source, let version = try snapshot.pack(blob.pack)?.version else { continue }
                changes[blob.pack, default: PackRewrite(from: PackVersion(blob.pack, version))].healed[blob.slot] =
                    NewBlob(digest: change.digest, check: change.check, source: source)
            }
        }
        let copies = try store.packs.rewrite(changes.values.sorted { $0.from < $1.from }, versions, patience)
        // Also those of a commit that fails.
        for copy in copies where !copy.healed.isEmpty {
            guard try makeCurrent(copy) else { continue }
            for slot in copy.healed.keys { healed.insert(BlobNumber(pack: copy.number, slot: slot)) }
            try noteLengths(copy.healed, ofPack: copy.number)
        }
        try store.parts.damage.remove(healed, &lmdb)
        var lost: [Int] = []
        let left = damaged.filter { !healed.contains(placement.blobs[$0]) }
        for (index, other) in zip(left, try find(left, of: batch, filter) { (blob) throws(Failure) in try !isDamaged(blob) }) {
            if other == .none { lost.append(index) } else { placement.blobs[index] = other }
        }
        if !lost.isEmpty { placement.lose(lost, of: batch) }
    }
}
