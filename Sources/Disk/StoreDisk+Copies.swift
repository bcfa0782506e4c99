public import Catalogue
public import Store
public import System

/// Copies of a disk that is in use: see `Store.beginCopy`.
extension StoreDisk {
    /// A copy that was begun gets what the disk has at this moment: all writes that were answered before, none that begins after this has
    /// returned. Nobody is kept waiting; `finishCopy` waits until it is there.
    /// - Parameter isWanted: asked while no write can be answered: of several disks, all are there at once. False: nothing is copied.
    /// - Returns: what `isWanted` says.
    public func copy(to name: String, when isWanted: () -> Bool = { true }) throws(Failure) -> Bool {
        guard !isReadOnly else { throw Failure(.invalidRequest, "copy", .disk(self.name), "it is only read here") }
        let isCopied = try journal.turns.withLock { (_) throws(Failure) in
            guard isWanted() else { return false }
            guard staging.with({ $0.copy(to: name) }) else {
                throw Failure(.busy, "copy", .disk(self.name), "its commits are far behind, or fail", remedy: "try again")
            }
            return true
        }
        if isCopied { staging.notify() }
        return isCopied
    }

    /// Waits until a copy is in the store.
    /// - Throws: why it can't be had at this time. It may still come.
    public func finishCopy(_ name: String) throws(Failure) {
        var failure: Failure?
        defer { staging.with { $0.failedCopies[name] = nil } }
        do throws(Failure) {
            try committer.drain { staging in
                failure = staging.failedCopies[name]
                return failure != nil || !staging.frozen.contains { $0.copies.contains(name) }
            }
        } catch {
            failure = error
        }
        if let failure { throw failure }
    }

    /// A disk is again what a snapshot of it is. What waits in its journal is thrown away with the rest.
    /// - Throws: `.busy` when the disk is in use.
    public static func rollBack(_ snapshot: SnapshotName, of store: Store) throws(Failure) {
        let lock = try store.lock(snapshot.disk)
        guard !lock.record.isIncomplete else { throw store.noSuchDisk(snapshot.disk) }
        let start = JournalPosition(sequence: Journal.nextEra(after: lock.record.journal.sequence), offset: 0)
        try store.rollBack(lock, to: snapshot, journal: start)
        // Its records are of an era that is over.
        try lock.journal.truncate(to: 0)
    }

    /// Takes in what waits in the journal of a disk that is not in use.
    /// - Returns: the disk's lock. Nobody writes to it as long as that is held.
    /// - Throws: `.busy` when somebody writes to it; `.noSpace` when what waits in its journal can't be taken in.
    public static func takeInJournal(of name: String, _ store: Store) throws(Failure) -> DiskLock {
        let lock = try lock(store, name, readOnly: true)
        guard !lock.record.isIncomplete else { throw store.noSuchDisk(name) }
        if lock.record.isSnapshot { return lock }
        guard try lock.journal.size() == 0 else {
            throw Failure(.noSpace, "copy", .disk(name), "what waits in its journal can't be taken in: somebody reads it there, or the store is full")
        }
        return lock
    }
}

extension StoreDisk {
    /// Bytes of writes that wait in the journal.
    public var stagedBytes: UInt64 { staging.with { $0.recordBytes } }

    /// Since some of them went into the store; nil: none has yet.
    public var secondsSinceCommit: Double? { staging.with { $0.lastCommit }.map { monotonicSeconds() - $0 } }
}
