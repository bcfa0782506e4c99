public import BlobModel
public import BlockModel
internal import Glibc
internal import Hashing
public import LMDB
internal import Synchronization
public import System

/// From a block's digest to the blob that holds it: table `index` (`Bucket`), and DIR/filter in front of it (`DigestFilter`), which tells
/// what is surely new and has the blobs that are not in the table yet.
///
/// Blobs get into the table not one by one, as each would change a page of its own, but through the filter's table of recent blobs, by the
/// thousand, in the order of their digests.
///
/// 1. A commit enters its new blobs in the filter and in the table of recent blobs.
/// 2. When seven in sixteen slots of the table are taken, a merge begins: `merging` says up to which blob, `merged` how far it
///    is in the order of digests. Each commit takes it on by a piece; the last piece moves `indexed`, and the table is cleaned.
///
/// Every step is in a transaction, so that a merge outlives whoever began it; entering a blob twice changes
/// nothing. What is lost with the table is in the directories of the packs behind `indexed`.
public final class DigestIndex: Sendable {
    let environment: Environment
    /// Table `seconds`: key a blob's number, no value.
    let index, seconds: Environment.Table
    let filterPath: String
    private let storeID: StoreID
    /// For whoever holds the write transaction, and for hints.
    let filter = Mutex<DigestFilter?>(nil)
    private let buckets = Mutex(BucketMemory())
    private let reporter: Reporter
    private let rebuild, privacy: Condition

    /// - Parameters:
    ///   - filterPath: where the filter is.
    ///   - reporter: of the store.
    public init(
        _ environment: Environment, _ opening: inout TableOpening, filterPath: String, _ storeID: StoreID, _ reporter: Reporter = .silent
    ) throws(Failure) {
        self.environment = environment
        index = try opening.table("index")
        seconds = try opening.table("seconds")
        self.filterPath = filterPath
        self.storeID = storeID
        self.reporter = reporter
        rebuild = reporter.condition(.filterRebuild)
        privacy = reporter.condition(.filterPrivate)
    }
}

/// How far the index is: a part of the superblock.
public struct IndexState: Equatable, Sendable {
    /// Every blob before this place is in the table.
    public var indexed = PackPlace.start
    /// What `indexed` becomes when the merge at work is done; the start: none is.
    public var merging = PackPlace.start
    /// The merge has done digests whose first word is less.
    public var merged: UInt64 = 0
    /// Random: the last commit that put blobs into the table past the recent ones.
    public var pastTable: UInt32 = 0
    public init() {}
}

// MARK: Looking up

/// Looks blobs up by their digests, in one state of the index. Belongs to one thread.
@safe
public struct DigestLookup: ~Copyable, ~Escapable {
    private let filter: DigestFilter
    private var buckets: Cursor
    private let cache: BucketCache?

    @_lifetime(copy buckets)
    fileprivate init(_ filter: DigestFilter, _ buckets: consuming Cursor, _ cache: BucketCache?) {
        self.filter = filter
        self.buckets = buckets
        self.cache = cache
    }

    /// The blob of that digest, or `.none`: what the filter does not know is new, and nobody has to be asked.
    /// - Parameter holds: whether a blob is the block of that digest.
    @_lifetime(self: copy self)
    public mutating func find(_ digest: Digest, holds: (BlobNumber) throws(Failure) -> Bool) throws(Failure) -> BlobNumber {
        guard filter.mayContain(digest.word0) else { return .none }
        var found = BlobNumber.none
        let isRecent = try filter.findRecent(digest.word0) { (blob) throws(Failure) in
            guard try holds(blob) else { return false }
            found = blob
            return true
        }
        return isRecent ? found : try Bucket.lookup(digest, &buckets, holds: holds) ?? .none
    }

    /// For each first word of a digest a blob whose digest begins like that, or `.none`: the one that `find` would try first.
    @_lifetime(self: copy self)
    public mutating func guess(_ words: [UInt64]) throws(Failure) -> [BlobNumber] {
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
        let blobs = try Bucket.firstBlobs(of: rest.map { words[$0] }, &buckets, cache)
        for (index, blob) in zip(rest, blobs) { guesses[index] = blob }
        return guesses
    }
}

extension DigestIndex {
    /// Looks up what a transaction sees, with a filter that is up to date for it, or for hints.
    /// - Parameter lookUps: how many are about to be made; nil: few.
    @_lifetime(copy view)
    public func lookup(_ filter: DigestFilter, _ state: IndexState, _ view: View, lookUps: Int? = nil) throws(Failure) -> DigestLookup {
        var cache: BucketCache?
        if let lookUps {
            cache = try buckets.withLock { (memory) throws(Failure) in try memory.buckets(environment, index, state, view, lookUps: lookUps) }
        }
        return DigestLookup(filter, try view.cursor(index), cache)
    }

    /// Looks up for hints: others may be changing the filter. Nil: there is no filter to be had now.
    @_lifetime(copy view)
    public func hints(_ view: View) throws(Failure) -> DigestLookup? {
        let filter = filter.withLock { filter in
            if filter == nil { filter = DigestFilter(path: filterPath, storeID: storeID) }
            return filter
        }
        guard let filter else { return nil }
        return DigestLookup(filter, try view.cursor(index), nil)
    }
}

// MARK: The filter

extension DigestIndex {
    /// The filter, up to date with all blobs before `counted`. For whoever holds the write transaction.
    public func synchronize(
        _ state: inout IndexState, _ counted: PackPlace, _ directory: borrowing some BlobDirectory & ~Copyable, _ lmdb: inout WriteTransaction
    ) throws(Failure) -> DigestFilter {
        if let filter = filter.withLock({ $0 }), isUsable(filter, state, counted, directory) { return try catchUp(filter, &state, counted, directory, &lmdb) }
        // Another process may have made a new one.
        if let filter = DigestFilter(path: filterPath, storeID: storeID), isUsable(filter, state, counted, directory) {
            self.filter.withLock { $0 = filter }
            tellRebuilt()
            return try catchUp(filter, &state, counted, directory, &lmdb)
        }
        return try makeFilter(&state, counted, directory, &lmdb)
    }

    /// The filter as it is, for look-ups in that state without the lock: it lacks nothing that was stored then, and what others do with it
    /// meanwhile at worst hides a blob, which is found again under the lock. Nil: that can't be said of it.
    /// It is to be asked afterwards whether it `isSteady(since:)` its `moment` of before.
    public func filter(for state: IndexState, _ counted: PackPlace) -> DigestFilter? {
        guard let filter = filter.withLock({ $0 }), filter.isValid, filter.covered >= counted, filter.purged <= state.indexed,
            filter.unsure == 0 || filter.unsure == state.pastTable,
            !filter.isPrivate || filter.mark == state.pastTable || filter.unsure == state.pastTable
        else { return nil }
        return filter
    }

    private func isUsable(
        _ filter: DigestFilter, _ state: IndexState, _ counted: PackPlace, _ directory: borrowing some BlobDirectory & ~Copyable
    ) -> Bool {
        filter.isValid && filter.entered <= filter.capacity && filter.covered >= state.indexed && filter.covered <= counted
            && filter.purged <= state.indexed && filter.recent <= filter.recentLimit
            // What went past the table is in the index only if its commit came to its end.
            && (filter.unsure == 0 || filter.unsure == state.pastTable)
            // Who has all filters made anew does not reach this one.
            && (!filter.isPrivate || filter.mark == state.pastTable || filter.unsure == state.pastTable)
            && tail(filter.covered, directory) == filter.tail
    }

    /// The first word of the digest in the slot before `place`; 0: there is none.
    private func tail(_ place: PackPlace, _ directory: borrowing some BlobDirectory & ~Copyable) -> UInt64 {
        // What can't be read is not what the filter has noted: then it is made anew.
        guard place.slots > 0, let digest = try? directory.digest(of: BlobNumber(pack: place.pack, slot: Int(place.slots) - 1)) else { return 0 }
        return digest.word0
    }

    /// Enters what others stored meanwhile, and cleans the table of what the index has.
    private func catchUp(
        _ filter: DigestFilter, _ state: inout IndexState, _ counted: PackPlace, _ directory: borrowing some BlobDirectory & ~Copyable,
        _ lmdb: inout WriteTransaction
    ) throws(Failure) -> DigestFilter {
        if filter.unsure != 0 { filter.noteUnsure(0) }
        if filter.purged < state.indexed { filter.purge(before: state.indexed) }
        if filter.covered < counted { try enterDirectories(in: filter, from: filter.covered, &state, counted, directory, &lmdb) }
        filter.mark = state.pastTable
        return filter
    }

    /// Enters the blobs from a place on, in their order: of two with one content, stored at the same moment by two writers, the first is
    /// the one that is found, by everybody and for ever. The other goes to the index, behind it, and is noted in table `seconds`.
    private func enterDirectories(
        in filter: DigestFilter, from start: PackPlace, _ state: inout IndexState, _ counted: PackPlace,
        _ directory: borrowing some BlobDirectory & ~Copyable, _ lmdb: inout WriteTransaction
    ) throws(Failure) {
        var overflow: [IndexEntry] = []
        var second: [BlobNumber] = []
        // Digests that have gone past the table, and are not in the index yet.
        var passed: Set<Digest> = []
        do {
            var lookup = DigestLookup(filter, try lmdb.view.cursor(index), nil)
            // A damaged pack must not keep others from being written; nothing finds what is in it.
            try directory.forEachBlob(from: start, skippingDamaged: true) { (blob, digest) throws(Failure) in
                guard counted.isBehind(blob) else { return false }
                let first = try lookup.find(digest) { (other) throws(Failure) in try directory.holds(digest, other) }
                let isSecond = first != .none && first < blob || passed.contains(digest)
                if isSecond {
                    second.append(blob)
                } else if filter.insert(digest.word0, blob) {
                    return true
                } else {
                    passed.insert(digest)
                }
                overflow.append(IndexEntry(digest, blob))
                return true
            }
        }
        try enter(overflow, past: filter, &state, &lmdb)
        for blob in second { try lmdb.put(seconds, blob.rawValue, count: 0) { _ in } }
        filter.cover(counted, tail: tail(counted, directory))
    }

    /// Blobs that the table has no room for go to the index at once.
    private func enter(_ overflow: [IndexEntry], past filter: DigestFilter, _ state: inout IndexState, _ lmdb: inout WriteTransaction) throws(Failure) {
        guard !overflow.isEmpty else { return }
        state.pastTable = .random(in: 1 ... .max)
        filter.noteUnsure(state.pastTable)
        try add(overflow.sorted(), &lmdb)
    }

    /// Makes a filter from the index, and from the directories of the packs that it lacks.
    private func makeFilter(
        _ state: inout IndexState, _ counted: PackPlace, _ directory: borrowing some BlobDirectory & ~Copyable, _ lmdb: inout WriteTransaction
    ) throws(Failure) -> DigestFilter {
        try retireFilter()
        let pending = try directory.blobCount(from: state.indexed)
        let blobs = try indexedEntries(lmdb.view) + pending
        // A new store has none to lose.
        if blobs > 0 { rebuild.met("the filter of digests is made anew, from some \(blobs) blobs") }
        // A third more than there are now: room to grow by, and few times to do this again.
        let capacity = max(1 << 16, blobs / 10 * 13, DigestFilter.capacity(forRecent: pending))
        let filter = try DigestFilter(making: filterPath, capacity: capacity, storeID: storeID)
        try forEachEntry(lmdb.view) { filter.enter($0.prefix << 16) }
        try enterDirectories(in: filter, from: state.indexed, &state, counted, directory, &lmdb)
        filter.validate(purged: state.indexed)
        filter.mark = state.pastTable
        self.filter.withLock { $0 = filter }
        if blobs > 0 { reporter.counters.filterRebuilds.add() }
        tellRebuilt()
        tellPrivacy(of: filter)
        return filter
    }

    private func tellRebuilt() { rebuild.over("the filter of digests is there again") }

    private func tellPrivacy(of filter: DigestFilter) {
        if let obstacle = filter.obstacle {
            privacy.met("the filter of digests is in memory, and each process has to make its own", because: obstacle)
        } else {
            privacy.over("the filter of digests has its file again")
        }
    }

    /// How many the index has, about: buckets are three quarters full.
    private func indexedEntries(_ view: View) throws(Failure) -> UInt64 { UInt64(try view.count(index)) * UInt64(Bucket.entriesPerPage) / 4 * 3 }

    /// Recent blobs are about to go, and must not come into the table by way of a filter that has them: all filters are made anew with their next
    /// use, also those that processes keep to themselves, once this state is committed. For whoever holds the write transaction.
    public func retireFilters(_ state: inout IndexState) throws(Failure) {
        state.pastTable = .random(in: 1 ... .max)
        try retireFilter()
    }

    /// Has the filter made anew with its next use, in every process. For whoever holds the write transaction.
    /// - Throws: when there is one that can't be looked at; others go on using it.
    public func retireFilter() throws(Failure) {
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
