public import BlobModel
internal import BlockModel
internal import Hashing
public import LMDB
public import System

// MARK: Entering

extension DigestIndex {
    /// Takes a merge on by a piece that keeps the table of recent blobs from filling up; begins one when that is due.
    /// - Parameters:
    ///   - filter: up to date.
    ///   - count: blobs that this transaction has entered.
    public func advanceMerge(
        _ filter: DigestFilter, entered count: Int, _ state: inout IndexState, _ counted: PackPlace, _ lmdb: inout WriteTransaction
    ) throws(Failure) {
        if state.merging == .start {
            guard filter.isMergeDue else { return }
            state.merging = counted
            state.merged = 0
        }
        let limit = filter.mergePiece(from: state.merged, adding: count)
        let (piece, next) = filter.recent(from: state.merged, before: state.merging, limit: limit)
        try add(piece.sorted(), &lmdb)
        if let next {
            state.merged = next
        } else {
            state.indexed = max(state.indexed, state.merging)
            state.merging = .start
        }
    }

    /// Brings the index up to date from the packs' directories, about `limit` blobs of it.
    /// - Returns: whether all of it is.
    public func complete(
        limit: Int, _ state: inout IndexState, _ counted: PackPlace, _ directory: borrowing some BlobDirectory & ~Copyable,
        _ lmdb: inout WriteTransaction
    ) throws(Failure) -> Bool {
        var entries: [IndexEntry] = []
        var isAll = true
        try directory.forEachBlob(from: state.indexed, skippingDamaged: false) { (blob, digest) throws(Failure) in
            // A pack is taken whole.
            if entries.count >= limit, let last = entries.last, blob.pack != last.blob.pack {
                isAll = false
                return false
            }
            entries.append(IndexEntry(digest, blob))
            return true
        }
        var reached = state.indexed
        if isAll {
            reached = max(reached, counted)
        } else if let last = entries.last {
            reached = max(reached, PackPlace(pack: last.blob.pack + 1, slots: 0))
        }
        let behind = try add(entries.sorted(), &lmdb)
        try noteSeconds(among: behind, directory, &lmdb)
        state.indexed = reached
        if state.merging <= reached { state.merging = .start }
        return reached >= counted
    }

    /// Forgets all.
    public func clear(_ state: inout IndexState, _ lmdb: inout WriteTransaction) throws(Failure) {
        try lmdb.clear(index)
        try lmdb.clear(seconds)
        state.indexed = .start
        state.merging = .start
    }

    /// Writes down those blobs whose content an earlier one in the table has: whoever enters blobs first has to, as the next sees them no more.
    /// - Parameter entries: in the table, each behind another one that begins alike.
    private func noteSeconds(
        among entries: [IndexEntry], _ directory: borrowing some BlobDirectory & ~Copyable, _ lmdb: inout WriteTransaction
    ) throws(Failure) {
        var found: [BlobNumber] = []
        do {
            var cursor = try lmdb.view.cursor(index)
            for entry in entries {
                guard let digest = try directory.digest(of: entry.blob) else { continue }
                let first = try Bucket.lookup(digest, &cursor) { (other) throws(Failure) in try directory.holds(digest, other) }
                if let first, first < entry.blob { found.append(entry.blob) }
            }
        }
        for blob in found { try lmdb.put(seconds, blob.rawValue, count: 0) { _ in } }
    }

    /// Adds entries, sorted; those that are there already change nothing.
    /// - Returns: those that were added behind another one that begins alike.
    @discardableResult
    public func add(_ added: [IndexEntry], _ lmdb: inout WriteTransaction) throws(Failure) -> [IndexEntry] {
        var behind: [IndexEntry] = []
        var old: [UInt8] = []
        var merged: [UInt8] = []
        var next = 0
        while next < added.count {
            let (key, upper) = try copyBucket(for: added[next].prefix, to: &old, lmdb.view)
            merged.removeAll(keepingCapacity: true)
            let entries = old.count / Bucket.entrySize
            var place = 0
            while next < added.count, added[next].prefix < upper {
                let entry = added[next]
                let bound = Bucket.lowerBound(entry, old.rawBytes, start: 0, place, entries)
                merged.append(contentsOf: old[place * Bucket.entrySize..<bound * Bucket.entrySize])
                place = bound
                let isThere = place < entries && IndexEntry(old.rawBytes, at: place * Bucket.entrySize) == entry
                if !isThere, next == 0 || added[next - 1] != entry {
                    let last = merged.count - Bucket.entrySize
                    if last >= 0, IndexEntry(merged.rawBytes, at: last).prefix == entry.prefix { behind.append(entry) }
                    entry.append(to: &merged)
                }
                next += 1
            }
            merged.append(contentsOf: old[(place * Bucket.entrySize)...])
            if merged.count != old.count || old.isEmpty { try putBuckets(merged, key: key, &lmdb) }
        }
        return behind
    }

    /// Takes entries, sorted, out of the table.
    /// - Returns: the blobs of those that were in it.
    public func remove(_ gone: [IndexEntry], _ lmdb: inout WriteTransaction) throws(Failure) -> [BlobNumber] {
        var removed: [BlobNumber] = []
        var old: [UInt8] = []
        var next = 0
        while next < gone.count {
            let (key, upper) = try copyBucket(for: gone[next].prefix, to: &old, lmdb.view)
            var rest: [UInt8] = []
            rest.reserveCapacity(old.count)
            let entries = old.count / Bucket.entrySize
            var place = 0
            while next < gone.count, gone[next].prefix < upper {
                let bound = Bucket.lowerBound(gone[next], old.rawBytes, start: 0, place, entries)
                rest.append(contentsOf: old[place * Bucket.entrySize..<bound * Bucket.entrySize])
                place = bound
                if place < entries, IndexEntry(old.rawBytes, at: place * Bucket.entrySize) == gone[next] {
                    removed.append(gone[next].blob)
                    place += 1
                }
                next += 1
            }
            rest.append(contentsOf: old[(place * Bucket.entrySize)...])
            if rest.count != old.count { try putBuckets(rest, key: key, &lmdb) }
        }
        if try lmdb.view.count(seconds) > 0 { for entry in gone { try lmdb.remove(seconds, entry.blob.rawValue) } }
        return removed
    }

    /// Whether there are blobs whose content an earlier blob had when they were stored.
    public func hasSeconds(_ view: View) throws(Failure) -> Bool { try view.count(seconds) > 0 }

    /// Whether this is one. Such a blob is only to be referred to when `find` says so: what it is the second of may be gone.
    public func isSecond(_ blob: BlobNumber, _ view: View) throws(Failure) -> Bool { try view.value(seconds, blob.rawValue) != nil }

    /// Copies the entries of the bucket that `prefix` belongs to: one that this transaction has written may be written
    /// over where it lies.
    /// - Returns: its key and the next bucket's.
    private func copyBucket(for prefix: UInt64, to entries: inout [UInt8], _ view: View) throws(Failure) -> (key: UInt64, next: UInt64) {
        entries.removeAll(keepingCapacity: true)
        var cursor = try view.cursor(index)
        guard let (key, next) = try Bucket.seek(prefix, &cursor) else { return (0, Bucket.prefixes) }
        let bucket = cursor.value
        let end = Bucket.headerSize + (try Bucket.entryCount(bucket, key: key)) * Bucket.entrySize
        unsafe bucket.extracting(Bucket.headerSize..<end).withUnsafeBytes { unsafe entries.append(contentsOf: $0) }
        return (key, next)
    }

    /// Stores the entries of one bucket, split evenly when they outgrow a page.
    private func putBuckets(_ entries: [UInt8], key: UInt64, _ lmdb: inout WriteTransaction) throws(Failure) {
        let size = Bucket.entrySize
        let total = entries.count / size
        let pieces = (total + Bucket.entriesPerPage - 1) / Bucket.entriesPerPage
        func prefix(_ index: Int) -> UInt64 { IndexEntry(entries.rawBytes, at: index * size).prefix }
        var start = 0
        var key = key
        for piece in 0..<max(pieces, 1) {
            var end = piece == pieces - 1 || pieces == 0 ? total : max(start, total * (piece + 1) / pieces)
            while end > start, end < total, prefix(end) == prefix(end - 1) { end += 1 }
            if start == end, piece > 0 { continue }
            if piece > 0 { key = prefix(start) }
            let used = Bucket.headerSize + (end - start) * size
            try lmdb.put(index, key, count: max(Bucket.pageBytes, used)) { value in
                value.store(UInt16(end - start), at: 8)
                value.zero(at: 10, count: 6)
                value.copy(entries.rawBytes.extracting(start * size..<end * size), to: Bucket.headerSize)
                value.zero(at: used, count: value.byteCount - used)
                value.store(checksum(value.bytes.extracting(8..<used), seed: key), at: 0)
            }
            start = end
        }
    }
}

// MARK: Looking at all of it

extension DigestIndex {
    /// Calls `body` with each entry of the table, in order.
    /// - Throws: `.damage` when a bucket is not what was written.
    public func forEachEntry(_ view: View, _ body: (IndexEntry) throws(Failure) -> Void) throws(Failure) {
        try forEachBucket(view, damaged: { (failure) throws(Failure) in throw failure }) { (entry, _) throws(Failure) in
            try body(entry)
            return true
        }
    }

    /// Calls `body` with each entry of the table and the least prefix of its bucket, until it says false.
    /// - Parameter damaged: told of each bucket that is not what was written.
    public func forEachBucket(
        _ view: View, damaged: (Failure) throws(Failure) -> Void, _ body: (IndexEntry, UInt64) throws(Failure) -> Bool
    ) throws(Failure) {
        var scan = try Scan(view, index, expecting: Bucket.pageBytes)
        while try scan.next(), let key = scan.integerKey {
            let count: Int
            do {
                count = try Bucket.entryCount(scan.value, key: key)
            } catch {
                try damaged(error)
                continue
            }
            for place in 0..<count {
                guard try body(IndexEntry(scan.value, at: Bucket.headerSize + place * Bucket.entrySize), key) else { return }
            }
        }
    }
}
