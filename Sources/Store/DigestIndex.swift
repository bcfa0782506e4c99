internal import BlockModel
internal import Hashing
internal import LMDB

/// From digest to blob: table `index`, buckets of entries sorted by the first 48 bits of the digest.
///
/// A bucket's key is the least prefix that belongs to it, so that buckets divide the digests as the leaves of a
/// B-tree divide its keys; the first bucket's key is 0. The value takes one page of LMDB, header included:
///
///      0  checksum  u64   XXH3-64 of bytes 8 to the end of the entries, seeded with the key
///      8  entries   u16   n
///     10  0               to 15
///     16  n × 12 bytes:  prefix 48 bits, pack 32 bits, slot 16 bits, each big-endian
///
/// 12 bytes at the 69% that splitting leaves full make 17 bytes a blob, where a record of LMDB takes 38. The
/// prefix is a hint: a hit is checked against the digest in the pack. Entries with equal prefixes stay in one
/// bucket, which outgrows its page before it separates them.
enum DigestIndex {
    static let headerSize = 16
    static let entrySize = 12
    static let pageBytes = 4080
    static let entriesPerPage = (pageBytes - headerSize) / entrySize

    struct Entry: Comparable {
        let prefix: UInt64
        let blob: BlobNumber
        init(_ digest: Digest, _ blob: BlobNumber) {
            prefix = digest.word0 >> 16
            self.blob = blob
        }
        init(_ bytes: RawSpan, at offset: Int) {
            let high = UInt64(bigEndian: bytes.load(at: offset))
            prefix = high >> 16
            blob = BlobNumber(rawValue: (high & 0xffff) << 32 | UInt64(UInt32(bigEndian: bytes.load(at: offset + 8))))
        }
        func store(into bytes: inout MutableRawSpan, at offset: Int) {
            bytes.store((prefix << 16 | blob.rawValue >> 32).bigEndian, at: offset)
            bytes.store(UInt32(truncatingIfNeeded: blob.rawValue).bigEndian, at: offset + 8)
        }
        static func < (a: Entry, b: Entry) -> Bool { a.prefix != b.prefix ? a.prefix < b.prefix : a.blob < b.blob }
    }

    /// Number of entries in a bucket.
    /// - Throws: `.damage` when the bucket is not what was written.
    static func entryCount(_ bucket: RawSpan, key: UInt64) throws(Failure) -> Int {
        if bucket.byteCount >= headerSize {
            let count = Int(bucket.load(at: 8, as: UInt16.self))
            let end = headerSize + count * entrySize
            if end <= bucket.byteCount, bucket.load(at: 0, as: UInt64.self) == checksum(bucket.extracting(8..<end), seed: key) { return count }
        }
        throw Failure(.damage, "digest index, bucket \(key)", "damaged", remedy: "run: dedupdisk check --repair")
    }

    /// The blob that holds the block of this digest, or nil.
    static func lookup(_ digest: Digest, _ buckets: inout Cursor, packs: View, table: Environment.Table) throws(Failure) -> BlobNumber? {
        let prefix = digest.word0 >> 16
        guard try buckets.seek(atOrBefore: prefix), let key = buckets.integerKey else { return nil }
        let bucket = buckets.value
        let count = try entryCount(bucket, key: key)
        var low = 0
        var high = count
        while low < high {
            let middle = (low + high) / 2
            if Entry(bucket, at: headerSize + middle * entrySize).prefix < prefix { low = middle + 1 } else { high = middle }
        }
        while low < count {
            let entry = Entry(bucket, at: headerSize + low * entrySize)
            guard entry.prefix == prefix else { break }
            if let pack = try PackView.find(entry.blob.pack, in: packs, table), pack.digest(entry.blob.slot) == digest,
                !pack.isCollected(entry.blob.slot)
            {
                return entry.blob
            }
            low += 1
        }
        return nil
    }
}

extension StoreTransaction {
    /// Adds entries, sorted, to the index.
    mutating func updateIndex(adding added: [DigestIndex.Entry]) throws(Failure) {
        try changeBuckets(of: added) { entries, run in entries = (entries + run).sorted() }
    }

    /// Takes entries, sorted, out of the index.
    /// - Returns: the blobs of those that were in it.
    mutating func removeFromIndex(_ gone: [DigestIndex.Entry]) throws(Failure) -> [BlobNumber] {
        var removed: [BlobNumber] = []
        try changeBuckets(of: gone) { entries, run in
            let blobs = Set(run.map(\.blob))
            removed += entries.filter { blobs.contains($0.blob) }.map(\.blob)
            entries.removeAll { blobs.contains($0.blob) }
        }
        return removed
    }

    /// Lets `change` work on each bucket that some of `touched` belong to, with those.
    private mutating func changeBuckets(
        of touched: [DigestIndex.Entry], _ change: (inout [DigestIndex.Entry], ArraySlice<DigestIndex.Entry>) -> Void
    ) throws(Failure) {
        var next = 0
        while next < touched.count {
            var (key, upper, entries) = try bucket(for: touched[next].prefix)
            var end = next
            while end < touched.count, upper.map({ touched[end].prefix < $0 }) ?? true { end += 1 }
            change(&entries, touched[next..<end])
            try putBuckets(entries, key: key)
            next = end
        }
    }

    /// The bucket that `prefix` belongs to: its key, the next bucket's, its entries.
    private func bucket(for prefix: UInt64) throws(Failure) -> (UInt64, UInt64?, [DigestIndex.Entry]) {
        var cursor = try lmdb.view.cursor(store.tables.index)
        guard try cursor.seek(atOrBefore: prefix), let key = cursor.integerKey else { return (0, nil, []) }
        let value = cursor.value
        let entries = (0..<(try DigestIndex.entryCount(value, key: key))).map {
            DigestIndex.Entry(value, at: DigestIndex.headerSize + $0 * DigestIndex.entrySize)
        }
        return (key, try cursor.next() ? cursor.integerKey : nil, entries)
    }

    /// Stores the entries of one bucket, split evenly when they outgrow a page.
    private mutating func putBuckets(_ entries: [DigestIndex.Entry], key: UInt64) throws(Failure) {
        let pieces = (entries.count + DigestIndex.entriesPerPage - 1) / DigestIndex.entriesPerPage
        var start = 0
        var key = key
        for piece in 0..<max(pieces, 1) {
            var end = piece == pieces - 1 || pieces == 0 ? entries.count : max(start, entries.count * (piece + 1) / pieces)
            while end > start, end < entries.count, entries[end].prefix == entries[end - 1].prefix { end += 1 }
            if start == end, piece > 0 { continue }
            if piece > 0 { key = entries[start].prefix }
            let count = end - start
            let used = DigestIndex.headerSize + count * DigestIndex.entrySize
            try lmdb.put(store.tables.index, key, count: max(DigestIndex.pageBytes, used)) { value in
                value.zero(at: 0, count: value.byteCount)
                value.store(UInt16(count), at: 8)
                for i in 0..<count { entries[start + i].store(into: &value, at: DigestIndex.headerSize + i * DigestIndex.entrySize) }
                value.store(checksum(value.bytes.extracting(8..<used), seed: key), at: 0)
            }
            start = end
        }
    }
}
