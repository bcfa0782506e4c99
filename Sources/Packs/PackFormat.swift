internal import BlobModel
public import BlockModel
internal import Hashing
public import System

/// A pack: some two hundred blobs, their names and places, in one value. It describes itself, so that every index can be made
/// anew from the packs.
///
///      0  magic      u32   "PACK"
///      4  format     u16   2: every slot has an entry; 3: few have
///      6  slots      u16   n
///      8  number     u64
///     16  store id   u64   first word of the store's id
///     24  length     u32   bytes of the pack in use
///     28  version    u32   of the pack: 0 as it was sealed (`PackVersion`)
///     32  checksum   u64   XXH3-64 of bytes 0–31 and of the directory
///     40  bits       u64   of format 3: XXH3-64 of the bits below, seeded with that of bytes 0–31; else 0
///     48  0                to 63
///     64  slots that have an entry, of format 3 alone: n bits, in words u64, the first slot the lowest of the first
///     …   directory  44 bytes for each entry, in the order of slots:
///            0  digest    32   SHA-256 of the block
///           32  check     u64  XXH3-64 of the stored bytes, seeded with the digest's four words, xored; of format 3, xored with (slot + 1) ×
///                              9e3779b97f4a7c15₁₆ modulo 2⁶⁴, so that bits that rot later make no entry another slot's
///           40  place     u32  bits 0–15 offset in the pack ÷ 16, 16–27 stored length − 1, 28–31 codec (`BlobCodec`); 15: the
///                              blob was collected, and its bytes are gone; its digest and length are what they were
///     …   blobs, each at a multiple of 16
///
/// Of format 3 is what was written anew, when that takes fewer pages: slots that were collected have no entry then, but for the last slot.
///
/// 186 pages of 4096 bytes less LMDB's 16 hold 184 uncompressed blobs: 1.1% more than their payload, and next to
/// nothing of the last page is left over.
public enum PackFormat {
    static let magic: UInt32 = 0x4b43_4150
    static let format: UInt16 = 2, sparseFormat: UInt16 = 3
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

    /// What a sparse pack's check words are xored with.
    @inlinable @inline(__always)
    static func mask(_ slot: Int) -> UInt64 { UInt64(truncatingIfNeeded: slot &+ 1) &* 0x9e37_79b9_7f4a_7c15 }

    /// Of the bits of a sparse pack: no slot is looked for by others than were written.
    static func bitsChecksum(_ bytes: RawSpan, slots: Int) -> UInt64 {
        checksum(bytes.extracting(headerSize..<headerSize + bitsSize(slots)), seed: checksum(bytes.extracting(0..<32)))
    }

    /// Bytes of the bits that say which of so many slots have an entry.
    static func bitsSize(_ slots: Int) -> Int { (slots + 63) / 64 * 8 }

    @inlinable @inline(__always)
    static func entry(_ slot: Int) -> Int { 64 + slot * 44 }
}

/// A slot's entry in the directory, as it lies there.
struct PackEntry: BitwiseCopyable {
    private let digest: (UInt64, UInt64, UInt64, UInt64)
    /// As it lies there: `PackView.mask` makes it the check word.
    let maskedCheck: UInt64
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
    /// Slots, and whether some have no entry.
    @usableFromInline let shape: PackShape

    public var slotCount: Int { @inlinable @inline(__always) get { shape.slots } }

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
            bytes.load(at: 8, as: UInt64.self) == number
        else { return nil }
        let format = bytes.load(at: 4, as: UInt16.self)
        guard format == PackFormat.format || format == PackFormat.sparseFormat else { return nil }
        shape = PackShape(slots: Int(bytes.load(at: 6, as: UInt16.self)), isSparse: format == PackFormat.sparseFormat)
        self.bytes = bytes
        if shape.isSparse {
            guard PackFormat.headerSize + PackFormat.bitsSize(shape.slots) <= bytes.byteCount,
                bytes.load(at: 40, as: UInt64.self) == PackFormat.bitsChecksum(bytes, slots: shape.slots)
            else { return nil }
        }
        guard directoryEnd <= bytes.byteCount else { return nil }
    }

    /// A pack that was looked at before.
    @inlinable
    @_lifetime(copy bytes)
    init(known bytes: RawSpan, _ shape: PackShape) {
        self.bytes = bytes
        self.shape = shape
    }

    /// Which version of the pack it is.
    public var version: UInt32 { bytes.load(at: 28) }

    /// Where the directory ends. What a damaged pack says may be anywhere.
    var directoryEnd: Int {
        guard shape.isSparse else { return PackFormat.entry(shape.slots) }
        let bits = PackFormat.bitsSize(shape.slots)
        let entries = stride(from: 0, to: bits, by: 8).reduce(0) { $0 + bytes.load(at: PackFormat.headerSize + $1, as: UInt64.self).nonzeroBitCount }
        return PackFormat.entry(entries) + bits
    }

    /// Whether header and directory are as they were written, in this store.
    func isIntact(_ storeID: StoreID) -> Bool {
        bytes.load(at: 16, as: UInt64.self) == storeID.word0 && bytes.load(at: 32, as: UInt64.self) == Self.headerChecksum(bytes, directoryEnd: directoryEnd)
    }

    static func headerChecksum(_ bytes: RawSpan, directoryEnd: Int) -> UInt64 {
        checksum(bytes.extracting(PackFormat.headerSize..<directoryEnd), seed: checksum(bytes.extracting(0..<32)))
    }

    /// Has the disk begin to read the directory.
    public func expectDirectory() { bytes.expect(limit: directoryEnd) }

    /// Where a slot's entry is. Nil: there is no such slot, or it has none, as its blob was collected.
    @inlinable @inline(__always)
    func offset(_ slot: Int) -> Int? {
        guard slot >= 0, slot < shape.slots else { return nil }
        return shape.isSparse ? sparseOffset(slot) : PackFormat.entry(slot)
    }

    @usableFromInline
    func sparseOffset(_ slot: Int) -> Int? {
        let word = slot / 64, bit = UInt64(1) << UInt64(slot % 64)
        let bits: UInt64 = bytes.load(at: PackFormat.headerSize + word * 8)
        guard bits & bit != 0 else { return nil }
        let before = (0..<word).reduce((bits & (bit - 1)).nonzeroBitCount) {
            $0 + bytes.load(at: PackFormat.headerSize + $1 * 8, as: UInt64.self).nonzeroBitCount
        }
        // The bits may have rotted since they were looked at.
        let place = PackFormat.entry(before) + PackFormat.bitsSize(shape.slots)
        return place <= bytes.byteCount - PackFormat.entrySize ? place : nil
    }

    /// What the check word of a slot is xored with.
    @inlinable @inline(__always)
    func mask(_ slot: Int) -> UInt64 { shape.isSparse ? PackFormat.mask(slot) : 0 }

    @inlinable @inline(__always)
    func place(_ slot: Int) -> UInt32? { offset(slot).map { bytes.load(at: $0 + 40) } }

    /// Nil: there is no such slot, or its blob was collected, and what it was is not known any more.
    @inlinable
    public func digest(_ slot: Int) -> Digest? { offset(slot).map { Digest(bytes, at: $0) } }

    /// Whether `slot` holds the block of that digest.
    @inlinable
    public func holds(_ digest: Digest, _ slot: Int) -> Bool {
        guard let offset = offset(slot) else { return false }
        return Digest(bytes, at: offset) == digest && !isCollected(slot)
    }

    /// Stored length in bytes; 0 when there is no such slot, or nothing is known of it.
    @inlinable
    public func storedLength(_ slot: Int) -> Int { place(slot).map { Int($0 >> 16 & 0xfff) + 1 } ?? 0 }

    /// The check word of the stored bytes; 0 where nothing is known of them.
    @inlinable
    public func check(_ slot: Int) -> UInt64 { offset(slot).map { bytes.load(at: $0 + 32, as: UInt64.self) ^ mask(slot) } ?? 0 }

    /// Nil: there is no such slot, or nothing is known of it.
    @inline(__always)
    func entry(_ slot: Int) -> PackEntry? {
        // It has integers alone; the bounds are checked.
        offset(slot).map { unsafe bytes.unsafeLoadUnaligned(fromByteOffset: $0, as: PackEntry.self) }
    }

    /// Where in the pack the stored bytes are. Nil: no such slot, or nothing is known of it.
    func range(_ slot: Int) -> Range<Int>? { entry(slot)?.range }

    /// The codec's number, which may be one that is not known here.
    @inlinable
    public func codec(_ slot: Int) -> UInt8 { place(slot).map { UInt8($0 >> 28) } ?? PackFormat.collected }

    /// Whether the blob's bytes were collected.
    @inlinable
    public func isCollected(_ slot: Int) -> Bool { codec(slot) == PackFormat.collected }
}

/// How many slots a pack has, and whether some have no entry, in one word.
@usableFromInline
struct PackShape: Equatable {
    /// 0: it was not looked at.
    @usableFromInline let word: Int

    @usableFromInline @inline(__always)
    init(word: Int) { self.word = word }
    init(slots: Int, isSparse: Bool) { word = slots | (isSparse ? 1 << 16 : 0) }

    @inlinable var slots: Int { @inline(__always) get { word & 0xffff } }
    @inlinable var isSparse: Bool { @inline(__always) get { word >= 1 << 16 } }
}
