public import BlobModel
public import BlockModel
internal import Hashing
public import LMDB
public import System

/// Packs of a snapshot, the last one looked at kept at hand.
@safe
public struct PackFinder: ~Escapable {
    /// The snapshot keeps it alive. A finder is made for every read, and counting these references would have all threads wait for one word of memory.
    private unowned(unsafe) let source: any PackSource
    private unowned(unsafe) let versions: any VersionSource
    private let cache: CachePlaces?
    private let state: Int
    /// No pack was ever written anew.
    private let areSealed: Bool
    private var number: UInt64 = 0
    private var shape = PackShape(word: 0)
    private var bytes = unsafe UnsafeRawBufferPointer(start: nil, count: 0)

    /// Looks for versions that are current.
    @_lifetime(borrow snapshot)
    public init(_ snapshot: borrowing PackSnapshot) {
        unsafe source = snapshot.source
        unsafe versions = snapshot.versions
        cache = nil
        state = snapshot.state
        areSealed = false
    }

    /// The same, with places that are known from before.
    /// - Parameters:
    ///   - cache: where packs were found before, some of them in this state. The cache outlives this.
    ///   - rewrites: how often other versions became current, as of no later moment than the snapshot's. What the cache has of that many is at least as new.
    @_lifetime(borrow snapshot)
    public init(_ snapshot: borrowing PackSnapshot, _ cache: CachePlaces?, rewrites: UInt64) {
        unsafe source = snapshot.source
        unsafe versions = snapshot.versions
        self.cache = cache
        // Two pairs give the same number only if 2^24 rewrites lie between them and the packs stayed the same; but they change before each rewrite.
        state = snapshot.state &+ Int(truncatingIfNeeded: rewrites << 40)
        areSealed = rewrites == 0
    }

    /// The pack of that number, or nil.
    @inline(__always)
    @_lifetime(copy self)
    public mutating func find(_ number: UInt64) throws(Failure) -> PackView? {
        if number == self.number { return PackView(known: unsafe span(bytes), shape) }
        guard let (bytes, note) = unsafe try value(number) else { return nil }
        if note > 0 { return unsafe keep(bytes, PackShape(word: note), number) }
        guard let pack = PackView(unsafe span(bytes), number: number) else { return nil }
        unsafe cache?.insert(number, in: state, bytes, note: pack.shape.word)
        return unsafe keep(bytes, pack.shape, number)
    }

    // What the source gave out lives as long as its state is shown.
    @inline(__always)
    @_lifetime(copy self)
    private func span(_ bytes: UnsafeRawBufferPointer) -> RawSpan { unsafe _overrideLifetime(RawSpan(_unsafeBytes: bytes), copying: self) }

    @inline(__always)
    @_lifetime(copy self)
    private mutating func keep(_ bytes: UnsafeRawBufferPointer, _ shape: PackShape, _ number: UInt64) -> PackView {
        unsafe self.bytes = bytes
        self.shape = shape
        self.number = number
        return PackView(known: unsafe span(bytes), shape)
    }

    /// Has the processor fetch what tells where a pack is.
    public func prefetch(pack number: UInt64) { cache?.prefetch(number) }

    /// Has the processor fetch what `holds` looks at, of a blob that may not be there. Notes where its pack is, and does not
    /// look at it.
    public func prefetch(_ blob: BlobNumber) throws(Failure) {
        guard let (bytes, note) = unsafe try value(blob.pack) else { return }
        let span = unsafe RawSpan(_unsafeBytes: bytes)
        // Of a pack that was looked at, the header is not looked at again.
        if note == 0 { span.prefetch(at: 0, count: PackFormat.headerSize) }
        // Where the entry of a sparse pack is, its bits say first.
        let isSparse = PackShape(word: note).isSparse
        span.prefetch(at: isSparse ? PackFormat.headerSize : PackFormat.entry(blob.slot), count: PackFormat.entrySize)
    }

    /// Where the pack is, and its shape: 0 until it was looked at.
    @inline(__always)
    private func value(_ number: UInt64) throws(Failure) -> (UnsafeRawBufferPointer, Int)? {
        if let found = unsafe cache?.find(number, in: state) { return unsafe (found.bytes, found.note) }
        guard let version = unsafe try areSealed ? 0 : versions.state(of: number).current,
            let bytes = unsafe try source.pack(PackVersion(number, version))
        else { return nil }
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
        return try stored(range, pack, blob)
    }

    @inline(__always)
    @_lifetime(copy self)
    private func stored(_ range: Range<Int>, _ pack: PackView, _ blob: BlobNumber) throws(Failure) -> RawSpan? {
        if range.upperBound <= pack.bytes.byteCount { return unsafe _overrideLifetime(pack.bytes.extracting(range), copying: self) }
        guard let part = unsafe try source.part(range, of: PackVersion(blob.pack, pack.version)) else { return nil }
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
        guard let entry = pack.entry(blob.slot) else { return blob.slot < pack.slotCount ? .missing : .damaged }
        let number = entry.codec
        if number == PackFormat.collected { return .missing }
        guard let stored = try stored(entry.range, pack, blob), checksum(stored, seed: entry.checkSeed) == entry.maskedCheck ^ pack.mask(blob.slot) else {
            return .damaged
        }
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
