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
// 1. Packs are written anew, as further versions, without the store's lock. Nobody sees these yet.
// 2. Under the lock, in one commit of `meta`, they become current, but for those where something came in between; index and totals go with it.
// 3. What they take the place of is removed (Sweep.swift).
//
// When it ends at any instant, versions are left that are over, or never became current: the next collection removes them.
//
// Packs of which nothing is left are taken first: they need no room for a copy.

/// How much one step of maintenance may do.
public struct MaintenanceBudget: Sendable {
    /// Seconds for which a step should hold one of the store's locks at the most, which writers wait for: by what a step took, the next is made
    /// larger or smaller.
    public var seconds: Double

    public init(seconds: Double = 0.03) { self.seconds = seconds }
}

/// What one step does: as much as took its time, so far.
struct StepWork {
    /// Entries of the index that a commit changes: each a page of it, as they lie anywhere.
    private(set) var indexEntries = 512
    /// Bytes of packs that are written anew: the commit of the packs has about as much to do as that of the index.
    var packBytes: Int { indexEntries * 4096 }
    /// Packs whose counts are looked at, without the lock.
    let packsSeen = 1 << 12
    private static let fewest = 128, most = 1 << 13
    /// Recent blobs are collected as well: there was no room to take them into the index first.
    var takesRecent = false

    /// The longest time for which the step that is taken has kept others waiting.
    private var longestHold = 0.0

    /// Does something that others have to wait for.
    mutating func hold<Result: ~Copyable>(_ body: () throws(Failure) -> Result) throws(Failure) -> Result {
        let began = monotonicSeconds()
        defer { longestHold = max(longestHold, monotonicSeconds() - began) }
        return try body()
    }

    /// The step is over.
    mutating func adapt(to budget: MaintenanceBudget) {
        let seconds = longestHold
        longestHold = 0
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
    private var leaves = StepSize(least: Store.fewestLeaves, most: Store.leavesPerCommit)
    /// The last pack that this collection looks at: a writer may make dead blobs as fast as they are collected, and it is to come to an end.
    private var last: UInt64 = 0
    /// So many packs that were stored last are not compressed, as their blobs may soon be dead.
    private let warmPacks: UInt64
    public private(set) var progress = Progress()

    /// How far it is.
    public struct Progress: Sendable {
        /// Packs that were written anew or removed, of those that have dead blobs.
        public internal(set) var packsDone = 0, packs = 0
        /// Payload bytes that were freed.
        public internal(set) var freedBytes: UInt64 = 0
        public internal(set) var isOver = false
    }

    private enum Phase {
        case leftovers
        /// Versions that are over, of packs from one on.
        case loose(from: UInt64)
        /// Maps that nothing refers to any more.
        case detached
        case index, counts(from: UInt64)
        /// Packs from one on; `wholly`: those alone that have nothing left.
        case packs(from: UInt64, wholly: Bool)
        /// Packs that another codec is to store.
        case cold
        case space, over
    }

    /// - Parameters:
    ///   - patience: how long to wait for another process that collects.
    ///   - isQuiet: nobody writes to the store.
    /// - Throws: `.busy` when it goes on.
    public init(_ store: Store, _ patience: Patience? = nil, isQuiet: Bool = true) throws(Failure) {
        self.store = store
        warmPacks = isQuiet ? 0 : Self.warmPacksBesideWriters
        // Two would write the same packs anew.
        hold = try store.lockFile.holdCollecting(patience)
    }

    /// 1 GiB.
    private static let warmPacksBesideWriters: UInt64 = 1400

    /// Goes on for a step.
    /// - Returns: how far it is.
    public mutating func step(_ budget: MaintenanceBudget = MaintenanceBudget()) throws(Failure) -> Progress {
        try takeStep()
        work.adapt(to: budget)
        if case .over = phase { progress.isOver = true }
        return progress
    }

    private mutating func takeStep() throws(Failure) {
        switch phase {
        case .leftovers:
            try store.removeLeftoverDisks()
            phase = .loose(from: 0)
        case .loose(let first):
            phase = if let next = try store.sweepLeftovers(from: first) { .loose(from: next) } else { .detached }
        case .detached:
            var leaves = leaves
            let isMore = try work.hold { () throws(Failure) in try store.freeDetached(&leaves) }
            self.leaves = leaves
            if !isMore { phase = .index }
        case .index:
            if try completeIndex() { phase = .counts(from: 0) }
        case .counts(let group):
            let next = try work.hold { () throws(Failure) in try store.settleCounts(from: group) }
            if let next {
                phase = .counts(from: next)
            } else {
                last = try store.lastCountedPack()
                phase = .packs(from: 1, wholly: true)
            }
        case .packs(let first, let wholly):
            let found = try store.findWork(from: first, to: last, wholly: wholly, work)
            progress.packs = progress.packsDone + found.total
            if !found.changes.isEmpty {
                progress.freedBytes += try store.collectWithin(found.changes, &work)
                progress.packsDone += found.changes.count
            }
            phase = if let next = found.next { .packs(from: next, wholly: wholly) } else if wholly { .packs(from: 1, wholly: false) } else { .cold }
        case .cold:
            if let (changes, next) = try store.findCold(to: last - min(last, warmPacks), work) {
                try store.recode(changes, upTo: next, &work)
            } else {
                phase = .space
            }
        case .space:
            try store.trim()
            phase = .over
        case .over: break
        }
    }

    /// What is collected is taken out of the index; so it is brought in first.
    /// - Returns: whether that is over.
    private mutating func completeIndex() throws(Failure) -> Bool {
        let limit = work.indexEntries
        do throws(Failure) {
            return try work.hold { () throws(Failure) in try store.completeIndex(limit: limit) }
        } catch where error.kind == .noSpace {
            work.takesRecent = true
            return true
        }
    }

    /// Goes on with giving space back, and no further.
    public mutating func finishEarly() { phase = .space }
}

extension Store {
    /// Frees the bytes of blobs that nothing refers to, and gives them back to the filesystem.
    /// - Parameters:
    ///   - patience: how long to wait for another process that collects.
    ///   - progress: told packs done and packs in all.
    /// - Returns: payload bytes that were freed.
    /// - Throws: `.busy` when another process collects.
    public func collect(patience: Patience? = nil, shouldStop: () -> Bool, progress: (Int, Int) -> Void) throws(Failure) -> UInt64 {
        var collection = try GarbageCollection(self, patience)
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

    /// Frees some of the maps that nothing refers to any more.
    /// - Returns: whether there is more.
    fileprivate func freeDetached(_ leaves: inout StepSize) throws(Failure) -> Bool {
        do {
            let reading = try ReadTransaction(meta)
            if try !parts.maps.hasDetached(reading.view) { return false }
        }
        return try wayOut(&leaves) { (leaves, room) throws(Failure) in
            var transaction = try StoreTransaction.begin(self, room: room)
            let isMore = try transaction.freeDetached(leaves: leaves)
            try transaction.commit()
            return isMore
        }
    }

    /// All of them.
    func freeDetached() throws(Failure) {
        var leaves = StepSize(least: Self.fewestLeaves, most: Self.leavesPerCommit)
        while try freeDetached(&leaves) {}
    }

    /// The last pack that has counts.
    fileprivate func lastCountedPack() throws(Failure) -> UInt64 {
        let reading = try ReadTransaction(meta)
        return try parts.superblock.superblock(reading.view).counted.pack
    }

    /// Brings all blobs into the index.
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

    /// Enters deferred changes in `counts`, so that these say what is dead: of one group of packs, which changes a hundred pages at most.
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
}

extension StoreTransaction {
    /// Frees maps that nothing refers to any more, so many leaves of them.
    /// - Returns: whether there is more.
    mutating func freeDetached(leaves: Int) throws(Failure) -> Bool {
        isUnmapping = true
        return try store.parts.maps.free(leaves: leaves, &maps, &lmdb)
    }

    /// Brings the index up to date from the packs' directories, about `limit` blobs of it.
    /// - Returns: whether all of it is.
    mutating func indexDirectories(limit: Int) throws(Failure) -> Bool {
        let directory = try snapshot()
        return try store.parts.index.complete(limit: limit, &superblock.index, superblock.counted, directory, &lmdb)
    }

    /// Enters what is deferred in `counts`: of so many groups of packs from one on.
    mutating func settleCounts(from first: UInt64, groups: Int) throws(Failure) -> (next: UInt64?, isChanged: Bool) {
        let directory = try snapshot()
        return try store.parts.counts.settle(from: first, groups: groups, &counts, directory, &lmdb)
    }
}
