internal import BlockModel
internal import Hashing

/// The store's own record, one in each environment; the one in `meta` carries the totals.
///
///      0  magic            u64   "DEDUPDSK"
///      8  version          u32   1
///     12  block size       u32   4096
///     16  features a reader must know to open the store      u64
///     24  features a reader may ignore                       u64
///     32  store id         2 × u64, random
///     48  next node        u64   number of the next map node
///     56  next disk        u64   number of the next disk
///     64  indexed pack     u64   ┐ every slot before this place is in the digest
///     72  indexed slots    u64   ┘ index and has a reference count
///     80  live blobs       u64   blobs with a reference count above 0
///     88  dead blobs       u64   blobs with a reference count of 0
///     96  dead bytes       u64   payload of the dead blobs, as stored
///    104  collecting       2 × u64  first and last pack that a collection is at work on; 0: none
///    120  checksum         u64   XXH3-64 of bytes 0–119
///
/// All integers of the store are little-endian, except in keys, which are big-endian so that they sort.
struct Superblock: Equatable {
    static let byteCount = 128
    static let magic: UInt64 = 0x4b53_4450_5544_4544  // "DEDUPDSK", read as a little-endian number
    static let version: UInt32 = 1
    /// The one key of table `store`.
    static let key = "superblock"

    var incompatibleFeatures: UInt64 = 0
    var compatibleFeatures: UInt64 = 0
    var storeID: (UInt64, UInt64)
    var nextNode: UInt64 = 1
    var nextDisk: UInt64 = 1
    var indexedPack: UInt64 = 0
    var indexedSlots: UInt64 = 0
    var liveBlobs: UInt64 = 0
    var deadBlobs: UInt64 = 0
    var deadBytes: UInt64 = 0
    var collecting: (UInt64, UInt64) = (0, 0)

    init(storeID: (UInt64, UInt64)) { self.storeID = storeID }

    /// - Throws: `.damage` when it is not a superblock, or one of a version or with features that are not known here.
    init(_ bytes: RawSpan, of path: String) throws(Failure) {
        guard bytes.byteCount >= 12, bytes.load(at: 0, as: UInt64.self) == Self.magic else {
            throw Failure(.damage, path, "not a dedupdisk store", remedy: "name the directory of a store with --store")
        }
        let version: UInt32 = bytes.load(at: 8)
        guard version == Self.version else {
            throw Failure(.damage, path, "a store of format \(version), this program knows \(Self.version)", remedy: "use a newer dedupdisk")
        }
        guard bytes.byteCount == Self.byteCount,
            bytes.load(at: 120, as: UInt64.self) == checksum(bytes.extracting(0..<120)),
            bytes.load(at: 12, as: UInt32.self) == UInt32(blockSize)
        else {
            throw Failure(.damage, path, "its superblock is damaged", remedy: "restore the store from a copy")
        }
        incompatibleFeatures = bytes.load(at: 16)
        guard incompatibleFeatures == 0 else {
            throw Failure(.damage, path, "it uses features \(incompatibleFeatures) that this program does not know", remedy: "use a newer dedupdisk")
        }
        compatibleFeatures = bytes.load(at: 24)
        storeID = (bytes.load(at: 32), bytes.load(at: 40))
        nextNode = bytes.load(at: 48)
        nextDisk = bytes.load(at: 56)
        indexedPack = bytes.load(at: 64)
        indexedSlots = bytes.load(at: 72)
        liveBlobs = bytes.load(at: 80)
        deadBlobs = bytes.load(at: 88)
        deadBytes = bytes.load(at: 96)
        collecting = (bytes.load(at: 104), bytes.load(at: 112))
    }

    /// The record's bytes.
    var encoded: [UInt8] {
        [UInt8](count: Self.byteCount) { bytes in
            bytes.store(Self.magic, at: 0)
            bytes.store(Self.version, at: 8)
            bytes.store(UInt32(blockSize), at: 12)
            bytes.store(incompatibleFeatures, at: 16)
            bytes.store(compatibleFeatures, at: 24)
            bytes.store(storeID.0, at: 32)
            bytes.store(storeID.1, at: 40)
            bytes.store(nextNode, at: 48)
            bytes.store(nextDisk, at: 56)
            bytes.store(indexedPack, at: 64)
            bytes.store(indexedSlots, at: 72)
            bytes.store(liveBlobs, at: 80)
            bytes.store(deadBlobs, at: 88)
            bytes.store(deadBytes, at: 96)
            bytes.store(collecting.0, at: 104)
            bytes.store(collecting.1, at: 112)
            bytes.store(checksum(bytes.bytes.extracting(0..<120)), at: 120)
        }
    }

    static func == (a: Superblock, b: Superblock) -> Bool { a.encoded == b.encoded }
}
