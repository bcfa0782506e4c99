internal import BlobModel
internal import LMDB
internal import Packs
internal import System

// Sweeping: versions of packs that are over lose their place among the packs.
//
// A version is over when another is current and no commit can make it current any more, or when its pack is gone. That never changes; so
// it is removed without the store's lock, whatever others do. It may end at any instant, as versions stay loose until all is done:
//
// 1. What was written anew and never became current is given up: `meta` says that it never will be.
// 2. What is over is removed from the packs.
// 3. Packs of which nothing is left are forgotten by `meta`, which had to say until now that they are gone.

extension Store {
    /// Packs that are looked at in one go: a leaf of a commit for each.
    private static let packsPerSweep = 64

    /// Removes what those left who were killed, of as many packs as a commit should change.
    /// - Parameter number: the first one.
    /// - Returns: the pack to go on from; nil: these were all.
    func sweepLeftovers(from number: UInt64) throws(Failure) -> UInt64? {
        let loose = try packs.loose(from: number, limit: Self.packsPerSweep)
        try sweep(loose)
        return loose.last.map { $0.number + 1 }
    }

    /// Removes what is over of packs that this collection has written anew. Other packs are left to the next collection: a sweep beside another
    /// process's collection might take a pack for one that stays, and it is about to go.
    func sweep(behind copies: [RewrittenPack]) {
        // What is left is found again by the next collection, in the packs' own list.
        try? sweep(copies.flatMap(\.loose))
    }

    /// Removes what is over of the first pack from one on that has something loose.
    func sweepNext(from number: UInt64) {
        // The same.
        try? sweep(packs.loose(from: number, limit: 1))
    }

    /// Removes those of these versions, all of their packs, that are over, or that nobody is about to make current.
    func sweep(_ loose: [PackVersion]) throws(Failure) {
        guard !loose.isEmpty else { return }
        try giveUp(loose)
        try remove(loose)
        if try forgetGone(loose) { try remove(loose) }
    }

    private func remove(_ loose: [PackVersion]) throws(Failure) {
        try wayOut { (room) throws(Failure) in
            // The reserve is given up under the lock.
            guard room == .reserve else { return try packs.sweep(loose, versions, nil) }
            let transaction = try StoreTransaction.begin(self, room: room)
            try packs.sweep(loose, transaction.versions, nil)
            transaction.abandon()
        }
    }

    private func giveUp(_ loose: [PackVersion]) throws(Failure) {
        // Mostly there are none, and nobody need wait.
        if try orphans(among: loose, versions).isEmpty { return }
        try wayOut { (room) throws(Failure) in
            var transaction = try StoreTransaction.begin(self, room: room)
            for version in try orphans(among: loose, transaction.versions) { try transaction.giveUp(version) }
            try transaction.commit()
        }
    }

    /// Those that are there, and could become current.
    private func orphans(among loose: [PackVersion], _ versions: CommittedVersions) throws(Failure) -> [PackVersion] {
        let snapshot = try packs.snapshot(versions)
        var found: [PackVersion] = []
        for version in loose {
            let mayBecomeCurrent = try versions.state(of: version.number).mayBecomeCurrent(version.version)
            if mayBecomeCurrent, try snapshot.holds(version) { found.append(version) }
        }
        return found
    }

    /// - Returns: whether there were any.
    private func forgetGone(_ loose: [PackVersion]) throws(Failure) -> Bool {
        if try gone(among: loose, versions).isEmpty { return false }
        try wayOut { (room) throws(Failure) in
            var transaction = try StoreTransaction.begin(self, room: room)
            for number in try gone(among: loose, transaction.versions) { try transaction.forget(pack: number) }
            // Without its record, a pack that is gone looks like one that was never written anew. Whoever found a blob in it before the sweep sees by
            // this that it has to look again.
            transaction.superblock.rewrites += 1
            try transaction.commit()
        }
        return true
    }

    /// Packs that are gone, and of which nothing is there any more.
    private func gone(among loose: [PackVersion], _ versions: CommittedVersions) throws(Failure) -> [UInt64] {
        let snapshot = try packs.snapshot(versions)
        var found: [UInt64] = []
        for number in Set(loose.map(\.number)).sorted() {
            let isGone = try versions.state(of: number).current == nil
            if isGone, try !snapshot.holdsAny(of: number) { found.append(number) }
        }
        return found
    }
}

extension StoreTransaction {
    /// That version never becomes current.
    fileprivate mutating func giveUp(_ version: PackVersion) throws(Failure) {
        var state = try store.parts.versions.state(of: version.number, lmdb.view)
        state.next = max(state.next, version.version + 1)
        try store.parts.versions.put(state, of: version.number, &lmdb)
    }

    /// Removes the record of a pack that is gone: that no version of it is there says it from now on.
    fileprivate mutating func forget(pack number: UInt64) throws(Failure) { try store.parts.versions.remove(number, &lmdb) }
}
