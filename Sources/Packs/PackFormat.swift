internal import BlobModel
public import BlockModel
internal import Hashing
public import System

/// A pack: some two hundred blobs, their names and places, in one value. It describes itself, so that every index can be made
/// anew from the packs.
///
///      0  magic      u32   "PACK"
///      4  format     u16   2
///      6  slots      u16   n
///      8  number     u64
///     16  store id   u64   first word of the store's id
///     24  length     u32   bytes of the pack in use
///     28  version    u32   of the pack: 0 as it was sealed (`PackVersion`)
///     32  checksum   u64   XXH3-64 of bytes 0–31 and of the directory
///     40  0                to 63
///     64  directory  n × 44 bytes:
///            0  digest    32   SHA-256 of the block
///           32  check     u64  XXH3-64 of the stored bytes, seeded with the digest's four words, xored
///           40  place     u32  bits 0–15 offset in the pack ÷ 16, 16–27 stored length − 1, 28–31 codec (`BlobCodec`); 15: the
///                              blob was collected, and its bytes are gone; its digest and length are what they were
///     …   blobs, each at a multiple of 16
///
/// 186 pages of 4096 bytes less LMDB's 16 hold 184 uncompressed blobs: 1.1% more than their payload, and next to
/// nothing of the last page is left over.
public enum PackFormat {
    static let magic: UInt32 = 0x4b43_4150
    static let format: UInt16 = 2
    public static let headerSize = 64
    public static let entrySize = 44
    /// Largest pack: whole pages of LMDB, whose overflow pages begin with a header of 16 bytes.
    static let capacity = 186 * 4096 - 16
    static let maximumSlots = 4096
    /// In place of a codec: nothing referred to the blob, and its bytes are gone.
    @usableFromInline static var collected: UInt8 { 15 }
    /// What a look at a directory needs of a pack, as far as that is known before.
    static let expectedDirectory = headerSize + 184 * entrySize

    /// The check word of a blob: that its bytes, its name and its place belong together.
    public static func check(_ stored: RawSpan, _ digest: Digest) -> UInt64 {
        checksum(stored, seed: digest.word0 ^ digest.word1 ^ digest.word2 ^ digest.word3)
    }

    static func align(_ offset: Int) -> Int { (offset + 15) & ~15 }

    @inlinable @inline(__always)
    static func entry(_ slot: Int) -> Int { 64 + slot * 44 }
}

/// A slot's entry in the directory, as it lies there.
struct PackEntry: BitwiseCopyable {
    private let digest: (UInt64, UInt64, UInt64, UInt64)
    let check: UInt64
    private let place: UInt32

    /// What the check word of the stored bytes is seeded with: the digest's words, xored.
    @inline(__always)
    var checkSeed: UInt64 { UInt64(bigEndian: digest.0 ^ digest.1 ^ digest.2 ^ digest.3) }
    @inline(__always)
    var codec: UInt8 { UInt8(place >> 28) }
    /// Where in the pack the stored bytes are.
    @inline(__always)
    var range: Range<Int> {
        let start = Int(place & 0xffff) * 16
        return start..<start + Int(place >> 16 & 0xfff) + 1
    }
}

/// The directory of a pack, and as much of its blobs as lies behind it. Every access is bounded by the value's length, whatever the
/// pack says.
public struct PackView: ~Escapable {
    public let bytes: RawSpan
    public let slotCount: Int

    /// Nil when this is not that version of a pack.
    @_lifetime(copy bytes)
    init?(_ bytes: RawSpan, _ version: PackVersion) {
        self.init(bytes, number: version.number)
        guard self.version == version.version else { return nil }
    }

    /// Nil when this is no version of the pack of that number.
    @_lifetime(copy bytes)
    init?(_ bytes: RawSpan, number: UInt64) {
        guard bytes.byteCount >= PackFormat.headerSize,
            bytes.load(at: 0, as: UInt32.self) == PackFormat.magic,
            bytes.load(at: 4, as: UInt16.self) == PackFormat.format,
            bytes.load(at: 8, as: UInt64.self) == number
        else { return nil }
        let slots = Int(bytes.load(at: 6, as: UInt16.self))
        guard PackFormat.headerSize + slots * PackFormat.entrySize <= bytes.byteCount else { return nil }
        self.bytes = bytes
        slotCount = slots
    }

    /// A pack that was looked at before.
    @inlinable
    @_lifetime(copy bytes)
    init(known bytes: RawSpan, slotCount: Int) {
        self.bytes = bytes
        self.slotCount = slotCount
    }

    /// Which version of the pack it is.
    public var version: UInt32 { bytes.load(at: 28) }

    /// Whether header and directory are as they were written, in this store.
    func isIntact(_ storeID: StoreID) -> Bool {
        bytes.load(at: 16, as: UInt64.self) == storeID.word0 && bytes.load(at: 32, as: UInt64.self) == Self.headerChecksum(bytes, slots: slotCount)
    }

    static func headerChecksum(_ bytes: RawSpan, slots: Int) -> UInt64 {
        checksum(
            bytes.extracting(PackFormat.headerSize..<PackFormat.headerSize + slots * PackFormat.entrySize),
            seed: checksum(bytes.extracting(0..<32)))
    }

    /// Has the disk begin to read the directory.
    public func expectDirectory() { bytes.expect(limit: PackFormat.headerSize + slotCount * PackFormat.entrySize) }

    @inlinable @inline(__always)
    func place(_ slot: Int) -> UInt32 { bytes.load(at: PackFormat.entry(slot) + 40) }

    /// Nil: there is no such slot.
    @inlinable
    public func digest(_ slot: Int) -> Digest? {
        slot >= 0 && slot < slotCount ? Digest(bytes, at: PackFormat.entry(slot)) : nil
    }

    /// Whether `slot` holds the block of that digest.
    @inlinable
    public func holds(_ digest: Digest, _ slot: Int) -> Bool {
        slot >= 0 && slot < slotCount && Digest(bytes, at: PackFormat.entry(slot)) == digest && !isCollected(slot)
    }

    /// Stored length in bytes; 0 when there is no such slot.
    @inlinable
    public func storedLength(_ slot: Int) -> Int {
        slot >= 0 && slot < slotCount ? Int(place(slot) >> 16 & 0xfff) + 1 : 0
    }

    /// The check word of the stored bytes; `slot` is one of the pack's, as below.
    @inlinable
    public func check(_ slot: Int) -> UInt64 { bytes.load(at: PackFormat.entry(slot) + 32) }

    /// Nil: there is no such slot.
    @inline(__always)
    func entry(_ slot: Int) -> PackEntry? {
        guard slot >= 0, slot < slotCount else { return nil }
        // It has integers alone; the bounds are checked.
        return unsafe bytes.unsafeLoadUnaligned(fromByteOffset: PackFormat.entry(slot), as: PackEntry.self)
    }

    /// Where in the pack the stored bytes are. Nil: no such slot.
    func range(_ slot: Int) -> Range<Int>? { entry(slot)?.range }

    /// The codec's number, which may be one that is not known here.
    @inlinable
    public func codec(_ slot: Int) -> UInt8 { UInt8(place(slot) >> 28) }

    /// Whether the blob's bytes were collected.
    @inlinable
    public func isCollected(_ slot: Int) -> Bool { codec(slot) == PackFormat.collected }
}
