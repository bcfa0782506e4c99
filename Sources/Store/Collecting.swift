internal import BlobModel
internal import Counts
internal import Index
internal import LMDB
internal import Packs
internal import System

// What a collection does to packs: see Collector.swift.

extension Store {
    /// Packs in one piece of work.
    private static let packsPerPiece = 64
    /// Entries of the index that a commit changes where there is only the reserve: a page each, and one above it.
    private static let fewestEntries = 48

    /// The next packs with dead blobs in them and what is to become of these, where to go on from, and how many such packs there are.
    /// - Parameters:
    ///   - last: the last one to be looked at.
    ///   - wholly: those alone that have nothing else.
    func findWork(
        from first: UInt64, to last: UInt64, wholly: Bool, _ step: StepWork
    ) throws(Failure) -> (changes: [PackRewrite], next: UInt64?, total: Int) {
        let state = try state()
        let total = try parts.counts.packsWithDead(state.meta.view)
        let superblock = try parts.superblock.superblock(state.meta.view)
        let indexed = superblock.index.indexed
        var work: [PackRewrite] = []
        var next: UInt64?
        var seen = 0, bytes = 0, entries = 0
        var reader = parts.counts.reader(state.meta.view)
        try parts.counts.forEachPackWithDead(from: first, state.meta.view) { (number, _) throws(Failure) in
            seen += 1
            next = nil
            guard number <= last else { return false }
            next = number
            guard work.count < Self.packsPerPiece, seen <= step.packsSeen else { return false }
            next = nil
            guard let counts = try reader.counts(ofPack: number), !wholly || counts.now.allSatisfy({ $0 == 0 }),
                let pack = try state.packs.pack(number)
            else { return true }
            pack.expectDirectory()
            let dead = pack.deadSlots(number, counts, step.takesRecent ? nil : indexed)
            // What its writer has just stored is about to be referred to.
            let isClaimed = try packs.isClaimed(number)
            if dead.isEmpty || isClaimed { return true }
            if !wholly { bytes += pack.bytes.byteCount }
            entries += dead.count
            // One pack is always worked on.
            guard work.isEmpty || bytes <= step.packBytes && entries <= step.indexEntries else {
                next = number
                return false
            }
            work.append(PackRewrite(from: PackVersion(number, pack.version), dropped: Set(dead), codec: wholly ? .raw : superblock.laterCodec))
            return true
        }
        return (work, next, total)
    }

    /// The next packs that have blocks which another codec is to store, and where to go on from; nil: there are none to be looked at.
    /// - Parameter last: the last one to be looked at.
    func findCold(to last: UInt64, _ step: StepWork) throws(Failure) -> (changes: [PackRewrite], next: UInt64)? {
        let state = try state()
        let superblock = try parts.superblock.superblock(state.meta.view)
        let codec = superblock.laterCodec, first = max(superblock.recoded, 1)
        guard codec != .raw, first <= last else { return nil }
        var work: [PackRewrite] = []
        var next = first, bytes = 0, seen = 0
        try state.packs.forEachPack(from: first) { (number, pack) throws(Failure) in
            guard number <= last, bytes <= step.packBytes, seen < step.packsSeen, work.count < Self.packsPerPiece else { return false }
            seen += 1
            next = number + 1
            guard let pack, try !packs.isClaimed(number), (0..<pack.slotCount).contains(where: { pack.codec($0) == BlobCodec.raw.rawValue }) else {
                return true
            }
            bytes += pack.bytes.byteCount
            work.append(PackRewrite(from: PackVersion(number, pack.version), codec: codec))
            return true
        }
        return (work, next > first ? next : last + 1)
    }

    /// Has another codec store the blocks of these packs, as far as nothing comes in between.
    /// - Parameter next: behind the last of them.
    func recode(_ work: [PackRewrite], upTo next: UInt64, _ step: inout StepWork) throws(Failure) {
        // Compressing comes before anybody has to wait.
        let copies = try packs.rewrite(work, versions, nil)
        do throws(Failure) {
            try step.hold { () throws(Failure) in
                var transaction = try StoreTransaction.begin(self)
                _ = try transaction.collect(copies, takesRecent: false)
                transaction.superblock.recoded = max(transaction.superblock.recoded, next)
                try transaction.commit()
            }
        } catch {
            sweep(behind: copies)
            throw error
        }
        sweep(behind: copies)
    }

    /// Collects as many packs at a time as there is room for.
    func collectWithin(_ work: [PackRewrite], _ step: inout StepWork) throws(Failure) -> UInt64 {
        do throws(Failure) {
            return try collect(work, &step)
        } catch where error.kind == .noSpace {
            var freed: UInt64 = 0
            for change in work { freed += try collectSparingly(change.from.number, step.takesRecent) }
            return freed
        }
    }

    /// Collects these packs, as far as nothing comes in between.
    /// - Parameter between: called before each commit but the first.
    /// - Returns: payload bytes that were freed.
    func collect(_ work: [PackRewrite], _ step: inout StepWork, between: () throws(Failure) -> Void = {}) throws(Failure) -> UInt64 {
        let copies = try step.hold { () throws(Failure) in try packs.rewrite(work, versions, nil) }
        let takesRecent = step.takesRecent
        do throws(Failure) {
            try between()
            let freed = try step.hold { () throws(Failure) in try makeCurrent(copies, takesRecent) }
            try between()
            // That is bounded by what was written, and takes less.
            sweep(behind: copies)
            return freed ?? 0
        } catch where error.kind == .noSpace {
            // What was written in vain takes room.
            sweep(behind: copies)
            throw error
        }
    }

    private func makeCurrent(_ copies: [RewrittenPack], _ takesRecent: Bool) throws(Failure) -> UInt64? {
        var transaction = try StoreTransaction.begin(self)
        let freed = try transaction.collect(copies, takesRecent: takesRecent)
        if freed == nil { transaction.abandon() } else { try transaction.commit() }
        return freed
    }

    /// Collects one pack in commits none of which needs more than the reserve.
    private func collectSparingly(_ number: UInt64, _ takesRecent: Bool) throws(Failure) -> UInt64 {
        var freed: UInt64 = 0
        while let bytes = try wayOut(nil, { (room) throws(Failure) in try collectPart(of: number, takesRecent, room) }) {
            freed += bytes
            sweepNext(from: number)
            // What the sweep has freed is the next part's.
            if !reserve.isWhole { regain() }
        }
        return freed
    }

    /// - Returns: payload bytes that were freed; nil: there is nothing to be done.
    private func collectPart(of number: UInt64, _ takesRecent: Bool, _ room: Room) throws(Failure) -> UInt64? {
        var transaction = try StoreTransaction.begin(self, room: room)
        guard let change = try transaction.deadSlots(ofPack: number, limit: Self.fewestEntries, takesRecent) else {
            transaction.abandon()
            return nil
        }
        let freed = try transaction.collect(packs.rewrite([change], transaction.versions, nil), takesRecent: takesRecent)
        if freed == nil { transaction.abandon() } else { try transaction.commit() }
        return freed
    }
}

extension PackView {
    /// The slots that are dead: with what is deferred and without, so that the totals agree.
    /// - Parameters:
    ///   - counts: the pack's.
    ///   - indexed: no slots behind this place; nil: all.
    fileprivate func deadSlots(_ number: UInt64, _ counts: PackCounts, _ indexed: PackPlace?) -> [Int] {
        (0..<min(slotCount, counts.settled.count)).filter {
            counts.settled[$0] == 0 && counts.now[$0] == 0 && !isCollected($0) && indexed?.isBehind(BlobNumber(pack: number, slot: $0)) ?? true
        }
    }
}

extension StoreTransaction {
    /// What a collection may drop of a pack, `limit` slots at most. Nil: nothing.
    func deadSlots(ofPack number: UInt64, limit: Int, _ takesRecent: Bool) throws(Failure) -> PackRewrite? {
        let packs = try snapshot()
        var reader = store.parts.counts.reader(lmdb.view)
        guard let counts = try reader.counts(ofPack: number), let pack = try packs.pack(number), try !store.packs.isClaimed(number) else { return nil }
        let dead = pack.deadSlots(number, counts, takesRecent ? nil : superblock.index.indexed)
        return dead.isEmpty ? nil : PackRewrite(from: PackVersion(number, pack.version), dropped: Set(dead.prefix(limit)))
    }

    /// Makes packs current that were written anew without their dead blobs, and takes these out of index and totals. A pack is left as it is where
    /// somebody has referred to one of them meanwhile, stores something, or has written it anew, too.
    /// - Returns: payload bytes that are gone; nil: all are left.
    mutating func collect(_ copies: [RewrittenPack], takesRecent: Bool) throws(Failure) -> UInt64? {
        let (copies, gone) = try collectable(copies, takesRecent)
        guard !copies.isEmpty else { return nil }
        let blobs = gone.map(\.entry.blob)
        if !blobs.allSatisfy(superblock.index.indexed.isBehind) { try store.parts.index.retireFilters(&superblock.index) }
        _ = try store.parts.index.remove(gone.map(\.entry).sorted(), &lmdb)
        try store.parts.damage.remove(blobs, &lmdb)
        for (entry, length) in gone { counts.removeDead(bytes: length, ofPack: entry.blob.pack) }
        for copy in copies {
            _ = try makeCurrent(copy)
            if copy.new == nil { try removeCounts(ofPack: copy.number) }
            if !copy.recoded.isEmpty { try noteLengths(copy.recoded, ofPack: copy.number) }
        }
        return gone.reduce(0) { $0 + UInt64($1.length) }
    }

    /// Blobs of a pack take other lengths: of dead ones it is known what they take.
    mutating func noteLengths(_ lengths: [Int: (before: Int, now: Int)], ofPack number: UInt64) throws(Failure) {
        let settled = try store.parts.counts.settled(ofPack: number, lmdb.view) ?? []
        for (slot, length) in lengths where slot >= settled.count || settled[slot] == 0 {
            counts.lengthenDead(by: length.now - length.before, ofPack: number)
        }
    }

    /// Those packs that nothing has come in between of, and what goes with the slots that they have lost.
    private func collectable(
        _ copies: [RewrittenPack], _ takesRecent: Bool
    ) throws(Failure) -> (copies: [RewrittenPack], gone: [(entry: IndexEntry, length: Int)]) {
        let versions = versions, packs = try store.packs.snapshot(versions)
        var reader = store.parts.counts.reader(lmdb.view)
        var found: [RewrittenPack] = []
        var gone: [(entry: IndexEntry, length: Int)] = []
        for copy in copies {
            let state = try versions.state(of: copy.number), isClaimed = try store.packs.isClaimed(copy.number)
            guard copy.canBecomeCurrent(state), !isClaimed, let counts = try reader.counts(ofPack: copy.number), let pack = try packs.pack(copy.number)
            else { continue }
            let dead = Set(pack.deadSlots(copy.number, counts, takesRecent ? nil : superblock.index.indexed))
            guard dead.isSuperset(of: copy.dropped) else { continue }
            found.append(copy)
            for slot in copy.dropped {
                if let digest = pack.digest(slot) { gone.append((IndexEntry(digest, BlobNumber(pack: copy.number, slot: slot)), pack.storedLength(slot))) }
            }
        }
        return (found, gone)
    }

    private mutating func removeCounts(ofPack number: UInt64) throws(Failure) {
        try store.parts.counts.remove(pack: number, &lmdb)
        // By the last blob, the filter is known to be this store's.
        if number == superblock.counted.pack { try store.parts.index.retireFilter() }
    }
}
