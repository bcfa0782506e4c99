internal import Hashing
public import LMDB
public import System

/// Where there is something to collect: how many dead blobs a pack has and what they take, by table `counts`, without what is deferred. Table
/// `dead`, key the pack's number; a pack without dead blobs has no record.
///
///      0  checksum  u64   XXH3-64 of the rest, seeded with the pack's number
///      8  blobs     u32   that have a count of 0
///     12  bytes     u32   of these, as stored
public struct DeadBlobs: Equatable, Sendable {
    public let blobs, bytes: UInt32
    static let byteCount = 16

    public init(blobs: UInt32, bytes: UInt32) {
        self.blobs = blobs
        self.bytes = bytes
    }

    /// - Throws: `.damage` when the record is not what was written.
    fileprivate init(_ record: RawSpan, pack: UInt64) throws(Failure) {
        guard record.byteCount == Self.byteCount, record.load(at: 0, as: UInt64.self) == checksum(record.extracting(8..<Self.byteCount), seed: pack)
        else { throw Failure(.damage, .counts("pack \(pack)"), "the record of its dead blobs is damaged") }
        blobs = record.load(at: 8)
        bytes = record.load(at: 12)
    }

    /// After a change. Nil: there were never as many.
    fileprivate func changed(by change: DeadChange) -> DeadBlobs? {
        guard let blobs = UInt32(exactly: Int64(blobs) + change.blobs), let bytes = UInt32(exactly: Int64(bytes) + change.bytes) else { return nil }
        return DeadBlobs(blobs: blobs, bytes: bytes)
    }
}

/// By how much the dead blobs of one pack become more.
struct DeadChange: Equatable, Sendable {
    var blobs: Int64 = 0, bytes: Int64 = 0

    static func += (a: inout DeadChange, b: DeadChange) {
        a.blobs += b.blobs
        a.bytes += b.bytes
    }

    /// A blob of `bytes` stored bytes has another count.
    mutating func count(from old: UInt32, to new: UInt32, bytes count: Int) {
        if old == 0, new > 0 {
            blobs -= 1
            bytes -= Int64(count)
        } else if old > 0, new == 0 {
            blobs += 1
            bytes += Int64(count)
        }
    }
}

extension ReferenceCounts {
    /// Enters by how much the dead blobs of packs have become more.
    func enterDead(_ edit: inout CountEdit, _ lmdb: inout WriteTransaction) throws(Failure) {
        for (pack, change) in edit.dead where change != DeadChange() {
            let old = try deadBlobs(ofPack: pack, lmdb.view) ?? DeadBlobs(blobs: 0, bytes: 0)
            guard let new = old.changed(by: change) else { throw Failure(.damage, .counts("pack \(pack)"), "more blobs came to life than were dead") }
            if new.blobs == 0 { try lmdb.remove(dead, pack) } else { try put(new, ofPack: pack, &lmdb) }
        }
        edit.dead.removeAll()
    }

    private func deadBlobs(ofPack pack: UInt64, _ view: View) throws(Failure) -> DeadBlobs? {
        guard let record = try view.value(dead, pack) else { return nil }
        return try DeadBlobs(record, pack: pack)
    }

    private func put(_ record: DeadBlobs, ofPack pack: UInt64, _ lmdb: inout WriteTransaction) throws(Failure) {
        try lmdb.put(dead, pack, count: DeadBlobs.byteCount) { value in
            value.store(record.blobs, at: 8)
            value.store(record.bytes, at: 12)
            value.store(checksum(value.bytes.extracting(8..<DeadBlobs.byteCount), seed: pack), at: 0)
        }
    }

    /// Calls `body` with each pack from one on that has dead blobs, in order, until it says false.
    public func forEachPackWithDead(from first: UInt64 = 0, _ view: View, _ body: (UInt64, DeadBlobs) throws(Failure) -> Bool) throws(Failure) {
        var cursor = try view.cursor(dead)
        var more = try cursor.seek(atOrAfter: first)
        while more, let pack = cursor.integerKey {
            guard try body(pack, DeadBlobs(cursor.value, pack: pack)) else { return }
            more = try cursor.next()
        }
    }

    /// Packs that have dead blobs.
    public func packsWithDead(_ view: View) throws(Failure) -> Int { try view.count(dead) }
}

// MARK: Making it anew

extension ReferenceCounts {
    /// Packs whose records are made in one go.
    private static let packsAtOnce = 1 << 12

    /// Makes table `dead` anew from table `counts`.
    /// - Parameter lengths: stored bytes of a pack's slots, nil of those that were collected; nil of a pack that can't be had.
    /// - Returns: the totals of `counts`. Counts that are damaged, or of a pack that can't be had, are left out: they are for a check to tell of.
    public func recountDead(_ lmdb: inout WriteTransaction, lengths: (UInt64) throws(Failure) -> [UInt16?]?) throws(Failure) -> BlobTotals {
        try lmdb.clear(dead)
        var totals = BlobTotals()
        var next: UInt64? = 0
        while let first = next {
            var found: [(pack: UInt64, dead: DeadBlobs)] = []
            next = try recountDead(from: first, lmdb.view, &totals, lengths) { found.append(($0, $1)) }
            for (pack, record) in found { try put(record, ofPack: pack, &lmdb) }
        }
        return totals
    }

    /// - Parameter body: gets each pack that has dead blobs.
    /// - Returns: the pack to go on from; nil: these were all.
    private func recountDead(
        from first: UInt64, _ view: View, _ totals: inout BlobTotals, _ lengths: (UInt64) throws(Failure) -> [UInt16?]?, _ body: (UInt64, DeadBlobs) -> Void
    ) throws(Failure) -> UInt64? {
        var scan = try Scan(view, counts, expecting: Self.headerSize, from: first)
        var seen = 0
        while try scan.next(), let pack = scan.integerKey {
            if seen == Self.packsAtOnce { return pack }
            seen += 1
            guard let counts = Self.sound(scan.value, pack: pack) else { continue }
            var found = DeadChange()
            if counts.contains(0) {
                guard let lengths = try lengths(pack) else { continue }
                for (count, length) in zip(counts, lengths) where count == 0 {
                    if let length { found += DeadChange(blobs: 1, bytes: Int64(length)) }
                }
            }
            totals = totals + BlobTotals(live: UInt64(counts.count { $0 > 0 }))
            totals.add(found)
            if found.blobs > 0 { body(pack, DeadBlobs(blobs: UInt32(found.blobs), bytes: UInt32(found.bytes))) }
        }
        return nil
    }
}
