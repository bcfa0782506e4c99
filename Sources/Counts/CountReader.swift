public import BlobModel
public import LMDB
public import System

/// The reference counts of one pack, a slot each.
public struct PackCounts: Sendable {
    /// What table `counts` says, without what is deferred.
    public let settled: [UInt32]
    /// What they are, with it.
    public let now: [UInt32]

    /// - Parameter changes: the pack's, consolidated.
    /// - Throws: `.damage` when a count would be below zero, or there is none to be changed.
    fileprivate init(_ settled: [UInt32], _ changes: ArraySlice<ReferenceChange>) throws(Failure) {
        var now = settled
        for change in changes {
            guard change.blob.slot < settled.count else { throw DeferredCounts.impossible(change.blob) }
            now[change.blob.slot] = try ReferenceCounts.sum(settled[change.blob.slot], change)
        }
        self.settled = settled
        self.now = now
    }
}

extension ReferenceCounts {
    /// Reference counts in one state, of packs in any order.
    @_lifetime(copy view)
    public func reader(_ view: View) -> CountReader { CountReader(view, self) }

    /// The same of packs in the order of their numbers.
    @_lifetime(copy view)
    public func walk(_ view: View) -> CountWalk { CountWalk(view, self) }

    /// The counts of a pack that has these changes deferred; nil: it has neither counts nor changes.
    fileprivate func counts(ofPack pack: UInt64, _ changes: ArraySlice<ReferenceChange>?, _ view: View) throws(Failure) -> PackCounts? {
        let settled = try settled(ofPack: pack, view)
        return settled == nil && changes == nil ? nil : try PackCounts(settled ?? [], changes ?? [])
    }
}

/// The changes of one group's packs.
private struct GroupChanges {
    /// The group that was read last; nil: there is none, or it can't be read.
    private(set) var group: UInt64?
    private(set) var byPack: [UInt64: ArraySlice<ReferenceChange>] = [:]

    /// - Throws: `.damage` when a record of the group is not what was written. What to make of that is the caller's affair; there are no changes then.
    mutating func read(_ wanted: UInt64, _ view: View, _ counts: ReferenceCounts) throws(Failure) {
        clear()
        byPack = try DeferredCounts.byPack(ofGroup: wanted, view, counts.changes)
        group = wanted
    }

    mutating func clear() {
        group = nil
        byPack = [:]
    }

    mutating func take(_ pack: UInt64) -> ArraySlice<ReferenceChange>? { byPack.removeValue(forKey: pack) }

    /// Those whose changes were not taken, in order.
    var packs: [UInt64] { byPack.keys.sorted() }
}

/// Reference counts in one state, of packs in any order. A group that can't be read is an error for each of its packs, and for no other.
public struct CountReader: ~Escapable {
    private let view: View
    private let counts: ReferenceCounts
    /// Of the group that was looked at last.
    private var changes = GroupChanges()

    @_lifetime(copy view)
    fileprivate init(_ view: View, _ counts: ReferenceCounts) {
        self.view = view
        self.counts = counts
    }

    /// The counts of one pack, or nil when it has none.
    /// - Throws: `.damage` when a record is not what was written, or a count would be below zero.
    @_lifetime(self: copy self)
    public mutating func counts(ofPack pack: UInt64) throws(Failure) -> PackCounts? {
        let wanted = DeferredCounts.group(of: pack)
        if changes.group != wanted { try changes.read(wanted, view, counts) }
        return try counts.counts(ofPack: pack, changes.byPack[pack], view)
    }

    /// What the totals gain with all that is deferred.
    public func totals(_ directory: borrowing some BlobDirectory & ~Copyable) throws(Failure) -> BlobTotals {
        var totals = BlobTotals()
        var next = try DeferredCounts.group(atOrAfter: 0, view, counts.changes)
        while let group = next {
            for (pack, changes) in try DeferredCounts.all(ofGroup: group, view, counts.changes).changes.byPack() {
                guard let counts = try counts.counts(ofPack: pack, changes, view) else { continue }
                // The lengths of a pack's blobs are needed only when one of them came to life or died.
                guard changes.contains(where: { (counts.settled[$0.blob.slot] == 0) != (counts.now[$0.blob.slot] == 0) }) else { continue }
                // A pack that is not there any more has given its bytes back since.
                let lengths = try directory.storedLengths(ofPack: pack) ?? []
                var turned = DeadChange()
                for change in changes {
                    let slot = change.blob.slot
                    turned.count(from: counts.settled[slot], to: counts.now[slot], bytes: lengths.length(slot))
                }
                totals.turn(turned)
            }
            next = try DeferredCounts.group(atOrAfter: group + 1, view, counts.changes)
        }
        return totals
    }
}

/// Reference counts in one state, of packs in the order of their numbers. Each record of both tables is read once, and what nobody asks for is
/// noticed: packs that have changes, and groups that can't be read, which the end tells of where nobody was told.
public struct CountWalk: ~Escapable {
    private let view: View
    private let counts: ReferenceCounts
    /// The group at hand.
    private var group: UInt64?
    /// Of those of its packs that were not asked for.
    private var changes = GroupChanges()
    /// Why these can't be read.
    private var failure: Failure?
    /// The same of the first group that was passed by.
    private var passedFailure: Failure?
    /// Packs that have changes, and were passed by.
    private var passed: [UInt64] = []

    @_lifetime(copy view)
    fileprivate init(_ view: View, _ counts: ReferenceCounts) {
        self.view = view
        self.counts = counts
    }

    /// The counts of one pack, or nil when it has none.
    /// - Parameter pack: a greater number than the one before.
    /// - Throws: `.damage` when a record is not what was written, or a count would be below zero.
    @_lifetime(self: copy self)
    public mutating func counts(ofPack pack: UInt64) throws(Failure) -> PackCounts? {
        go(to: DeferredCounts.group(of: pack))
        if let failure { throw failure }
        return try counts.counts(ofPack: pack, changes.take(pack), view)
    }

    /// Goes to the end.
    /// - Returns: packs that have changes, and were not asked for, in order.
    /// - Throws: `.damage` when the changes of a group can't be read, none of whose packs was asked for.
    @_lifetime(self: copy self)
    public mutating func finish() throws(Failure) -> [UInt64] {
        go(to: .max)
        if let failure = passedFailure ?? failure { throw failure }
        return passed
    }

    @_lifetime(self: copy self)
    private mutating func go(to wanted: UInt64) {
        guard group != wanted else { return }
        passed += changes.packs
        changes.clear()
        failure = nil
        let start = group.map { $0 + 1 } ?? 0
        group = wanted
        do throws(Failure) {
            var next = try DeferredCounts.group(atOrAfter: start, view, counts.changes)
            while let found = next, found <= wanted {
                read(found, isPassed: found < wanted)
                next = found == wanted ? nil : try DeferredCounts.group(atOrAfter: found + 1, view, counts.changes)
            }
        } catch {
            failure = error
        }
    }

    @_lifetime(self: copy self)
    private mutating func read(_ group: UInt64, isPassed: Bool) {
        do throws(Failure) {
            try changes.read(group, view, counts)
            guard isPassed else { return }
            passed += changes.packs
            changes.clear()
        } catch {
            if isPassed { passedFailure = passedFailure ?? error } else { failure = error }
        }
    }
}
