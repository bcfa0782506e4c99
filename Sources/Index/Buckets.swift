public import BlobModel
public import BlockModel
internal import Hashing
internal import LMDB
internal import System

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
/// 12 bytes in buckets that merges leave three quarters full make 16 bytes a blob, where a record of LMDB takes 38. The
/// prefix is a hint: a hit is checked against the digest in the pack. Entries with equal prefixes stay in one
/// bucket, which outgrows its page before it separates them.
enum Bucket {
    static let headerSize = 16
    /// As many as 48 bits tell apart.
    static let prefixes: UInt64 = 1 << 48
    static let entrySize = 12
    static let pageBytes = 4080
    static let entriesPerPage = (pageBytes - headerSize) / entrySize

    /// Number of entries in a bucket, which lie within it.
    private static func boundedCount(_ bucket: RawSpan) -> Int? {
        guard bucket.byteCount >= headerSize else { return nil }
        let count = Int(bucket.load(at: 8, as: UInt16.self))
        return headerSize + count * entrySize <= bucket.byteCount ? count : nil
    }

    /// Number of entries in a bucket.
    /// - Throws: `.damage` when the bucket is not what was written.
    static func entryCount(_ bucket: RawSpan, key: UInt64) throws(Failure) -> Int {
        if let count = boundedCount(bucket),
            bucket.load(at: 0, as: UInt64.self) == checksum(bucket.extracting(8..<headerSize + count * entrySize), seed: key)
        {
            return count
        }
        throw Failure(.damage, .digestIndex(key), "damaged")
    }

    /// Goes to the bucket that `prefix` belongs to.
    /// - Returns: its key and the next bucket's, or `prefixes`. Nil: the index is empty.
    static func seek(_ prefix: UInt64, _ buckets: inout Cursor) throws(Failure) -> (key: UInt64, end: UInt64)? {
        var end = prefixes
        if try buckets.seek(atOrAfter: prefix + 1) {
            end = buckets.integerKey ?? end
            guard try buckets.previous() else { return nil }
        } else {
            guard try buckets.last() else { return nil }
        }
        return buckets.integerKey.map { ($0, end) }
    }

    /// About where an entry of that prefix is among the `count` of a bucket from `key` to `end`: digests are spread evenly.
    static func guess(_ prefix: UInt64, key: UInt64, end: UInt64, count: Int) -> Int {
        guard prefix > key, end > prefix else { return 0 }
        return Int(truncatingIfNeeded: (prefix - key) &* UInt64(count) / (end - key))
    }

    /// `lowerBound`, which looks around `guess` first: a line or two of the cache, where halving takes five.
    static func lowerBound(_ entry: IndexEntry, _ bytes: RawSpan, start: Int, near guess: Int, _ entries: Int) -> Int {
        var low = 0, high = entries
        var step = 4
        var probe = min(guess, entries - 1)
        while probe >= low, probe < high {
            if IndexEntry(bytes, at: start + probe * entrySize) < entry {
                low = probe + 1
                probe = low + step
            } else {
                high = probe
                probe = high - step
            }
            step *= 2
        }
        return lowerBound(entry, bytes, start: start, low, high)
    }

    /// The first of `entries` sorted entries at `start` of `bytes`, from `low` on, that is not less than `entry`.
    static func lowerBound(_ entry: IndexEntry, _ bytes: RawSpan, start: Int, _ low: Int, _ entries: Int) -> Int {
        var low = low
        var high = entries
        while low < high {
            let middle = (low + high) / 2
            if IndexEntry(bytes, at: start + middle * entrySize) < entry { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// The blob that holds the block of this digest, or nil.
    /// - Throws: `.damage` when there is none, and the bucket is not what was written. A find needs no checksum: the
    ///   digest in the pack proves it.
    static func lookup(
        _ digest: Digest, _ buckets: inout Cursor, holds: (BlobNumber) throws(Failure) -> Bool
    ) throws(Failure) -> BlobNumber? {
        let wanted = IndexEntry(digest, .none)
        guard let (key, end) = try seek(wanted.prefix, &buckets) else { return nil }
        let bucket = buckets.value
        let count = boundedCount(bucket) ?? 0
        var slot = lowerBound(wanted, bucket, start: headerSize, near: guess(wanted.prefix, key: key, end: end, count: count), count)
        while slot < count {
            let entry = IndexEntry(bucket, at: headerSize + slot * entrySize)
            guard entry.prefix == wanted.prefix else { break }
            if try holds(entry.blob) { return entry.blob }
            slot += 1
        }
        _ = try entryCount(bucket, key: key)
        return nil
    }

    /// The first blob whose digest begins like each of `words`, or `.none`: most likely, but not surely, what is looked for.
    ///
    /// In a large index a look-up is waiting for memory, a line after the other. These are made together, step by step,
    /// and the processor waits for the lines of all of them at once.
    static func firstBlobs(of words: [UInt64], _ buckets: inout Cursor, _ known: BucketCache?) throws(Failure) -> [BlobNumber] {
        @safe struct LookUp {
            let bucket: UnsafeRawBufferPointer
            let key, end: UInt64
            var guess = 0
        }
        var lookUps: [LookUp] = []
        lookUps.reserveCapacity(words.count)
        for word in words {
            let lookUp: LookUp
            if let (key, end, bytes) = unsafe known?.bucket(of: word >> 16) {
                lookUp = unsafe LookUp(bucket: bytes, key: key, end: end)
            } else {
                guard let (key, end) = try seek(word >> 16, &buckets) else { return [BlobNumber](repeating: .none, count: words.count) }
                // The index does not change meanwhile.
                lookUp = unsafe LookUp(bucket: buckets.value.withUnsafeBytes { unsafe $0 }, key: key, end: end)
            }
            unsafe RawSpan(_unsafeBytes: lookUp.bucket).prefetch(at: 0, count: headerSize)
            lookUps.append(lookUp)
        }
        for (index, word) in words.enumerated() {
            let bucket = unsafe RawSpan(_unsafeBytes: lookUps[index].bucket)
            let guess = guess(word >> 16, key: lookUps[index].key, end: lookUps[index].end, count: boundedCount(bucket) ?? 0)
            bucket.prefetch(at: headerSize + (guess - 5) * entrySize, count: 10 * entrySize)
            lookUps[index].guess = guess
        }
        return words.enumerated().map { index, word in
            let bucket = unsafe RawSpan(_unsafeBytes: lookUps[index].bucket)
            let wanted = IndexEntry(word: word, .none)
            let count = boundedCount(bucket) ?? 0
            let slot = lowerBound(wanted, bucket, start: headerSize, near: lookUps[index].guess, count)
            guard slot < count else { return .none }
            let entry = IndexEntry(bucket, at: headerSize + slot * entrySize)
            return entry.prefix == wanted.prefix ? entry.blob : .none
        }
    }
}

/// What the index has of a blob.
public struct IndexEntry: Comparable, Sendable {
    /// The first 48 bits of its digest.
    public let prefix: UInt64
    public let blob: BlobNumber
    public init(_ digest: Digest, _ blob: BlobNumber) { self.init(word: digest.word0, blob) }
    /// `word`: the digest's first.
    public init(word: UInt64, _ blob: BlobNumber) {
        prefix = word >> 16
        self.blob = blob
    }
    init(_ bytes: RawSpan, at offset: Int) {
        let high = UInt64(bigEndian: bytes.load(at: offset))
        prefix = high >> 16
        blob = BlobNumber(rawValue: (high & 0xffff) << 32 | UInt64(UInt32(bigEndian: bytes.load(at: offset + 8))))
    }
    func append(to bytes: inout [UInt8]) {
        let high = (prefix << 16 | blob.rawValue >> 32).bigEndian, low = UInt32(truncatingIfNeeded: blob.rawValue).bigEndian
        unsafe withUnsafeBytes(of: high) { unsafe bytes.append(contentsOf: $0) }
        unsafe withUnsafeBytes(of: low) { unsafe bytes.append(contentsOf: $0) }
    }
    public static func < (a: IndexEntry, b: IndexEntry) -> Bool { a.prefix != b.prefix ? a.prefix < b.prefix : a.blob < b.blob }
}
