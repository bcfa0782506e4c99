internal import BlockModel
internal import Hashing
internal import Packs
public import System

/// Blocks on their way into one disk's map, which become a `HashedBatch`: hashed outside the store's lock, on several threads. Their
/// data is lent, and stays as it is until the batch is committed. Belongs to one thread at a time.
@safe
public final class Batch: @unchecked Sendable {
    /// What becomes of one block.
    struct Change {
        let block: UInt64
        /// Its 4096 bytes; nil: it is unmapped.
        var source: LentBytes?
        var digest = Digest(0, 0, 0, 0)
        /// The check word of the data, by which what is stored is known to be what was hashed.
        var check: UInt64 = 0
    }

    private var changes: UnsafeMutableBufferPointer<Change>
    public private(set) var count = 0
    private let store: Store
    private let hasher: SHA256
    /// Changes from here on are not hashed yet.
    private var hashed = 0

    /// Blocks that one thread gives their digests in a row.
    private static let pieceLength = 32

    /// For a disk of that store.
    public init(_ store: Store) throws(Failure) {
        self.store = store
        hasher = try SHA256()
        unsafe changes = .allocate(capacity: 4096)
    }

    deinit { unsafe changes.deallocate() }

    public var isEmpty: Bool { count == 0 }

    public func removeAll() {
        count = 0
        hashed = 0
    }

    /// Unmaps `block`. Blocks come in ascending order, each once.
    public func appendUnmapped(_ block: UInt64) { append(Change(block: block, source: nil)) }

    /// Maps `block` to the 4096 bytes at `data`, which are lent until the batch is committed.
    @unsafe public func append(_ block: UInt64, lending data: UnsafeRawPointer) {
        append(Change(block: block, source: unsafe LentBytes(data, count: blockSize)))
    }

    private func append(_ change: Change) {
        if unsafe count == changes.count {
            let larger = UnsafeMutableBufferPointer<Change>.allocate(capacity: 2 * count)
            _ = unsafe larger.moveInitialize(fromContentsOf: changes)
            unsafe changes.deallocate()
            unsafe changes = larger
        }
        unsafe (changes.baseAddress! + count).initialize(to: change)
        count += 1
    }

    /// The bytes of a block; nil: it is unmapped.
    func source(_ index: Int) -> LentBytes? { self[index].source }

    @inline(__always)
    fileprivate subscript(_ index: Int) -> Change {
        get {
            precondition(index >= 0 && index < count)
            return unsafe changes[index]
        }
        set {
            precondition(index >= 0 && index < count)
            unsafe changes[index] = newValue
        }
    }

    /// Gives what was appended its digests: zeros are unmapped, all else is recognized or hashed. Several threads share the work.
    /// - Parameter prepare: told which changes come next, counted since the batch was empty: their data may be brought now.
    public func hash(_ prepare: @escaping @Sendable (Range<Int>) throws(Failure) -> Void = { _ in }) throws(Failure) {
        let first = hashed
        let pieces = (count - first + Self.pieceLength - 1) / Self.pieceLength
        try HashPool.shared.forEach(pieces, hasher) { (piece, hasher) throws(Failure) in
            let start = first + piece * Self.pieceLength
            // Each thread has changes of its own.
            let changes = start..<min(self.count, start + Self.pieceLength)
            try prepare(changes)
            if try self.store.recognize(changes, of: self, hasher) { return }
            try self.hash(changes, hasher)
        }
        hashed = count
    }

    /// The batch with all its digests: what has none yet gets one. Nothing is to be appended any more.
    func finishHashing() throws(Failure) -> HashedBatch {
        try hash()
        return HashedBatch(self)
    }

    /// Whether there is nothing to hash: a block of zeros is unmapped.
    func unmapIfZero(_ index: Int) -> Bool {
        if let source = self[index].source, isZero(source.bytes) { self[index].source = nil }
        return self[index].source == nil
    }

    /// Hashes blocks, several at once.
    func hash(_ changes: Range<Int>, _ hasher: borrowing SHA256) throws(Failure) {
        let new = changes.filter { !unmapIfZero($0) }
        let sources = unsafe new.compactMap { unsafe self[$0].source?.address }
        for (index, digest) in zip(new, unsafe try hasher.digests(of: sources, byteCount: blockSize)) {
            if let source = self[index].source { setDigest(index, digest, check: PackFormat.check(source.bytes, digest)) }
        }
    }

    /// Hashes a block.
    func hash(_ index: Int, _ hasher: borrowing SHA256) throws(Failure) -> Digest {
        guard let source = self[index].source else { return self[index].digest }
        let digest = try hasher.digest(source.bytes)
        setDigest(index, digest, check: PackFormat.check(source.bytes, digest))
        return digest
    }

    func setDigest(_ index: Int, _ digest: Digest, check: UInt64) {
        self[index].digest = digest
        self[index].check = check
    }
}

/// A batch whose blocks all have their digests: what is looked up, sealed and committed.
struct HashedBatch {
    private let batch: Batch

    fileprivate init(_ batch: Batch) { self.batch = batch }

    var count: Int { batch.count }
    /// Whether anything is to be stored, and not only unmapped.
    var hasData: Bool { (0..<count).contains { self[$0].source != nil } }

    @inline(__always)
    subscript(_ index: Int) -> Batch.Change { batch[index] }
}
