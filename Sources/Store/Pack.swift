internal import BlockModel
internal import Hashing
internal import LMDB

/// Where a blob is: a pack and a slot in it. 0 is no blob: packs count from 1.
///
///     63        48 47                 16 15          0
///     ┌───────────┬─────────────────────┬────────────┐
///     │     0     │        pack         │    slot    │
///     └───────────┴─────────────────────┴────────────┘
public struct BlobNumber: RawRepresentable, Hashable, Comparable, Sendable, CustomStringConvertible {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    init(pack: UInt64, slot: Int) { rawValue = pack << 16 | UInt64(slot) }

    static let none = BlobNumber(rawValue: 0)
    var pack: UInt64 { rawValue >> 16 }
    var slot: Int { Int(rawValue & 0xffff) }

    public static func < (a: BlobNumber, b: BlobNumber) -> Bool { a.rawValue < b.rawValue }
    public var description: String { "\(pack)/\(slot)" }
}

/// How a blob's bytes are stored.
enum Codec: UInt8 {
    /// The block itself, 4096 bytes.
    case raw = 0
    /// LZ4's block format, Zstandard's frame format.
    case lz4 = 1, zstd = 2
    /// Nothing referred to the blob, and its bytes are gone; its digest and length are what they were.
    case collected = 15
}

/// A pack: some two hundred blobs, their names and places, in one value of table `packs`. It describes itself,
/// so that every index can be made anew from the packs.
///
///      0  magic      u32   "PACK"
///      4  version    u16   2
///      6  slots      u16   n
///      8  number     u64   the record's key
///     16  store id   u64   first word of the store's id
///     24  length     u32   bytes of the pack in use
///     28  0          u32
///     32  checksum   u64   XXH3-64 of bytes 0–31 and of the directory
///     40  0                to 63
///     64  directory  n × 44 bytes:
///            0  digest    32   SHA-256 of the block
///           32  check     u64  XXH3-64 of the stored bytes, seeded with the digest's four words, xored
///           40  place     u32  bits 0–15 offset in the pack ÷ 16, 16–27 stored length − 1, 28–31 codec
///     …   blobs, each at a multiple of 16
///
/// 186 pages of 4096 bytes less LMDB's 16 hold 184 uncompressed blobs: 1.1% more than their payload, and next to
/// nothing of the last page is left over.
enum PackFormat {
    static let magic: UInt32 = 0x4b43_4150
    static let version: UInt16 = 2
    static let headerSize = 64
    static let entrySize = 44
    /// Largest pack: whole pages of LMDB, whose overflow pages begin with a header of 16 bytes.
    static let capacity = 186 * 4096 - 16
    static let maximumSlots = 4096
    /// What a look at a directory needs of a pack, as far as that is known before.
    static let expectedDirectory = headerSize + 184 * entrySize

    /// The check word of a blob: that its bytes, its name and its place belong together.
    static func check(_ stored: RawSpan, _ digest: Digest) -> UInt64 {
        checksum(stored, seed: digest.word0 ^ digest.word1 ^ digest.word2 ^ digest.word3)
    }

    static func align(_ offset: Int) -> Int { (offset + 15) & ~15 }
}

/// A pack as it lies in the map. Every access is bounded by the value's length, whatever the pack says.
struct PackView: ~Escapable {
    let bytes: RawSpan
    let slotCount: Int

    /// Nil when this is not the pack of that number.
    @_lifetime(copy bytes)
    init?(_ bytes: RawSpan, number: UInt64) {
        guard bytes.byteCount >= PackFormat.headerSize,
            bytes.load(at: 0, as: UInt32.self) == PackFormat.magic,
            bytes.load(at: 4, as: UInt16.self) == PackFormat.version,
            bytes.load(at: 8, as: UInt64.self) == number
        else { return nil }
        let slots = Int(bytes.load(at: 6, as: UInt16.self))
        guard PackFormat.headerSize + slots * PackFormat.entrySize <= bytes.byteCount else { return nil }
        self.bytes = bytes
        slotCount = slots
    }

    /// A pack that was looked at before.
    @_lifetime(copy known)
    init(_ known: KnownValue) {
        bytes = known.bytes
        slotCount = known.note
    }

    /// The pack of that number as `packs` sees it, or nil.
    @_lifetime(copy packs)
    static func find(_ number: UInt64, in packs: View, _ table: Environment.Table) throws(Failure) -> PackView? {
        guard let value = try packs.value(table, number) else { return nil }
        return PackView(value, number: number)
    }

    /// Whether header and directory are as they were written, in this store.
    func isIntact(storeID: UInt64) -> Bool {
        bytes.load(at: 16, as: UInt64.self) == storeID && bytes.load(at: 32, as: UInt64.self) == Self.headerChecksum(bytes, slots: slotCount)
    }

    static func headerChecksum(_ bytes: RawSpan, slots: Int) -> UInt64 {
        checksum(
            bytes.extracting(PackFormat.headerSize..<PackFormat.headerSize + slots * PackFormat.entrySize),
            seed: checksum(bytes.extracting(0..<32)))
    }

    /// Has the disk begin to read the directory.
    func expectDirectory() { bytes.expect(limit: PackFormat.headerSize + slotCount * PackFormat.entrySize) }

    fileprivate static func entry(_ slot: Int) -> Int { PackFormat.headerSize + slot * PackFormat.entrySize }
    private func place(_ slot: Int) -> UInt32 { bytes.load(at: Self.entry(slot) + 40) }

    /// Nil: there is no such slot.
    func digest(_ slot: Int) -> Digest? {
        slot >= 0 && slot < slotCount ? Digest(bytes, at: Self.entry(slot)) : nil
    }

    /// Whether `slot` holds the block of that digest.
    func holds(_ digest: Digest, _ slot: Int) -> Bool {
        slot >= 0 && slot < slotCount && Digest(bytes, at: Self.entry(slot)) == digest && !isCollected(slot)
    }

    /// Stored length in bytes; 0 when there is no such slot.
    func storedLength(_ slot: Int) -> Int {
        slot >= 0 && slot < slotCount ? Int(place(slot) >> 16 & 0xfff) + 1 : 0
    }

    /// The check word of the stored bytes; `slot` is one of the pack's, as below.
    func check(_ slot: Int) -> UInt64 { bytes.load(at: Self.entry(slot) + 32) }

    /// The codec and the stored bytes. Nil: no such slot, or it lies outside the pack.
    @_lifetime(copy self)
    func stored(_ slot: Int) -> RawSpan? {
        guard slot >= 0, slot < slotCount else { return nil }
        let place = place(slot)
        let start = Int(place & 0xffff) * 16
        let length = Int(place >> 16 & 0xfff) + 1
        guard start + length <= bytes.byteCount else { return nil }
        return bytes.extracting(start..<start + length)
    }

    /// The codec's number, which may be one that is not known here.
    func codec(_ slot: Int) -> UInt8 { UInt8(place(slot) >> 28) }

    /// Whether the blob's bytes were collected.
    func isCollected(_ slot: Int) -> Bool { codec(slot) == Codec.collected.rawValue }

    /// Writes the block of `slot` to `destination` at `offset`, when its bytes are what was stored. They are checked
    /// where they lie, and then copied: no transaction writes to a page that a reader sees.
    /// - Returns: false when it cannot be had: no such slot, outside the pack, a wrong check word, not of a known codec.
    func copyBlock(_ slot: Int, to destination: inout MutableRawSpan, at offset: Int, _ decompressor: Decompressor) -> Bool {
        guard let stored = stored(slot), let digest = digest(slot), PackFormat.check(stored, digest) == check(slot) else { return false }
        return decompressor.decode(stored, codec(slot), to: &destination, at: offset)
    }
}

/// Packs of one state, the last one looked at kept at hand.
@safe
struct PackFinder: ~Escapable {
    private let packs: View
    private let table: Environment.Table
    private let known: KnownValues?
    private let state: Int
    private var number: UInt64 = 0
    private var slotCount = 0
    private var bytes = unsafe UnsafeRawBufferPointer(start: nil, count: 0)

    /// - Parameter known: packs that were found before, some of them in `state`, which is the one of `packs`.
    @_lifetime(copy packs)
    init(_ packs: View, _ table: Environment.Table, _ known: KnownValues? = nil, _ state: Int = 0) {
        self.packs = packs
        self.table = table
        self.known = known
        self.state = state
    }

    /// The pack of that number, or nil.
    @_lifetime(copy self)
    mutating func find(_ number: UInt64) throws(Failure) -> PackView? {
        if number == self.number {
            // The value lives as long as the state does.
            let span = unsafe _overrideLifetime(RawSpan(_unsafeBytes: bytes), copying: packs)
            return PackView(KnownValue(bytes: span, note: slotCount))
        }
        guard let value = try value(number) else { return nil }
        if value.note > 0 { return keep(PackView(value), number) }
        guard let pack = PackView(value.bytes, number: number) else { return nil }
        known?.insert(number, in: state, value.bytes, note: pack.slotCount)
        return keep(pack, number)
    }

    @_lifetime(copy pack)
    private mutating func keep(_ pack: PackView, _ number: UInt64) -> PackView {
        unsafe bytes = pack.bytes.withUnsafeBytes { unsafe $0 }
        slotCount = pack.slotCount
        self.number = number
        return pack
    }

    /// Has the processor fetch what tells where a pack is.
    func prefetch(pack number: UInt64) { known?.prefetch(number) }

    /// Has the processor fetch what `holds` looks at, of a blob that may not be there. Notes where its pack is, and does not
    /// look at it.
    func prefetch(_ blob: BlobNumber) throws(Failure) {
        guard let value = try value(blob.pack) else { return }
        // Of a pack that was looked at, the header is not looked at again.
        if value.note == 0 { value.bytes.prefetch(at: 0, count: PackFormat.headerSize) }
        value.bytes.prefetch(at: PackView.entry(blob.slot), count: PackFormat.entrySize)
    }

    /// The pack's value, and how many slots it has: 0 until it was looked at.
    @_lifetime(copy self)
    private func value(_ number: UInt64) throws(Failure) -> KnownValue? {
        if let noted = known?.value(number, in: state, packs) { return noted }
        guard let value = try packs.value(table, number) else { return nil }
        known?.insert(number, in: state, value)
        return KnownValue(bytes: value, note: 0)
    }

    /// Whether that blob is the block of that digest.
    mutating func holds(_ digest: Digest, _ blob: BlobNumber) throws(Failure) -> Bool {
        guard let pack = try find(blob.pack) else { return false }
        return pack.holds(digest, blob.slot)
    }

    /// The digest of a blob. Nil: it is not there.
    mutating func digest(_ blob: BlobNumber) throws(Failure) -> Digest? {
        guard let pack = try find(blob.pack) else { return nil }
        return pack.digest(blob.slot)
    }

    /// The blob that was stored after this one, if any was.
    mutating func next(after blob: BlobNumber) throws(Failure) -> BlobNumber {
        if let pack = try find(blob.pack), blob.slot + 1 < pack.slotCount { return BlobNumber(pack: blob.pack, slot: blob.slot + 1) }
        return BlobNumber(pack: blob.pack + 1, slot: 0)
    }
}

/// A pack to be written: its directory, and where the bytes of its blobs are. They are lent, and stay as they are until
/// the pack is written.
struct PackBuilder {
    let number: UInt64
    private var entries: [Entry] = []
    /// Bytes of the blobs, each with the room it takes.
    private var blobBytes = 0

    private struct Entry {
        let digest: Digest
        let check: UInt64
        let codec: Codec
        let length: Int
        /// Nil where the blob was collected.
        let source: LentBytes?
    }

    init(number: UInt64) {
        self.number = number
        entries.reserveCapacity(184)
    }

    /// Goes on filling a pack that a commit left open. Nil when a blob of it cannot be had: start another pack then.
    @unsafe init?(continuing pack: PackView, number: UInt64) {
        unsafe self.init(copying: pack, number: number) { _ in false }
        guard !entries.contains(where: { $0.codec == .collected }) else { return nil }
    }

    /// A copy of a pack in which `isDead` slots, and those that are collected already, are collected. Nil when a blob
    /// of it cannot be had: it is better left alone then.
    @unsafe init?(copying pack: PackView, number: UInt64, isDead: (Int) -> Bool) {
        self.init(number: number)
        for slot in 0..<pack.slotCount {
            guard let digest = pack.digest(slot), let codec = Codec(rawValue: pack.codec(slot)) else { return nil }
            if isDead(slot) || codec == .collected {
                entries.append(Entry(digest: digest, check: pack.check(slot), codec: .collected, length: pack.storedLength(slot), source: nil))
            } else {
                guard let stored = pack.stored(slot), let lent = unsafe LentBytes(stored) else { return nil }
                add(digest, pack.check(slot), codec, lent)
            }
        }
    }

    var slotCount: Int { entries.count }
    func storedLength(_ slot: Int) -> Int { entries[slot].length }

    /// Whether a blob of `length` bytes still fits.
    func hasRoom(for length: Int) -> Bool {
        entries.count < PackFormat.maximumSlots
            && PackFormat.align(PackFormat.headerSize + (entries.count + 1) * PackFormat.entrySize) + blobBytes + length
                <= PackFormat.capacity
    }

    /// Adds a blob, whose bytes are lent until the pack is written, and returns its number.
    mutating func append(_ digest: Digest, check: UInt64, _ codec: Codec, _ stored: LentBytes) -> BlobNumber {
        add(digest, check, codec, stored)
        return BlobNumber(pack: number, slot: entries.count - 1)
    }

    /// Replaces the bytes of a blob.
    /// - Returns: false when that can't be: no such slot, collected, or no place within what an offset can say.
    mutating func replace(_ slot: Int, check: UInt64, _ codec: Codec, _ stored: LentBytes) -> Bool {
        guard entries.indices.contains(slot) else { return false }
        let old = entries[slot]
        guard old.codec != .collected, byteCount + stored.count <= 1 << 20 else { return false }
        blobBytes += PackFormat.align(stored.count) - PackFormat.align(old.length)
        entries[slot] = Entry(digest: old.digest, check: check, codec: codec, length: stored.count, source: stored)
        return true
    }

    private mutating func add(_ digest: Digest, _ check: UInt64, _ codec: Codec, _ stored: LentBytes) {
        entries.append(Entry(digest: digest, check: check, codec: codec, length: stored.count, source: stored))
        blobBytes += PackFormat.align(stored.count)
    }

    /// Bytes of the pack.
    var byteCount: Int { blobsStart + blobBytes }
    private var blobsStart: Int { PackFormat.align(PackFormat.headerSize + entries.count * PackFormat.entrySize) }

    /// Writes the pack into a value of `byteCount` bytes.
    /// - Parameter first: slots from here on are compared with their check words once they are written.
    /// - Returns: false when one of these differs: what was hashed is not what was lent any more.
    func write(into value: inout MutableRawSpan, storeID: UInt64, checkingFrom first: Int = .max) -> Bool {
        var isTrue = true
        var offset = blobsStart
        let directoryEnd = PackFormat.headerSize + entries.count * PackFormat.entrySize
        value.zero(at: 0, count: PackFormat.headerSize)
        value.zero(at: directoryEnd, count: offset - directoryEnd)
        value.store(PackFormat.magic, at: 0)
        value.store(PackFormat.version, at: 4)
        value.store(UInt16(entries.count), at: 6)
        value.store(number, at: 8)
        value.store(storeID, at: 16)
        value.store(UInt32(byteCount), at: 24)
        var place = PackFormat.headerSize
        for slot in entries.indices {
            let entry = entries[slot]
            entry.digest.store(into: &value, at: place)
            value.store(entry.check, at: place + 32)
            value.store(UInt32(offset / 16) | UInt32(entry.length - 1) << 16 | UInt32(entry.codec.rawValue) << 28, at: place + 40)
            place += PackFormat.entrySize
            guard let source = entry.source else { continue }
            value.copy(source.bytes, to: offset)
            let end = PackFormat.align(offset + source.count)
            value.zero(at: offset + source.count, count: end - offset - source.count)
            if slot >= first, PackFormat.check(value.bytes.extracting(offset..<offset + source.count), entry.digest) != entry.check { isTrue = false }
            offset = end
        }
        value.store(PackView.headerChecksum(value.bytes, slots: entries.count), at: 32)
        return isTrue
    }
}
