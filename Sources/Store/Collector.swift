internal import BlobModel
internal import Counts
internal import Index
internal import LMDB
internal import Packs
public import System

// Collecting: blobs that nothing refers to lose their bytes. Slots keep their numbers, so that no map changes: a
// pack is written anew, shorter, its collected slots marked in the directory; a pack with nothing left goes.
//
// For each piece of work:
// 1. `meta` notes which packs are at work, and takes those of their dead blobs into the index that are not in it.
// 2. The packs are written anew and committed.
// 3. Index and totals follow, and with the last of them the note goes.
//
// Where there is room, 2 and 3 are one commit of `meta`. A power cut within leaves the note: the next writer finds slots that are
// collected and still in the index, and takes them out. A slot that is collected and in the index is one whose collection is not
// over; whoever looks at the store counts by that (`StoreState`).
//
// Packs of which nothing is left are taken first: they need no room for a copy.

/// How much one step of maintenance may do.
public struct MaintenanceBudget: Sendable {
    /// Seconds for which a step should hold the store's lock at the most, which writers wait for: by what a step took, the next is made larger
    /// or smaller.
    public var seconds: Double

    public init(seconds: Double = 0.03) { self.seconds = seconds }
}

/// What one step does: as much as took its time, so far.
private struct StepWork {
    /// Entries of the index that a commit changes: each a page of it, as they lie anywhere.
    private(set) var indexEntries = 512
    /// Bytes of packs that are written anew: a commit that does both has about as much to do for either.
    var packBytes: Int { indexEntries * 4096 }
    /// Packs whose counts are looked at, without the lock.
    let packsSeen = 1 << 14
    private static let fewest = 128, most = 1 << 13

    mutating func adapt(_ seconds: Double, to budget: MaintenanceBudget) {
        if seconds > budget.seconds {
            indexEntries = max(Self.fewest, indexEntries / 2)
        } else if seconds < budget.seconds / 2 {
            indexEntries = min(Self.most, indexEntries * 3 / 2)
        }
    }
}

/// Frees the bytes of blobs that nothing refers to, and gives them back to the filesystem, a step at a time: beside writers, who wait for one
/// step at the most. There is one at a time in a store; an end at any instant leaves nothing that the next one, or the next writer,
/// does not finish.
public struct GarbageCollection: ~Copyable {
    private let store: Store
    private let hold: LockFile.Hold
    private var phase = Phase.leftovers
    private var work = StepWork()
    /// What is stored later is left to the next collection: a writer may make dead blobs as fast as they are collected.
    private var last: UInt64 = 0
    public private(set) var progress = Progress()

    /// How far it is.
    public struct Progress: Sendable {
        /// Packs that were written anew, of all that there are.
        public internal(set) var packsDone = 0, packs = 0
        /// Payload bytes that were freed.
        public internal(set) var freedBytes: UInt64 = 0
        public internal(set) var isOver = false
    }

    private enum Phase {
        case leftovers, index, counts(from: UInt64), unfinished
        /// Packs from one on; `wholly`: those alone that have nothing left.
        case packs(from: UInt64, wholly: Bool)
        case empty([UInt64], from: Int, wholly: Bool)
        case space, over
    }

    /// - Throws: `.busy` when another process collects.
    public init(_ store: Store) throws(Failure) {
        self.store = store
        // Two would take each other's notes away for ever.
        hold = try store.lockFile.hold(.collecting)
    }

    /// Goes on for a step.
    /// - Returns: how far it is.
    public mutating func step(_ budget: MaintenanceBudget = MaintenanceBudget()) throws(Failure) -> Progress {
        let began = monotonicSeconds()
        try takeStep()
        work.adapt(monotonicSeconds() - began, to: budget)
        if case .over = phase { progress.isOver = true }
        return progress
    }

    private mutating func takeStep() throws(Failure) {
        switch phase {
        case .leftovers:
            try store.removeLeftovers()
            phase = .index
        case .index:
            do throws(Failure) {
                if try store.completeIndex(limit: work.indexEntries) { phase = .counts(from: 0) }
            } catch where error.kind == .noSpace {
                // Then what is dead is taken in as it is collected.
                phase = .counts(from: 0)
            }
        case .counts(let group):
            phase = if let next = try store.settleCounts(from: group) { .counts(from: next) } else { .unfinished }
        case .unfinished:
            try store.finishCollection(entries: work.indexEntries)
            last = try store.lastCountedPack()
            phase = .packs(from: 1, wholly: true)
        case .packs(let first, let wholly):
            let found = try store.findWork(from: first, to: last, wholly: wholly, work)
            progress.packs = found.total
            if !found.packs.isEmpty {
                progress.freedBytes += try store.collectWithin(found.packs)
                progress.packsDone = min(found.total, progress.packsDone + found.packs.count)
            }
            phase = if let next = found.next { .packs(from: next, wholly: wholly) } else { .empty(try store.emptyPacks(), from: 0, wholly: wholly) }
        case .empty(let packs, let first, let wholly):
            let next = try store.removeEmptyPacks(packs, from: first)
            phase = next < packs.count ? .empty(packs, from: next, wholly: wholly) : wholly ? .packs(from: 1, wholly: false) : .space
        case .space:
            try store.trim()
            phase = .over
        case .over: break
        }
    }

    /// Goes on with giving space back, and no further.
    public mutating func finishEarly() { phase = .space }
}

extension Store {
    /// Packs in one piece of work, and how far they may be apart, as whoever finishes looks at all between them.
    private static let packsPerPiece = 64
    private static let packsBetween: UInt64 = 256
    /// Entries of the index that a commit changes where there is only the reserve: a page each, and one above it.
    private static let fewestEntries = 48

    /// Frees the bytes of blobs that nothing refers to, and gives them back to the filesystem.
    /// - Parameter progress: told packs done and packs in all.
    /// - Returns: payload bytes that were freed.
    /// - Throws: `.busy` when another process collects.
    public func collect(shouldStop: () -> Bool, progress: (Int, Int) -> Void) throws(Failure) -> UInt64 {
        var collection = try GarbageCollection(self)
        var isStopping = false
        while !collection.progress.isOver {
            let now = try collection.step()
            progress(now.packsDone, now.packs)
            if !isStopping, shouldStop() {
                isStopping = true
                collection.finishEarly()
            }
        }
        return collection.progress.freedBytes
    }

    /// The last pack that has counts.
    fileprivate func lastCountedPack() throws(Failure) -> UInt64 {
        let reading = try ReadTransaction(meta)
        return try parts.superblock.superblock(reading.view).counted.pack
    }

    /// The next packs with dead blobs in them, where to go on from, and the number of all packs.
    /// - Parameters:
    ///   - last: the last one to be looked at.
    ///   - wholly: those alone that have nothing else.
    fileprivate func findWork(
        from first: UInt64, to last: UInt64, wholly: Bool, _ step: StepWork
    ) throws(Failure) -> (packs: [UInt64], next: UInt64?, total: Int) {
        let state = try state()
        let total = try state.packs.count
        var work: [UInt64] = []
        var next: UInt64?
        var seen = 0, bytes = 0, entries = 0
        var reader = parts.counts.reader(state.meta.view)
        try parts.counts.forEachPack(from: first, state.meta.view) { (number, settled) throws(Failure) in
            seen += 1
            next = nil
            guard number <= last else { return false }
            next = number
            if let start = work.first, number - start > Self.packsBetween { return false }
            guard work.count < Self.packsPerPiece, seen <= step.packsSeen else { return false }
            next = nil
            guard settled.contains(0), let now = try reader.counts(ofPack: number), !wholly || now.allSatisfy({ $0 == 0 }),
                let pack = try state.packs.pack(number)
            else { return true }
            pack.expectDirectory()
            let dead = settled.indices.count { settled[$0] == 0 && now[$0] == 0 && !pack.isCollected($0) }
            guard dead > 0 else { return true }
            if !wholly { bytes += pack.bytes.byteCount }
            entries += dead
            // One pack is always worked on.
            guard work.isEmpty || bytes <= step.packBytes && entries <= step.indexEntries else {
                next = number
                return false
            }
            work.append(number)
            return true
        }
        return (work, next, total)
    }

    /// Brings all blobs into the index: what is collected is taken out of it.
    /// - Parameter limit: about how many in one commit.
    /// - Returns: whether all are in it.
    fileprivate func completeIndex(limit: Int) throws(Failure) -> Bool {
        var transaction = try StoreTransaction.begin(self)
        let isDone = try transaction.indexDirectories(limit: limit)
        try transaction.commit()
        return isDone
    }

    /// All of it.
    func completeIndex() throws(Failure) { while try !completeIndex(limit: 1 << 15) {} }

    /// Enters changes that were put off in `counts`, so that these say what is dead: of one group of packs, which changes a hundred pages at most.
    /// - Returns: the group to go on from; nil: there are no more.
    fileprivate func settleCounts(from group: UInt64) throws(Failure) -> UInt64? {
        try wayOut { (room) throws(Failure) in
            var transaction = try StoreTransaction.begin(self, room: room)
            let (next, isChanged) = try transaction.settleCounts(from: group, groups: 1)
            // Nothing was done: nothing need be committed.
            if isChanged { try transaction.commit() } else { transaction.abandon() }
            return next
        }
    }

    /// All of them.
    func settleCounts() throws(Failure) {
        var group: UInt64? = 0
        while let first = group { group = try settleCounts(from: first) }
    }

    // MARK: Pieces

    /// Collects as many packs at a time as there is room for.
    fileprivate func collectWithin(_ work: [UInt64]) throws(Failure) -> UInt64 {
        do throws(Failure) {
            return try collect(work)
        } catch where error.kind == .noSpace {
            var freed: UInt64 = 0
            for number in work { freed += try collectSparingly(number) }
            return freed
        }
    }

    /// - Parameter noted: called when the packs are noted, before they are worked on.
    func collect(_ work: [UInt64], noted: () -> Void = {}) throws(Failure) -> UInt64 {
        let range = (first: work[0], last: work[work.count - 1])
        var transaction = try StoreTransaction.begin(self)
        var isNoted = false
        // Another collection that comes in between may have put its own note in this one's place.
        while !isNoted || transaction.superblock.collecting != range {
            isNoted = true
            _ = try transaction.finishCollecting(isOver: true)
            transaction.superblock.beginCollecting(range.first, range.last)
            _ = try transaction.indexDead(work, limit: .max)
            try transaction.commit()
            noted()
            transaction = try StoreTransaction.begin(self, rebuilding: true)
        }
        try transaction.rewrite(work)
        let freed = try transaction.finishCollecting(isOver: true).bytes
        try transaction.adoptUnknownBlobs()
        try transaction.commit()
        return freed
    }

    /// Collects one pack in commits none of which needs more than the reserve.
    private func collectSparingly(_ number: UInt64) throws(Failure) -> UInt64 {
        var freed: UInt64 = 0
        var isNoted = false
        // Each turn is undone by another collection at most.
        for _ in 0..<1000 where !isNoted {
            freed += try finishCollection(but: number)
            isNoted = try wayOut { (room) throws(Failure) in
                var transaction = try StoreTransaction.begin(self, room: room)
                guard transaction.superblock.collecting.first == 0 || transaction.superblock.collecting == (number, number) else { return false }
                if transaction.superblock.collecting.first == 0 { transaction.superblock.beginCollecting(number, number) }
                let isIndexed = try transaction.indexDead([number], limit: Self.fewestEntries)
                try transaction.commit()
                return isIndexed
            }
        }
        let isRewritten = try wayOut { (room) throws(Failure) in
            let transaction = try StoreTransaction.begin(self, room: room)
            guard transaction.superblock.collecting == (number, number) else { return false }
            // Nothing of it is in `meta` yet, which stays as it is.
            try transaction.rewrite([number])
            transaction.abandon()
            return true
        }
        if isRewritten { regain() }
        return try freed + finishCollection()
    }

    /// Finishes the collection that the superblock notes, if there is one, in small commits.
    /// - Parameter number: if it is of this pack alone, it goes on.
    /// - Returns: payload bytes that are no longer counted.
    @discardableResult
    fileprivate func finishCollection(but number: UInt64 = 0, entries: Int = 1 << 13) throws(Failure) -> UInt64 {
        var freed: UInt64 = 0
        var size = StepSize(least: min(Self.fewestEntries, entries), most: entries)
        var isOver = false
        while !isOver {
            let bytes: UInt64
            (bytes, isOver) = try wayOut(&size) { (entries, room) throws(Failure) in
                var transaction = try StoreTransaction.begin(self, room: room)
                let range = transaction.superblock.collecting
                guard range.first > 0, range != (number, number) else { return (0, true) }
                let (bytes, isOver) = try transaction.finishCollecting(isOver: true, limit: entries)
                try transaction.commit()
                return (bytes, isOver)
            }
            freed += bytes
        }
        return freed
    }

    // MARK: Empty packs

    /// Removes packs all of whose slots are collected: first their counts, then they themselves.
    /// - Returns: where to go on.
    fileprivate func removeEmptyPacks(_ empty: [UInt64], from first: Int) throws(Failure) -> Int {
        var size = StepSize(least: 16, most: 1 << 8)
        return try wayOut(&size) { (count, room) throws(Failure) in
            let end = min(empty.count, first + count)
            try remove(emptyPacks: empty[first..<end], room)
            return end
        }
    }

    private func remove(emptyPacks numbers: ArraySlice<UInt64>, _ room: Room) throws(Failure) {
        let transaction = try StoreTransaction.begin(self, room: room)
        // The index may still have slots of these.
        guard transaction.superblock.collecting.first == 0 else { return transaction.abandon() }
        try removeEmpty(numbers, consume transaction)
    }

    private func removeEmpty(_ numbers: ArraySlice<UInt64>, _ begun: consuming StoreTransaction) throws(Failure) {
        var transaction = begun
        let snapshot = try packs.snapshot()
        var empty: [UInt64] = []
        // Somebody else may have removed one.
        for number in numbers where try snapshot.pack(number)?.isEmpty == true {
            try parts.counts.remove(pack: number, &transaction.lmdb)
            empty.append(number)
            // By the last blob, the filter is known to be this store's.
            if number == transaction.superblock.counted.pack { try parts.index.retireFilter() }
        }
        // A pack without counts is collected whole, and is found again; counts without a pack would be damage.
        try transaction.commit()
        try packs.remove(empty, nil)
    }

    fileprivate func emptyPacks() throws(Failure) -> [UInt64] {
        let state = try state()
        var empty: [UInt64] = []
        var counted = 0
        try parts.counts.forEachPack(state.meta.view) { (number, counts) throws(Failure) in
            counted += 1
            guard counts.allSatisfy({ $0 == 0 }), let pack = try state.packs.pack(number) else { return true }
            pack.expectDirectory()
            if pack.isEmpty { empty.append(number) }
            return true
        }
        // Whoever removed counts may have been killed before the packs were.
        guard try state.packs.count > counted else { return empty }
        try state.packs.forEachPack { (number, pack) throws(Failure) in
            if let pack, pack.isEmpty, try !parts.counts.has(number, state.meta.view) { empty.append(number) }
            return true
        }
        return empty
    }
}

extension Superblock {
    /// Slots whose bytes are gone, and which are still in the index and among the dead blobs of the totals: their collection has not
    /// come to its end.
    /// - Parameter limit: no more than one beyond that many are wanted.
    /// - Returns: what the index has of them, and their stored bytes.
    func beingCollected(
        _ meta: View, _ packs: borrowing PackSnapshot, _ store: Store, limit: Int = .max
    ) throws(Failure) -> [(entry: IndexEntry, length: Int)] {
        let (first, last) = collecting
        guard first > 0 else { return [] }
        var found: [(entry: IndexEntry, length: Int)] = []
        var index = try store.parts.index.membership(meta)
        try packs.forEachPack(from: first) { (number, pack) throws(Failure) in
            guard found.count <= limit, number <= last else { return false }
            guard let pack else { return true }
            for slot in 0..<pack.slotCount where pack.isCollected(slot) {
                guard let digest = pack.digest(slot) else { continue }
                let entry = IndexEntry(digest, BlobNumber(pack: number, slot: slot))
                if try index.contains(entry) { found.append((entry, pack.storedLength(slot))) }
            }
            return true
        }
        return found
    }
}

extension StoreTransaction {
    /// Brings the index up to date from the packs' directories, about `limit` blobs of it.
    /// - Returns: whether all of it is.
    mutating func indexDirectories(limit: Int) throws(Failure) -> Bool {
        let directory = try store.packs.snapshot()
        return try store.parts.index.complete(limit: limit, &superblock.index, superblock.counted, directory, &lmdb)
    }

    /// Enters what was put off in `counts`: of so many groups of packs from one on.
    mutating func settleCounts(from first: UInt64, groups: Int) throws(Failure) -> (next: UInt64?, isChanged: Bool) {
        let directory = try store.packs.snapshot()
        return try store.parts.counts.settle(from: first, groups: groups, &counts, directory, &lmdb)
    }

    /// The slots of a pack that are dead: `counts` and the changes that were put off meanwhile agree on that, so that the totals do.
    private func deadSlots(_ number: UInt64, _ pack: PackView, _ reader: inout CountReader) throws(Failure) -> [Int] {
        // What its writer has just stored may be referred to as soon as this transaction is over.
        if try store.packs.isClaimed(number) { return [] }
        guard let settled = try store.parts.counts.settled(ofPack: number, lmdb.view), let counts = try reader.counts(ofPack: number) else { return [] }
        return (0..<min(pack.slotCount, settled.count, counts.count)).filter { counts[$0] == 0 && settled[$0] == 0 && !pack.isCollected($0) }
    }

    /// Takes dead blobs that came since the index was completed into it, `limit` of them at most, so that they can be collected.
    /// - Returns: whether all of these packs are in it.
    mutating func indexDead(_ work: [UInt64], limit: Int) throws(Failure) -> Bool {
        var entries: [IndexEntry] = []
        let indexed = superblock.index.indexed
        do {
            let packs = try store.packs.snapshot()
            var reader = store.parts.counts.reader(lmdb.view)
            var index = try store.parts.index.membership(lmdb.view)
            for number in work where number >= indexed.pack {
                guard let pack = try packs.pack(number) else { continue }
                for slot in try deadSlots(number, pack, &reader) {
                    guard let digest = pack.digest(slot) else { continue }
                    let entry = IndexEntry(digest, BlobNumber(pack: number, slot: slot))
                    guard !indexed.isBehind(entry.blob) else { continue }
                    let isIndexed = try index.contains(entry)
                    if !isIndexed { entries.append(entry) }
                }
            }
        }
        guard !entries.isEmpty else { return true }
        try store.parts.index.add(entries.prefix(limit).sorted(), &lmdb)
        return entries.count <= limit
    }

    /// Writes packs without their dead blobs, durably.
    func rewrite(_ work: [UInt64]) throws(Failure) {
        var changes: [PackRewrite] = []
        let state = superblock.index, indexed = state.indexed
        do {
            let packs = try store.packs.snapshot()
            var reader = store.parts.counts.reader(lmdb.view)
            var index = try store.parts.index.membership(lmdb.view)
            for number in work {
                guard let pack = try packs.pack(number), packs.isIntact(pack) else { continue }
                var dead = Set(try deadSlots(number, pack, &reader))
                if number >= indexed.pack {
                    // What is not in the index stays: by that it is known what was collected.
                    for slot in dead {
                        let blob = BlobNumber(pack: number, slot: slot)
                        guard let digest = pack.digest(slot), !indexed.isBehind(blob) else { continue }
                        let isIndexed = try index.contains(IndexEntry(digest, blob))
                        if !isIndexed { dead.remove(slot) }
                    }
                }
                if !dead.isEmpty { changes.append(PackRewrite(number: number, dropped: dead)) }
            }
        }
        var recent: Set<BlobNumber> = []
        for change in changes where change.number >= indexed.pack {
            for slot in change.dropped where !indexed.isBehind(BlobNumber(pack: change.number, slot: slot)) {
                recent.insert(BlobNumber(pack: change.number, slot: slot))
            }
        }
        try store.parts.index.forgetRecent(recent, state)
        _ = try store.packs.rewrite(changes, patience)
    }

    /// Takes collected slots out of index and totals, and with the last of them the note away. Where there are none yet, it stays, as
    /// whoever noted it may be about to begin.
    /// - Parameters:
    ///   - isOver: there will be none.
    ///   - limit: of slots.
    /// - Returns: payload bytes that were taken out of the totals, and whether these were all.
    @discardableResult
    mutating func finishCollecting(isOver: Bool = false, limit: Int = .max) throws(Failure) -> (bytes: UInt64, isOver: Bool) {
        guard superblock.collecting.first > 0 else { return (0, true) }
        var gone: [(entry: IndexEntry, length: Int)]
        do {
            let packs = try store.packs.snapshot()
            gone = try superblock.beingCollected(lmdb.view, packs, store, limit: limit)
        }
        let isLast = gone.count <= limit
        gone = Array(gone.prefix(limit))
        var lengths: [BlobNumber: Int] = [:]
        for (entry, length) in gone { lengths[entry.blob] = length }
        var bytes: UInt64 = 0
        let removed = try store.parts.index.remove(gone.map(\.entry).sorted(), &lmdb)
        for blob in removed {
            let length = lengths[blob] ?? 0
            bytes += UInt64(length)
            counts.totals.remove(bytes: length)
        }
        try store.parts.damage.remove(removed, &lmdb)
        if gone.contains(where: { !superblock.index.indexed.isBehind($0.entry.blob) }) { store.parts.index.noteRemovedRecent(&superblock.index) }
        if isLast, isOver || !gone.isEmpty { superblock.collecting = (0, 0) }
        return (bytes, isLast)
    }
}
