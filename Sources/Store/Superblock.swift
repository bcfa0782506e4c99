internal import BlockModel
internal import Hashing

/// The store's own record, one in each environment; the one in `meta` carries the totals.
///
///      0  magic            u64   "DEDUPDSK"
///      8  version          u32   3
///     12  block size       u32   4096
///     16  features a reader must know to open the store      u64
///     24  features a reader may ignore                       u64
///     32  store id         2 × u64, random
///     48  next node        u64   number of the next map node
///     56  next disk        u64   number of the next disk
///     64  counted          2 × u64  pack and slots: every slot before this place has a reference count
///     80  live blobs       u64   blobs with a count above 0 in table `counts`
///     88  dead blobs       u64   blobs with a count of 0 there
///     96  dead bytes       u64   payload of the dead blobs, as stored
///    104  collecting       2 × u64  first and last pack that a collection is at work on; 0: none
///    120  indexed          2 × u64  pack and slots: every slot before this place is in the digest index
///    136  merging          2 × u64  what `indexed` becomes when the merge at work is done; 0: none is
///    152  merged           u64   the merge has done digests whose first word is less
///    160  compression      u32   codec of new blobs: 0 none, 1 LZ4, 2 Zstandard
///    164  past table       u32   random: the last commit that put blobs into the index past the table of recent ones
///    168  checksum         u64   XXH3-64 of bytes 0–167
///
/// All integers of the store are little-endian, except in keys, which are big-endian so that they sort.
struct Superblock: Equatable {
    static let byteCount = 176
    static let magic: UInt64 = 0x4b53_4450_5544_4544  // "DEDUPDSK", read as a little-endian number
    static let version: UInt32 = 3
    /// The one key of table `store`.
    static let key = "superblock"

    var incompatibleFeatures: UInt64 = 0
    var compatibleFeatures: UInt64 = 0
    var storeID: (UInt64, UInt64)
    var nextNode: UInt64 = 1
    var nextDisk: UInt64 = 1
    var counted = PackPlace.start
    var totals = BlobTotals()
    var collecting: (UInt64, UInt64) = (0, 0)
    var indexed = PackPlace.start
    var merging = PackPlace.start
    var merged: UInt64 = 0
    var compression = Compression.none
    var pastTable: UInt32 = 0

    init(storeID: (UInt64, UInt64)) { self.storeID = storeID }

    /// - Throws: `.damage` when it is not a superblock; `.system` when it is one of a version or with features that are not known here.
    init(_ bytes: RawSpan, of path: String) throws(Failure) {
        guard bytes.byteCount >= 12, bytes.load(at: 0, as: UInt64.self) == Self.magic else {
            throw Failure(.damage, path, "not a dedupdisk store", remedy: "name the directory of a store with --store")
        }
        // Of every version, the last word is the checksum of what is before it: what another one says of itself can be believed.
        let end = bytes.byteCount - 8
        let isIntact = end >= 16 && bytes.load(at: end, as: UInt64.self) == checksum(bytes.extracting(0..<end))
        let version: UInt32 = bytes.load(at: 8)
        guard !isIntact || version == Self.version else {
            throw Failure(.system, path, "a store of format \(version), this program knows \(Self.version)",
                remedy: version > Self.version ? "use a newer dedupdisk" : "export its disks with the program that made it")
        }
        guard isIntact, bytes.byteCount == Self.byteCount, bytes.load(at: 12, as: UInt32.self) == UInt32(blockSize),
            let compression = Compression(rawValue: bytes.load(at: 160))
        else {
            throw Failure(.damage, path, "its superblock is damaged", remedy: "restore the store from a copy")
        }
        incompatibleFeatures = bytes.load(at: 16)
        guard incompatibleFeatures == 0 else {
            throw Failure(.system, path, "it uses features \(incompatibleFeatures) that this program does not know", remedy: "use a newer dedupdisk")
        }
        compatibleFeatures = bytes.load(at: 24)
        storeID = (bytes.load(at: 32), bytes.load(at: 40))
        nextNode = bytes.load(at: 48)
        nextDisk = bytes.load(at: 56)
        counted = PackPlace(pack: bytes.load(at: 64), slots: bytes.load(at: 72))
        totals = BlobTotals(live: bytes.load(at: 80), dead: bytes.load(at: 88), deadBytes: bytes.load(at: 96))
        collecting = (bytes.load(at: 104), bytes.load(at: 112))
        indexed = PackPlace(pack: bytes.load(at: 120), slots: bytes.load(at: 128))
        merging = PackPlace(pack: bytes.load(at: 136), slots: bytes.load(at: 144))
        merged = bytes.load(at: 152)
        self.compression = compression
        pastTable = bytes.load(at: 164)
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
            bytes.store(counted.pack, at: 64)
            bytes.store(counted.slots, at: 72)
            bytes.store(totals.live, at: 80)
            bytes.store(totals.dead, at: 88)
            bytes.store(totals.deadBytes, at: 96)
            bytes.store(collecting.0, at: 104)
            bytes.store(collecting.1, at: 112)
            bytes.store(indexed.pack, at: 120)
            bytes.store(indexed.slots, at: 128)
            bytes.store(merging.pack, at: 136)
            bytes.store(merging.slots, at: 144)
            bytes.store(merged, at: 152)
            bytes.store(compression.rawValue, at: 160)
            bytes.store(pastTable, at: 164)
            bytes.store(checksum(bytes.bytes.extracting(0..<168)), at: 168)
        }
    }

    static func == (a: Superblock, b: Superblock) -> Bool { a.encoded == b.encoded }
}

/// How many blobs there are, and what the dead ones take. Sums that wrap: what one adds another may have taken before.
struct BlobTotals: Equatable {
    var live: UInt64 = 0
    var dead: UInt64 = 0
    /// As stored.
    var deadBytes: UInt64 = 0

    /// A blob of `bytes` stored bytes is there now, and nothing refers to it.
    mutating func add(bytes: Int) {
        dead &+= 1
        deadBytes &+= UInt64(bytes)
    }

    /// A dead blob of `bytes` stored bytes is gone.
    mutating func remove(bytes: Int) {
        dead &-= 1
        deadBytes &-= UInt64(bytes)
    }

    /// A blob of `bytes` stored bytes has another count.
    mutating func count(from old: UInt32, to new: UInt32, bytes: Int) {
        if old == 0, new > 0 {
            live &+= 1
            remove(bytes: bytes)
        } else if old > 0, new == 0 {
            live &-= 1
            add(bytes: bytes)
        }
    }

    static func + (a: BlobTotals, b: BlobTotals) -> BlobTotals {
        BlobTotals(live: a.live &+ b.live, dead: a.dead &+ b.dead, deadBytes: a.deadBytes &+ b.deadBytes)
    }
}

/// A place in the order in which blobs are stored: before the slot that `pack` and `slots` name.
struct PackPlace: Equatable, Comparable {
    var pack, slots: UInt64
    static let start = PackPlace(pack: 0, slots: 0)
    static func < (a: PackPlace, b: PackPlace) -> Bool { a.pack != b.pack ? a.pack < b.pack : a.slots < b.slots }
    /// Whether the blob is stored before this place.
    func isBehind(_ blob: BlobNumber) -> Bool { blob.pack != pack ? blob.pack < pack : UInt64(blob.slot) < slots }
}
