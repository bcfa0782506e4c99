internal import BlockModel
internal import Hashing
internal import LMDB

/// What a blob's reference count gains, or loses.
struct CountChange {
    let blob: BlobNumber
    var change: Int64
}

extension [CountChange] {
    /// Sorted by blob, each blob once, without those that gain nothing.
    mutating func consolidate() {
        sort { $0.blob < $1.blob }
        var end = 0
        for index in indices {
            if end > 0, self[end - 1].blob == self[index].blob {
                self[end - 1].change += self[index].change
            } else {
                self[end] = self[index]
                end += 1
            }
        }
        removeSubrange(end...)
        removeAll { $0.change == 0 }
    }

    /// The changes of each pack in turn, which lie side by side.
    func forEachPack(_ body: (UInt64, ArraySlice<CountChange>) throws(Failure) -> Void) throws(Failure) {
        var next = 0
        while next < count {
            let pack = self[next].blob.pack
            var end = next + 1
            while end < count, self[end].blob.pack == pack { end += 1 }
            try body(pack, self[next..<end])
            next = end
        }
    }
}

/// Changes of reference counts that table `counts` does not have yet: table `changes`.
///
/// The counts beside one that changes mostly stay as they are. When blocks come again that were not written together, each
/// change would copy a page of `counts` and write it. So such changes are first put down here, side by side, and go to `counts` by
/// the thousand. A blob's count is what `counts` says and all its changes here together; the totals in the superblock are
/// those of `counts` alone.
///
/// A record's key is its group of packs, 32 bits, and its number in the group, 32 bits.
///
///      0  checksum  u64   XXH3-64 of the rest, seeded with the key
///      8  total     u32   changes in this record and in those of the group before it
///     12  changes   u32   n
///     16  n × u64         bits 0–47 the blob's number, 48–63 what its count gains, signed
enum CountChanges {
    static let headerSize = 16
    static let entrySize = 8
    /// Changes in a record: with LMDB's header a page.
    static let perRecord = 508
    /// A group's counts take some fifty pages, a hundred where blocks are compressed: so many changes at once cost a small part of a page each.
    static let packsPerGroup: UInt64 = 1 << 10
    /// A group with so many changes is settled by the next commit that does more than unmap.
    static let limit = 1 << 14
    /// A commit settles no more groups than this, which bounds what it writes. It brings fewer changes than they have.
    static let settledPerCommit = 4
    /// With so many changes of a pack's counts, its record is changed at once.
    static let dense = 32

    static func group(of pack: UInt64) -> UInt64 { pack / packsPerGroup }

    static func impossible(_ blob: BlobNumber) -> Failure {
        Failure(.damage, "count changes of blob \(blob)", "it has no count", remedy: "run: dedupdisk check --repair")
    }

    private static func damaged(_ key: UInt64) -> Failure {
        Failure(.damage, "count changes \(key >> 32)/\(key & 0xffff_ffff)", "damaged", remedy: "run: dedupdisk check --repair")
    }

    /// How many changes the group has, up to this record, and how many are in it.
    /// - Throws: `.damage` when it is not what was written.
    fileprivate static func header(_ record: RawSpan, key: UInt64) throws(Failure) -> (total: Int, count: Int) {
        guard record.byteCount >= headerSize, record.load(at: 0, as: UInt64.self) == checksum(record.extracting(8..<record.byteCount), seed: key)
        else { throw damaged(key) }
        let count = Int(record.load(at: 12, as: UInt32.self))
        guard count <= perRecord, record.byteCount == headerSize + count * entrySize else { throw damaged(key) }
        return (Int(record.load(at: 8, as: UInt32.self)), count)
    }

    /// All changes of a group, consolidated, and its records' keys.
    /// - Throws: `.damage` when a record is not what was written.
    fileprivate static func all(ofGroup group: UInt64, _ view: View, _ tables: Store.Tables) throws(Failure) -> (changes: [CountChange], keys: [UInt64]) {
        var changes: [CountChange] = []
        var keys: [UInt64] = []
        var cursor = try view.cursor(tables.changes)
        var more = try cursor.seek(atOrAfter: group << 32)
        while more, let key = cursor.integerKey, key >> 32 == group {
            let record = cursor.value
            for index in 0..<(try header(record, key: key).count) {
                let entry: UInt64 = record.load(at: headerSize + index * entrySize)
                changes.append(CountChange(blob: BlobNumber(rawValue: entry & 0xffff_ffff_ffff), change: Int64(bitPattern: entry) >> 48))
            }
            keys.append(key)
            more = try cursor.next()
        }
        changes.consolidate()
        return (changes, keys)
    }

    /// The first group from `group` on that has changes; nil: there is none.
    fileprivate static func group(atOrAfter group: UInt64, _ view: View, _ tables: Store.Tables) throws(Failure) -> UInt64? {
        var cursor = try view.cursor(tables.changes)
        guard try cursor.seek(atOrAfter: group << 32), let key = cursor.integerKey else { return nil }
        return key >> 32
    }
}

// MARK: Writing

extension StoreTransaction {
    /// Puts consolidated changes down, for a later commit to enter in `counts`; settles the groups that have many.
    mutating func putOff(_ changes: [CountChange]) throws(Failure) {
        var full: [UInt64] = []
        var next = 0
        while next < changes.count {
            let group = CountChanges.group(of: changes[next].blob.pack)
            var entries: [UInt64] = []
            while next < changes.count, CountChanges.group(of: changes[next].blob.pack) == group {
                var rest = changes[next].change
                while rest != 0 {
                    let part = Int16(clamping: rest)
                    entries.append(changes[next].blob.rawValue | UInt64(UInt16(bitPattern: part)) << 48)
                    rest -= Int64(part)
                }
                next += 1
            }
            if try append(entries, toGroup: group) >= CountChanges.limit { full.append(group) }
        }
        // What gives space back must not take much first.
        guard !isUnmapping else { return }
        for group in full.prefix(CountChanges.settledPerCommit) { try settleCounts(ofGroup: group) }
    }

    /// - Returns: how many changes the group has now.
    private mutating func append(_ entries: [UInt64], toGroup group: UInt64) throws(Failure) -> Int {
        var (total, key) = try lastRecord(ofGroup: group)
        for start in stride(from: 0, to: entries.count, by: CountChanges.perRecord) {
            let part = entries[start..<min(start + CountChanges.perRecord, entries.count)]
            total += part.count
            key += 1
            try lmdb.put(store.tables.changes, key, count: CountChanges.headerSize + part.count * CountChanges.entrySize) { value in
                value.store(UInt32(total), at: 8)
                value.store(UInt32(part.count), at: 12)
                for (index, entry) in part.enumerated() { value.store(entry, at: CountChanges.headerSize + index * CountChanges.entrySize) }
                value.store(checksum(value.bytes.extracting(8..<value.byteCount), seed: key), at: 0)
            }
        }
        return total
    }

    /// How many changes a group has, and the key of its last record; of a group without any, the key before its first.
    private func lastRecord(ofGroup group: UInt64) throws(Failure) -> (total: Int, key: UInt64) {
        var cursor = try lmdb.view.cursor(store.tables.changes)
        let isThere = try cursor.seek(atOrAfter: (group + 1) << 32) ? cursor.previous() : cursor.last()
        guard isThere, let key = cursor.integerKey, key >> 32 == group else { return (0, group << 32) }
        return (try CountChanges.header(cursor.value, key: key).total, key)
    }

    /// Enters all changes of a group in `counts`.
    mutating func settleCounts(ofGroup group: UInt64) throws(Failure) {
        let (changes, keys) = try CountChanges.all(ofGroup: group, lmdb.view, store.tables)
        for key in keys { try lmdb.remove(store.tables.changes, key) }
        let packs = try ReadTransaction(store.packs)
        var below: [CountChange] = []
        try changes.forEachPack { (pack, changes) throws(Failure) in try apply(changes, to: pack, packs.view, &below) }
        if let first = below.first { throw ReferenceCounts.belowZero(first.blob) }
    }
}

extension Store {
    /// Enters the changes that were put off in `counts`, so that these say what is dead.
    func settleCounts() throws(Failure) {
        var group: UInt64? = 0
        // One group changes a hundred pages at most.
        var size = StepSize(least: 1, most: CountChanges.settledPerCommit)
        while let first = group {
            group = try wayOut(&size) { (groups, room) throws(Failure) in try settleCounts(from: first, groups, room) }
        }
    }

    /// Enters the changes of that many groups from one on.
    /// - Returns: the group to go on from; nil: there is none.
    private func settleCounts(from first: UInt64, _ groups: Int, _ room: Room) throws(Failure) -> UInt64? {
        var group = first
        var transaction = try StoreTransaction.begin(self, room: room)
        for _ in 0..<groups {
            guard let next = try CountChanges.group(atOrAfter: group, transaction.lmdb.view, tables) else {
                // Nothing was done: nothing need be committed.
                if group > first { try transaction.commit() } else { transaction.abandon() }
                return nil
            }
            try transaction.settleCounts(ofGroup: next)
            group = next + 1
        }
        try transaction.commit()
        return group
    }
}

// MARK: Reading

/// Reference counts as they are: what `counts` says, and what is put off.
struct CountReader: ~Escapable {
    private let view: View
    private let tables: Store.Tables
    /// The group that was looked at last, and the changes of its packs.
    private var group: UInt64?
    private var changes: [UInt64: ArraySlice<CountChange>] = [:]

    @_lifetime(copy view)
    init(_ view: View, _ tables: Store.Tables) {
        self.view = view
        self.tables = tables
    }

    /// The counts of one pack, or nil when it has none.
    /// - Throws: `.damage` when a record is not what was written, or a count would be below zero.
    @_lifetime(self: copy self)
    mutating func counts(ofPack pack: UInt64) throws(Failure) -> [UInt32]? {
        let changes = try changes(ofPack: pack)
        let counts = try ReferenceCounts.of(pack, view, tables)
        return counts == nil && changes.isEmpty ? nil : try Self.sums(counts ?? [], changes)
    }

    @_lifetime(self: copy self)
    private mutating func changes(ofPack pack: UInt64) throws(Failure) -> ArraySlice<CountChange> {
        let wanted = CountChanges.group(of: pack)
        if group != wanted {
            group = nil
            changes.removeAll()
            try CountChanges.all(ofGroup: wanted, view, tables).changes.forEachPack { (pack, changes) throws(Failure) in self.changes[pack] = changes }
            group = wanted
        }
        return changes[pack] ?? []
    }

    /// The counts after changes of their pack.
    private static func sums(_ counts: [UInt32], _ changes: ArraySlice<CountChange>) throws(Failure) -> [UInt32] {
        var sums = counts
        for change in changes {
            guard change.blob.slot < counts.count else { throw CountChanges.impossible(change.blob) }
            sums[change.blob.slot] = try ReferenceCounts.sum(counts[change.blob.slot], change)
        }
        return sums
    }

    /// What the totals gain with all that is put off.
    func totals(_ packs: View, _ packTables: Store.PackTables) throws(Failure) -> BlobTotals {
        var totals = BlobTotals()
        var next = try CountChanges.group(atOrAfter: 0, view, tables)
        while let group = next {
            try CountChanges.all(ofGroup: group, view, tables).changes.forEachPack { (pack, changes) throws(Failure) in
                let before = try ReferenceCounts.of(pack, view, tables) ?? []
                let after = try Self.sums(before, changes)
                // Only of blobs that came to life or died the pack knows more.
                guard changes.contains(where: { (before[$0.blob.slot] == 0) != (after[$0.blob.slot] == 0) }) else { return }
                // A pack that is not there any more has given its bytes back since.
                let directory = try PackView.find(pack, in: packs, packTables.packs)
                directory?.expectDirectory()
                for change in changes {
                    let slot = change.blob.slot
                    totals.count(from: before[slot], to: after[slot], bytes: directory?.storedLength(slot) ?? 0)
                }
            }
            next = try CountChanges.group(atOrAfter: group + 1, view, tables)
        }
        return totals
    }
}
