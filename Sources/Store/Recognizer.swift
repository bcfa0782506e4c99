internal import BlobModel
internal import BlockModel
internal import Glibc
internal import Hashing
internal import Index
internal import LMDB
internal import Packs
internal import Synchronization
internal import System

/// Gives blocks that the store has already their digests without hashing each: blocks often come again in the order in which they were stored. A
/// block that equals the next blob byte by byte has that blob's digest.
///
/// 1. A block is hashed, and looked up.
/// 2. The block behind it is compared with the blob behind the one found. If all bytes are the same, and the blob's check
///    word says that they are what was stored under its digest, the block has that digest. So on, until one differs: back to 1.
///
/// That takes half of the time of SHA-256, if the blob is in memory: where its pages are not, the block is hashed,
/// so that a duplicate costs the disk nothing. It is exact: no weaker hash decides. The state that is looked at may be old,
/// and the filter is read while others change it. Both give hints only: the digest is the block's, whatever becomes of the blob.
/// Belongs to one thread at a time.
final class Recognizer: @unchecked Sendable {
    private var meta: ReadTransaction
    private var packs: PackSnapshot
    /// The superblock's, as of the transaction `seen`.
    private var rewrites: UInt64 = 0
    private var seen = 0
    /// Blocks that got their digests without being hashed.
    private(set) var recognizedBlocks = 0

    init(_ store: Store) throws(Failure) {
        meta = try ReadTransaction(store.meta)
        packs = try store.snapshot()
        meta.reset()
        packs.reset()
    }

    /// Gives changes of a batch, neighbours on their disk, their digests. `store`: the one that this was made for, which keeps it.
    /// - Returns: false: nothing was done, as there is nothing to look them up by.
    func recognize(_ changes: Range<Int>, of batch: Batch, _ hasher: borrowing SHA256, _ store: Store) throws(Failure) -> Bool {
        try meta.renew()
        defer { meta.reset() }
        try packs.renew()
        defer { packs.reset() }
        if meta.id != seen {
            rewrites = try store.parts.superblock.superblock(meta.view).rewrites
            seen = meta.id
        }
        guard var lookup = try store.parts.index.hints(meta.view) else { return false }
        var finder = PackFinder(packs, nil, rewrites: rewrites)
        var residency = Residency()
        var expected = BlobNumber.none
        // Behind a new block, more new ones mostly follow: they are hashed, and not looked up in vain.
        var isPromising = true
        var differed = false
        for index in changes where !batch.unmapIfZero(index) {
            // Nothing is to be expected any more.
            if !isPromising, expected == .none {
                try batch.hash(index..<changes.upperBound, hasher)
                return true
            }
            if expected != .none {
                let match = try Self.match(of: batch, index, expecting: expected, &finder, &residency)
                if let match {
                    expected = try finder.next(after: expected)
                    batch.setDigest(index, match.digest, check: match.check)
                    isPromising = true
                    differed = false
                    recognizedBlocks += 1
                    continue
                }
                // Behind one block that was changed, it may go on as it was; behind two, it won't.
                expected = differed ? .none : try finder.next(after: expected)
                differed = true
            }
            let digest = try batch.hash(index, hasher)
            guard isPromising else { continue }
            isPromising = false
            let found = try lookup.find(digest) { (blob) throws(Failure) in try finder.holds(digest, blob) }
            if found != .none {
                expected = try finder.next(after: found)
                differed = false
            }
        }
        return true
    }

    /// The digest and the check word of a block, if it is the raw blob that is expected, undamaged, and in memory.
    private static func match(
        of batch: Batch, _ index: Int, expecting blob: BlobNumber, _ finder: inout PackFinder, _ residency: inout Residency
    ) throws(Failure) -> (digest: Digest, check: UInt64)? {
        guard let source = batch.source(index), let pack = try finder.find(blob.pack), pack.codec(blob.slot) == BlobCodec.raw.rawValue,
            let digest = pack.digest(blob.slot)
        else { return nil }
        let bytes = pack.bytes, recorded = pack.check(blob.slot)
        guard let stored = try finder.stored(blob), stored.byteCount == source.count, residency.covers(stored, of: bytes), isEqual(stored, source.bytes)
        else { return nil }
        // A blob that has rotted may equal a new block: then its digest is not the block's.
        let check = PackFormat.check(source.bytes, digest)
        return check == recorded ? (digest, check) : nil
    }

    private static func isEqual(_ a: RawSpan, _ b: RawSpan) -> Bool {
        unsafe a.withUnsafeBytes { a in
            unsafe b.withUnsafeBytes { b in
                guard let first = a.baseAddress, let second = b.baseAddress else { return a.count == b.count }
                return unsafe a.count == b.count && memcmp(first, second, a.count) == 0
            }
        }
    }
}

/// Which part of a mapped file is known to be in memory, asked for a stretch at a time.
private struct Residency {
    private var known: Range<UInt> = 0..<0
    /// Bytes that are asked for at a time.
    private static let stretch = 32 * 4096

    /// Whether `part` of `whole` can be read without a wait for the disk.
    mutating func covers(_ part: RawSpan, of whole: RawSpan) -> Bool {
        let start = address(part), end = start + UInt(part.byteCount)
        if !(known.lowerBound <= start && end <= known.upperBound) {
            let offset = Int(start - address(whole))
            let asked = whole.extracting(offset..<min(whole.byteCount, offset + Self.stretch))
            known = start..<start + UInt(asked.residentByteCount)
        }
        return known.lowerBound <= start && end <= known.upperBound
    }

    private func address(_ span: RawSpan) -> UInt { unsafe span.withUnsafeBytes { UInt(bitPattern: $0.baseAddress) } }
}

extension Store {
    /// Gives changes of a batch their digests without hashing each.
    /// - Returns: false: that can't be done now, and all is to be hashed.
    func recognize(_ changes: Range<Int>, of batch: Batch, _ hasher: borrowing SHA256) throws(Failure) -> Bool {
        // A reader's slot for each thread that hashes: without one it goes slower.
        guard let recognizer = recognizers.withLock({ $0.popLast() }) ?? (try? Recognizer(self)) else { return false }
        defer { recognizers.withLock { $0.append(recognizer) } }
        return try recognizer.recognize(changes, of: batch, hasher, self)
    }
}
