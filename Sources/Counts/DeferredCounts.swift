public import BlobModel
internal import Hashing
public import LMDB
public import System

extension [ReferenceChange] {
    /// Sorted by blob, each blob once, without those that gain nothing.
    mutating func consolidate() {
        sortByBlob()
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

    /// Sorts, stably. Many are sorted digit by digit, from the lowest: a leaf that is copied brings 508 of them, and comparing them would take
    /// longer than all the rest of it.
    private mutating func sortByBlob() {
        guard count > Self.fewestForDigits else { return sort { $0.blob < $1.blob } }
        let all = reduce(0) { $0 | $1.blob.rawValue }
        var other = self
        for shift in stride(from: UInt64(0), to: UInt64(UInt64.bitWidth - all.leadingZeroBitCount), by: Self.digitBits) {
            var ends = [Int](repeating: 0, count: 1 << Self.digitBits)
            for change in self { ends[Self.digit(change, shift)] += 1 }
            // All are alike in it.
            if ends.contains(count) { continue }
            var start = 0
            for digit in ends.indices {
                start += ends[digit]
                ends[digit] = start - ends[digit]
            }
            for change in self {
                let digit = Self.digit(change, shift)
                other[ends[digit]] = change
                ends[digit] += 1
            }
            swap(&self, &other)
        }
    }

    private static var digitBits: Int { 11 }
    private static var fewestForDigits: Int { 1 << 12 }
    private static func digit(_ change: ReferenceChange, _ shift: UInt64) -> Int { Int(change.blob.rawValue >> shift & (1 << UInt64(digitBits) - 1)) }

    /// The changes of each pack, which lie side by side.
    func byPack() -> [(pack: UInt64, changes: ArraySlice<ReferenceChange>)] {
        var parts: [(pack: UInt64, changes: ArraySlice<ReferenceChange>)] = []
        var next = 0
        while next < count {
            let pack = self[next].blob.pack
            var end = next + 1
            while end < count, self[end].blob.pack == pack { end += 1 }
            parts.append((pack, self[next..<end]))
            next = end
        }
        return parts
    }
}

/// Changes of reference counts that table `counts` does not have yet: table `changes`.
///
/// When blocks come again that were not written together, their counts lie far apart, and each
/// change would copy a page of `counts` and write it. So such changes are first written down here, side by side, and go to `counts` by
/// the thousand. A blob's count is the sum of its count in `counts` and of all its changes here; the totals in the superblock are
/// those of `counts` alone.
///
/// A record's key is its group of packs, 32 bits, and its number in the group, 32 bits.
///
///      0  checksum  u64   XXH3-64 of the rest, seeded with the key
///      8  total     u32   changes in this record and in those of the group before it
///     12  changes   u32   n
///     16  n × u64         bits 0–47 the blob's number, 48–63 what its count gains, signed
enum DeferredCounts {
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
        Failure(.damage, .counts("blob \(blob)"), "there is a change, and no count")
    }

    private static func damaged(_ key: UInt64) -> Failure {
        Failure(.damage, .counts("changes \(key >> 32)/\(key & 0xffff_ffff)"), "damaged")
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
    static func all(
        ofGroup group: UInt64, _ view: View, _ table: Environment.Table
    ) throws(Failure) -> (changes: [ReferenceChange], keys: [UInt64]) {
        var changes: [ReferenceChange] = []
        var keys: [UInt64] = []
        var cursor = try view.cursor(table)
        var more = try cursor.seek(atOrAfter: group << 32)
        while more, let key = cursor.integerKey, key >> 32 == group {
            let record = cursor.value
            for index in 0..<(try header(record, key: key).count) {
                let entry: UInt64 = record.load(at: headerSize + index * entrySize)
                changes.append(ReferenceChange(blob: BlobNumber(rawValue: entry & 0xffff_ffff_ffff), change: Int64(bitPattern: entry) >> 48))
            }
            keys.append(key)
            more = try cursor.next()
        }
        changes.consolidate()
        return (changes, keys)
    }

    /// All changes of a group, consolidated, by the pack that they are about.
    /// - Throws: `.damage` when a record is not what was written.
    static func byPack(ofGroup group: UInt64, _ view: View, _ table: Environment.Table) throws(Failure) -> [UInt64: ArraySlice<ReferenceChange>] {
        let parts = try all(ofGroup: group, view, table).changes.byPack()
        return Dictionary(uniqueKeysWithValues: parts.map { ($0.pack, $0.changes) })
    }

    /// The first group from `group` on that has changes; nil: there is none.
    static func group(atOrAfter group: UInt64, _ view: View, _ table: Environment.Table) throws(Failure) -> UInt64? {
        var cursor = try view.cursor(table)
        guard try cursor.seek(atOrAfter: group << 32), let key = cursor.integerKey else { return nil }
        return key >> 32
    }
}

// MARK: Writing

extension ReferenceCounts {
    /// Writes consolidated changes down, for a later commit to enter in `counts`; settles the groups that have many.
    func deferChanges(
        _ later: [ReferenceChange], _ edit: inout CountEdit, canSettle: Bool, _ directory: borrowing some BlobDirectory & ~Copyable,
        _ lmdb: inout WriteTransaction
    ) throws(Failure) {
        var full: [UInt64] = []
        var next = 0
        while next < later.count {
            let group = DeferredCounts.group(of: later[next].blob.pack)
            var entries: [UInt64] = []
            while next < later.count, DeferredCounts.group(of: later[next].blob.pack) == group {
                var rest = later[next].change
                while rest != 0 {
                    let part = Int16(clamping: rest)
                    entries.append(later[next].blob.rawValue | UInt64(UInt16(bitPattern: part)) << 48)
                    rest -= Int64(part)
                }
                next += 1
            }
            if try append(entries, toGroup: group, &lmdb) >= DeferredCounts.limit { full.append(group) }
        }
        // What gives space back must not take much first.
        guard canSettle else { return }
        for group in full.prefix(DeferredCounts.settledPerCommit) { try settle(group: group, &edit, directory, &lmdb) }
    }

    /// - Returns: how many changes the group has now.
    private func append(_ entries: [UInt64], toGroup group: UInt64, _ lmdb: inout WriteTransaction) throws(Failure) -> Int {
        var (total, key) = try lastRecord(ofGroup: group, lmdb.view)
        for start in stride(from: 0, to: entries.count, by: DeferredCounts.perRecord) {
            let part = entries[start..<min(start + DeferredCounts.perRecord, entries.count)]
            total += part.count
            key += 1
            try lmdb.put(changes, key, count: DeferredCounts.headerSize + part.count * DeferredCounts.entrySize) { value in
                value.store(UInt32(total), at: 8)
                value.store(UInt32(part.count), at: 12)
                for (index, entry) in part.enumerated() { value.store(entry, at: DeferredCounts.headerSize + index * DeferredCounts.entrySize) }
                value.store(checksum(value.bytes.extracting(8..<value.byteCount), seed: key), at: 0)
            }
        }
        return total
    }

    /// How many changes a group has, and the key of its last record; of a group without any, the key before its first.
    private func lastRecord(ofGroup group: UInt64, _ view: View) throws(Failure) -> (total: Int, key: UInt64) {
        var cursor = try view.cursor(changes)
        let isThere = try cursor.seek(atOrAfter: (group + 1) << 32) ? cursor.previous() : cursor.last()
        guard isThere, let key = cursor.integerKey, key >> 32 == group else { return (0, group << 32) }
        return (try DeferredCounts.header(cursor.value, key: key).total, key)
    }

    /// Enters all changes of a group in `counts`.
    private func settle(
        group: UInt64, _ edit: inout CountEdit, _ directory: borrowing some BlobDirectory & ~Copyable, _ lmdb: inout WriteTransaction
    ) throws(Failure) {
        let (found, keys) = try DeferredCounts.all(ofGroup: group, lmdb.view, changes)
        for key in keys { try lmdb.remove(changes, key) }
        var below: [ReferenceChange] = []
        for part in found.byPack() { try apply(part.changes, to: part.pack, &edit, directory, &lmdb, below: &below) }
        if let first = below.first { throw Self.belowZero(first.blob) }
    }

    /// Whether changes are deferred.
    public func hasDeferred(_ view: View) throws(Failure) -> Bool { try view.count(changes) > 0 }

    /// Enters what is deferred in `counts`, so that these say what is dead: of so many groups from one on.
    /// - Returns: the group to go on from; nil: there is nothing beyond. And whether anything was changed.
    public func settle(
        from first: UInt64, groups: Int, _ edit: inout CountEdit, _ directory: borrowing some BlobDirectory & ~Copyable,
        _ lmdb: inout WriteTransaction
    ) throws(Failure) -> (next: UInt64?, isChanged: Bool) {
        var group = first
        for _ in 0..<groups {
            guard let next = try DeferredCounts.group(atOrAfter: group, lmdb.view, changes) else { return (nil, group > first) }
            try settle(group: next, &edit, directory, &lmdb)
            group = next + 1
        }
        return (group, true)
    }
}
