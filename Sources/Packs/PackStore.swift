public import BlobModel
public import BlockModel
internal import Hashing
public import LMDB
public import System

/// Where packs are kept: durable, each found by its number, which is never used again.
///
/// What is sealed is durable when `seal` returns; that somebody knows of it is for others to see to. A call that fails may have done
/// all of its work, or none of it: who tries again stores a blob a second time at worst. Errors that are not `.damage` say nothing of
/// what is stored. Any thread of any process may call; `patience` is for how long to wait for others.
public protocol PackStore: AnyObject, Sendable {
    /// The store that its packs belong to.
    var storeID: StoreID { get }

    /// What `PackSnapshot` reads from.
    func source() throws(Failure) -> any PackSource

    /// Stores blobs, in their order, in packs that are not full and in new ones.
    /// - Parameter blobs: their bytes are lent until this returns.
    /// - Returns: where they are. Until something refers to them, they are the caller's as long as it keeps this.
    /// - Throws: `.damage` when one is not what was hashed.
    func seal(_ blobs: [NewBlob], _ codec: BlobCodec, _ patience: Patience?) throws(Failure) -> SealedBlobs

    /// Whether a pack has blobs that are somebody's who sealed them: what nothing refers to in it may be about to be referred to.
    func isClaimed(_ number: UInt64) throws(Failure) -> Bool

    /// Writes packs anew, all of them together.
    /// - Returns: those that were: a pack whose blobs can't be had is left alone.
    func rewrite(_ changes: [PackRewrite], _ patience: Patience?) throws(Failure) -> [RewrittenPack]

    /// Removes packs all of whose blobs were collected; others, and those that are gone, are left alone.
    func remove(_ numbers: [UInt64], _ patience: Patience?) throws(Failure)

    /// Sees to it that readers see what a writer did last that was killed.
    func recover(_ patience: Patience?) throws(Failure)

    /// Has the space of what was removed last be given back, too.
    func settleSpace(_ patience: Patience?) throws(Failure)

    /// Gives the space of what was removed back to the filesystem.
    func giveBackSpace(_ patience: Patience?) throws(Failure)
}

extension PackStore {
    /// Packs as they are now.
    public func snapshot() throws(Failure) -> PackSnapshot { PackSnapshot(try source(), storeID) }
}

/// Blobs that were stored together, and the claim to them: it ends with this, or with the process.
public final class SealedBlobs: Sendable {
    public let packs: [SealedPack]
    /// The place behind the last blob that there was before. The start: there was none.
    public let previous: PackPlace
    private let release: @Sendable () -> Void

    init(_ packs: [SealedPack], behind previous: PackPlace, release: @escaping @Sendable () -> Void) {
        self.packs = packs
        self.previous = previous
        self.release = release
    }

    deinit { release() }

    /// Where they are, in the order in which they came.
    public var numbers: [BlobNumber] {
        packs.flatMap { pack in (pack.first..<pack.slotCount).map { BlobNumber(pack: pack.number, slot: $0) } }
    }
}

/// Blobs that were stored in one pack.
public struct SealedPack: Sendable {
    public let number: UInt64
    /// Slots that it had before.
    public let first: Int
    /// Stored bytes of each new slot.
    public let lengths: [UInt16]
    /// Slots that it has now.
    public var slotCount: Int { first + lengths.count }
}

/// How a pack is to be written anew. Slots keep their numbers.
public struct PackRewrite {
    public let number: UInt64
    /// Slots that lose their bytes.
    public var dropped: Set<Int>
    /// Slots that get other bytes for the same block, in the form that they have.
    public var healed: [Int: NewBlob]
    public init(number: UInt64, dropped: Set<Int> = [], healed: [Int: NewBlob] = [:]) {
        self.number = number
        self.dropped = dropped
        self.healed = healed
    }
}

/// A pack that was written anew.
public struct RewrittenPack: Sendable {
    public let number: UInt64
    /// Stored bytes of the slots that were healed, before and now.
    public let healed: [Int: (before: Int, now: Int)]
}

/// Packs of one moment, for one thread: what a kind of pack store does to be read. What it gives out stays where it is until the next
/// `renew` or `reset`.
public protocol PackSource: AnyObject {
    /// Sources of equal states show the same.
    var state: Int { get }
    /// Shows what is there now; `reset` came before.
    func renew() throws(Failure)
    /// Shows nothing, and holds nothing up, until it is renewed.
    func reset()
    /// Packs that there are.
    func count() throws(Failure) -> Int
    /// The number of the last pack. Nil: there is none.
    func last() throws(Failure) -> UInt64?
    /// A pack's header and directory, and as much behind them as costs nothing. Nil: there is none of that number.
    @unsafe func pack(_ number: UInt64) throws(Failure) -> UnsafeRawBufferPointer?
    /// Bytes of a pack. Nil: it has none there.
    @unsafe func part(_ range: Range<Int>, ofPack number: UInt64) throws(Failure) -> UnsafeRawBufferPointer?
    /// Calls `body` with each pack from a number on, in order, as `pack` gives it, until it says false.
    @unsafe func forEachPack(from first: UInt64, _ body: (UInt64, UnsafeRawBufferPointer) throws(Failure) -> Bool) throws(Failure)
    /// All of a pack will be read soon.
    func expect(_ number: UInt64) throws(Failure)
}

/// Packs of one moment. Belongs to one thread.
@safe
public struct PackSnapshot: ~Copyable {
    fileprivate let source: any PackSource
    private let storeID: StoreID
    private var isShown = true

    init(_ source: any PackSource, _ storeID: StoreID) {
        self.source = source
        self.storeID = storeID
    }

    /// Snapshots of equal states show the same.
    public var state: Int { source.state }
    /// Shows what is there now.
    public mutating func renew() throws(Failure) {
        if isShown { reset() }
        try source.renew()
        isShown = true
    }

    /// Shows nothing, and holds nothing up, until it is renewed.
    public mutating func reset() {
        source.reset()
        isShown = false
    }
    /// Packs that there are.
    public var count: Int { get throws(Failure) { try source.count() } }

    /// The place behind the last blob. Nil: there is no pack, or the last one's header is damaged.
    public func last() throws(Failure) -> PackPlace? {
        guard let number = try source.last(), let pack = try pack(number) else { return nil }
        return PackPlace(pack: number, slots: UInt64(pack.slotCount))
    }

    /// The pack of that number, or nil: there is none, or what is there is none.
    @_lifetime(borrow self)
    public func pack(_ number: UInt64) throws(Failure) -> PackView? {
        guard let bytes = unsafe try source.pack(number) else { return nil }
        return unsafe PackView(_overrideLifetime(RawSpan(_unsafeBytes: bytes), borrowing: self), number: number)
    }

    /// Whether header and directory are as they were written, in this store.
    public func isIntact(_ pack: PackView) -> Bool { pack.isIntact(storeID) }

    /// All of a pack will be read soon.
    public func expect(_ number: UInt64) throws(Failure) { try source.expect(number) }

    /// Calls `body` with each pack from a number on, in order, until it says false; nil: its header is damaged. Only directories are
    /// read.
    public func forEachPack(from first: UInt64 = 1, _ body: (UInt64, PackView?) throws(Failure) -> Bool) throws(Failure) {
        unsafe try source.forEachPack(from: first) { (number, bytes) throws(Failure) in
            try body(number, PackView(unsafe RawSpan(_unsafeBytes: bytes), number: number))
        }
    }
}

extension PackSnapshot: BlobDirectory {
    public func forEachBlob(
        from place: PackPlace, skippingDamaged: Bool, _ body: (BlobNumber, Digest) throws(Failure) -> Bool
    ) throws(Failure) {
        try forEachPack(from: max(place.pack, 1)) { (number, pack) throws(Failure) in
            guard let pack, skippingDamaged || isIntact(pack) else {
                if skippingDamaged { return true }
                throw Failure(.damage, .pack(number), "its directory is damaged", remedy: "restore the store from a copy")
            }
            let first = number == place.pack ? Int(place.slots) : 0
            for slot in first..<max(first, pack.slotCount) where !pack.isCollected(slot) {
                if let digest = pack.digest(slot), try !body(BlobNumber(pack: number, slot: slot), digest) { return false }
            }
            return true
        }
    }

    public func blobCount(from place: PackPlace) throws(Failure) -> UInt64 {
        var total: UInt64 = 0
        try forEachPack(from: max(place.pack, 1)) { (_, pack) throws(Failure) in
            total += UInt64(pack?.slotCount ?? 0)
            return true
        }
        return total
    }

    public func digest(of blob: BlobNumber) throws(Failure) -> Digest? { try pack(blob.pack)?.digest(blob.slot) }

    public func holds(_ digest: Digest, _ blob: BlobNumber) throws(Failure) -> Bool { try pack(blob.pack)?.holds(digest, blob.slot) ?? false }

    public func storedLengths(ofPack number: UInt64) throws(Failure) -> StoredLengths? {
        guard let pack = try pack(number) else { return nil }
        pack.expectDirectory()
        return (0..<pack.slotCount).map { UInt16(pack.storedLength($0)) }
    }
}

/// Packs of a snapshot, the last one looked at kept at hand.
@safe
public struct PackFinder: ~Escapable {
    /// The snapshot keeps it. Finders are made for every read, and to count these would have all threads wait for one word.
    private unowned(unsafe) let source: any PackSource
    private let cache: CachePlaces?
    private let state: Int
    private var number: UInt64 = 0
    private var slotCount = 0
    private var bytes = unsafe UnsafeRawBufferPointer(start: nil, count: 0)

    /// - Parameter cache: where packs were found before, some of them in this state. The cache outlives this.
    @_lifetime(borrow snapshot)
    public init(_ snapshot: borrowing PackSnapshot, _ cache: CachePlaces? = nil) {
        unsafe source = snapshot.source
        self.cache = cache
        state = snapshot.state
    }

    /// The pack of that number, or nil.
    @inline(__always)
    @_lifetime(copy self)
    public mutating func find(_ number: UInt64) throws(Failure) -> PackView? {
        if number == self.number { return PackView(known: unsafe span(bytes), slotCount: slotCount) }
        guard let (bytes, slots) = unsafe try value(number) else { return nil }
        if slots > 0 { return unsafe keep(bytes, slots, number) }
        guard let pack = PackView(unsafe span(bytes), number: number) else { return nil }
        unsafe cache?.insert(number, in: state, bytes, note: pack.slotCount)
        return unsafe keep(bytes, pack.slotCount, number)
    }

    // What the source gave out lives as long as its state is shown.
    @inline(__always)
    @_lifetime(copy self)
    private func span(_ bytes: UnsafeRawBufferPointer) -> RawSpan { unsafe _overrideLifetime(RawSpan(_unsafeBytes: bytes), copying: self) }

    @inline(__always)
    @_lifetime(copy self)
    private mutating func keep(_ bytes: UnsafeRawBufferPointer, _ slots: Int, _ number: UInt64) -> PackView {
        unsafe self.bytes = bytes
        slotCount = slots
        self.number = number
        return PackView(known: unsafe span(bytes), slotCount: slots)
    }

    /// Has the processor fetch what tells where a pack is.
    public func prefetch(pack number: UInt64) { cache?.prefetch(number) }

    /// Has the processor fetch what `holds` looks at, of a blob that may not be there. Notes where its pack is, and does not
    /// look at it.
    public func prefetch(_ blob: BlobNumber) throws(Failure) {
        guard let (bytes, slots) = unsafe try value(blob.pack) else { return }
        let span = unsafe RawSpan(_unsafeBytes: bytes)
        // Of a pack that was looked at, the header is not looked at again.
        if slots == 0 { span.prefetch(at: 0, count: PackFormat.headerSize) }
        span.prefetch(at: PackFormat.entry(blob.slot), count: PackFormat.entrySize)
    }

    /// Where the pack is, and how many slots it has: 0 until it was looked at.
    @inline(__always)
    private func value(_ number: UInt64) throws(Failure) -> (UnsafeRawBufferPointer, Int)? {
        if let found = unsafe cache?.find(number, in: state) { return unsafe (found.bytes, found.note) }
        guard let bytes = unsafe try source.pack(number) else { return nil }
        unsafe cache?.insert(number, in: state, bytes)
        return unsafe (bytes, 0)
    }

    /// Whether that blob is the block of that digest.
    public mutating func holds(_ digest: Digest, _ blob: BlobNumber) throws(Failure) -> Bool {
        guard let pack = try find(blob.pack) else { return false }
        return pack.holds(digest, blob.slot)
    }

    /// The digest of a blob. Nil: it is not there.
    public mutating func digest(_ blob: BlobNumber) throws(Failure) -> Digest? {
        guard let pack = try find(blob.pack) else { return nil }
        return pack.digest(blob.slot)
    }

    /// The blob that was stored after this one, if any was.
    public mutating func next(after blob: BlobNumber) throws(Failure) -> BlobNumber {
        if let pack = try find(blob.pack), blob.slot + 1 < pack.slotCount { return BlobNumber(pack: blob.pack, slot: blob.slot + 1) }
        return BlobNumber(pack: blob.pack + 1, slot: 0)
    }

    /// The stored bytes of a blob. Nil: it is not there, or they lie outside its pack.
    @_lifetime(copy self)
    public mutating func stored(_ blob: BlobNumber) throws(Failure) -> RawSpan? {
        guard let pack = try find(blob.pack), let range = pack.range(blob.slot) else { return nil }
        return try stored(range, blob, pack)
    }

    @inline(__always)
    @_lifetime(copy self)
    private func stored(_ range: Range<Int>, _ blob: BlobNumber, _ pack: PackView) throws(Failure) -> RawSpan? {
        if range.upperBound <= pack.bytes.byteCount { return unsafe _overrideLifetime(pack.bytes.extracting(range), copying: self) }
        guard let part = unsafe try source.part(range, ofPack: blob.pack) else { return nil }
        return unsafe span(part)
    }

    /// Has the processor fetch the first stored bytes of a blob, when they are at hand.
    public mutating func prefetchStored(_ blob: BlobNumber, count: Int) throws(Failure) {
        guard let pack = try find(blob.pack), let range = pack.entry(blob.slot)?.range else { return }
        pack.bytes.prefetch(at: range.lowerBound, count: count)
    }

    /// What became of a blob that was to be read.
    public enum Reading: Sendable { case read, missing, damaged }

    /// Writes the block of a blob to `destination` at `offset`, when its bytes are what was stored. They are checked where they lie, and
    /// then copied: nobody writes to what a snapshot shows.
    /// - Throws: `.system` when it is of a codec that is not known here.
    public mutating func copyBlock(
        _ blob: BlobNumber, to destination: inout MutableRawSpan, at offset: Int, _ decoder: BlobDecoder
    ) throws(Failure) -> Reading {
        guard let pack = try find(blob.pack) else { return .missing }
        guard let entry = pack.entry(blob.slot) else { return .damaged }
        let number = entry.codec
        if number == PackFormat.collected { return .missing }
        guard let stored = try stored(entry.range, blob, pack), checksum(stored, seed: entry.checkSeed) == entry.check else { return .damaged }
        if number == BlobCodec.raw.rawValue, stored.byteCount == blockSize {
            destination.copy(stored, to: offset)
            return .read
        }
        guard let codec = BlobCodec(rawValue: number) else { throw unknown(codec: number, blob) }
        return decoder.decode(stored, codec, to: &destination, at: offset) ? .read : .damaged
    }

    private func unknown(codec: UInt8, _ blob: BlobNumber) -> Failure {
        Failure(.system, .blob("\(blob)"), "it is stored by codec \(codec), which this program does not know", remedy: "use a newer dedupdisk")
    }
}
