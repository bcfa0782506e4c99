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
    /// Nothing referred to the blob, and its bytes are gone; its digest and length are what they were.
    case collected = 15
}

/// A pack: some two hundred blobs, their names and places, in one value of table `packs`. It describes itself,
/// so that every index can be made anew from the packs.
///
///      0  magic      u32   "PACK"
///      4  version    u16   1
///      6  slots      u16   n
///      8  number     u64   the record's key
///     16  store id   u64   first word of the store's id
///     24  length     u32   bytes of the pack in use
///     28  0          u32
///     32  checksum   u64   XXH3-64 of bytes 0–31 and of the directory
///     40  0                to 63
///     64  directory  n × 40 bytes:
///            0  digest    32   SHA-256 of the block
///           32  check     u32  low half of XXH3-64 of the stored bytes
///           36  place     u32  bits 0–15 offset in the pack ÷ 16, 16–27 stored length − 1, 28–31 codec
///     …   blobs, each at a multiple of 16
///
/// 204 pages of 4096 bytes less LMDB's 16 hold 202 uncompressed blobs: 1% more than their payload.
enum PackFormat {
    static let magic: UInt32 = 0x4b43_4150
    static let version: UInt16 = 1
    static let headerSize = 64
    static let entrySize = 40
    /// Largest pack: whole pages of LMDB, whose overflow pages begin with a header of 16 bytes.
    static let capacity = 204 * 4096 - 16
    static let maximumSlots = 4096

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

    private func entry(_ slot: Int) -> Int { PackFormat.headerSize + slot * PackFormat.entrySize }

    /// Nil: there is no such slot.
    func digest(_ slot: Int) -> Digest? {
        slot >= 0 && slot < slotCount ? Digest(bytes, at: entry(slot)) : nil
    }

    /// Stored length in bytes; 0 when there is no such slot.
    func storedLength(_ slot: Int) -> Int {
        slot >= 0 && slot < slotCount ? Int(bytes.load(at: entry(slot) + 36, as: UInt32.self) >> 16 & 0xfff) + 1 : 0
    }

    /// The check word of the stored bytes.
    func check(_ slot: Int) -> UInt32 { bytes.load(at: entry(slot) + 32) }

    /// The codec and the stored bytes. Nil: no such slot, or it lies outside the pack.
    @_lifetime(copy self)
    func stored(_ slot: Int) -> RawSpan? {
        guard slot >= 0, slot < slotCount else { return nil }
        let place: UInt32 = bytes.load(at: entry(slot) + 36)
        let start = Int(place & 0xffff) * 16
        let length = Int(place >> 16 & 0xfff) + 1
        guard start + length <= bytes.byteCount else { return nil }
        return bytes.extracting(start..<start + length)
    }

    /// The codec's number, which may be one that is not known here; `slot` is one of the pack's.
    func codec(_ slot: Int) -> UInt8 { UInt8(bytes.load(at: entry(slot) + 36, as: UInt32.self) >> 28) }

    /// Whether the blob's bytes were collected.
    func isCollected(_ slot: Int) -> Bool { codec(slot) == Codec.collected.rawValue }

    /// Copies the block of `slot` to `destination` at `offset`.
    /// - Returns: false when it cannot be had: no such slot, outside the pack, an unknown codec, a wrong length.
    func copyBlock(_ slot: Int, to destination: inout MutableRawSpan, at offset: Int) -> Bool {
        guard let stored = stored(slot), codec(slot) == Codec.raw.rawValue, stored.byteCount == blockSize else { return false }
        destination.copy(stored, to: offset)
        return true
    }
}

/// The pack being filled.
struct PackBuilder {
    let number: UInt64
    private var entries: [(digest: Digest, check: UInt32, length: Int, codec: Codec)] = []
    private var blobs: [UInt8] = []

    init(number: UInt64) {
        self.number = number
        blobs.reserveCapacity(PackFormat.capacity)
    }

    /// Goes on filling a pack that a commit left open. Nil when a blob of it cannot be had: start another pack then.
    init?(continuing pack: PackView, number: UInt64) {
        self.init(number: number)
        for slot in 0..<pack.slotCount {
            guard let digest = pack.digest(slot), let stored = pack.stored(slot), pack.codec(slot) == Codec.raw.rawValue else { return nil }
            add(digest, stored, check: pack.check(slot))
        }
    }

    /// A copy of a pack in which `isDead` slots, and those that are collected already, are collected. Nil when a blob
    /// of it cannot be had: it is better left alone then.
    init?(copying pack: PackView, number: UInt64, isDead: (Int) -> Bool) {
        self.init(number: number)
        for slot in 0..<pack.slotCount {
            guard let digest = pack.digest(slot) else { return nil }
            if isDead(slot) || pack.isCollected(slot) {
                entries.append((digest, pack.check(slot), pack.storedLength(slot), .collected))
            } else {
                guard let stored = pack.stored(slot), pack.codec(slot) == Codec.raw.rawValue else { return nil }
                add(digest, stored, check: pack.check(slot))
            }
        }
    }

    var slotCount: Int { entries.count }

    /// Whether a blob of `length` bytes still fits.
    func hasRoom(for length: Int) -> Bool {
        entries.count < PackFormat.maximumSlots
            && PackFormat.align(PackFormat.headerSize + (entries.count + 1) * PackFormat.entrySize) + blobs.count + length
                <= PackFormat.capacity
    }

    /// Adds a raw blob and returns its number.
    mutating func append(_ digest: Digest, _ block: RawSpan) -> BlobNumber {
        add(digest, block, check: UInt32(truncatingIfNeeded: checksum(block)))
        return BlobNumber(pack: number, slot: entries.count - 1)
    }

    private mutating func add(_ digest: Digest, _ stored: RawSpan, check: UInt32) {
        entries.append((digest, check, stored.byteCount, .raw))
        unsafe stored.withUnsafeBytes { unsafe blobs.append(contentsOf: $0) }
        while blobs.count % 16 != 0 { blobs.append(0) }
    }

    /// Bytes of the pack.
    var byteCount: Int { blobsStart + blobs.count }
    private var blobsStart: Int { PackFormat.align(PackFormat.headerSize + entries.count * PackFormat.entrySize) }

    /// Writes the pack into a value of `byteCount` bytes.
    func write(into value: inout MutableRawSpan, storeID: UInt64) {
        var offset = blobsStart
        for at in stride(from: 0, to: offset, by: 8) { value.store(UInt64(0), at: at) }
        value.store(PackFormat.magic, at: 0)
        value.store(PackFormat.version, at: 4)
        value.store(UInt16(entries.count), at: 6)
        value.store(number, at: 8)
        value.store(storeID, at: 16)
        value.store(UInt32(byteCount), at: 24)
        value.copy(blobs.rawBytes, to: offset)
        var place = PackFormat.headerSize
        for entry in entries {
            entry.digest.store(into: &value, at: place)
            value.store(entry.check, at: place + 32)
            value.store(UInt32(offset / 16) | UInt32(entry.length - 1) << 16 | UInt32(entry.codec.rawValue) << 28, at: place + 36)
            place += PackFormat.entrySize
            if entry.codec != .collected { offset += PackFormat.align(entry.length) }
        }
        value.store(PackView.headerChecksum(value.bytes, slots: entries.count), at: 32)
    }
}
