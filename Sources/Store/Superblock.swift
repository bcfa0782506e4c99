internal import BlobModel
internal import Counts
internal import Index
internal import LMDB
internal import Packs
internal import System

/// What the store says of itself, and how far each of its parts is: the one record of table `store` of the environment `meta`.
///
///      0  header           48    see `FormatHeader`; of the features, bits 1 and up say which codecs blobs may have (`BlobCodec`)
///     48  next node        u64   number of the next map node
///     56  next disk        u64   number of the next disk
///     64  counted          2 × u64  pack and slots: every slot before this place has a reference count
///     80  live blobs       u64   blobs with a count above 0 in table `counts`
///     88  dead blobs       u64   blobs with a count of 0 there
///     96  dead bytes       u64   payload of the dead blobs, as stored
///    104  rewrites         u64   commits that made other versions of packs current, or forgot packs that are gone
///    112  indexed          2 × u64  pack and slots: every slot before this place is in the digest index
///    128  merging          2 × u64  what `indexed` becomes when the merge at work is done; 0: none is at work
///    144  merged           u64   the merge has done digests whose first word is less
///    152  codec            u32   of new blobs (`BlobCodec`)
///    156  past table       u32   random: the last commit that put blobs into the index past the table of recent ones
///    160  choices          u32   bit 0: what nothing refers to is left to `gc`; bit 1: guests' writes wait for room in a full store
///    164  codec of packs that are written anew   u32   (`BlobCodec`); 0: blobs stay as they are
///    168  recoded          u64   every pack before this number was written anew with that codec, or has nothing to gain by it
///    176  checksum         u64   XXH3-64 of bytes 0–175
struct Superblock: Equatable {
    static let byteCount = 184

    var header: FormatHeader
    var nextNode: UInt64 = 1
    var nextDisk: UInt64 = 1
    var counted = PackPlace.start
    var totals = BlobTotals()
    /// Commits that made other versions of packs current, or forgot packs: as long as this stays the same, no blob has gone.
    var rewrites: UInt64 = 0
    var index = IndexState()
    /// Of new blobs.
    private(set) var codec = BlobCodec.raw
    /// Of blobs in packs that are written anew; raw: as they are.
    private(set) var laterCodec = BlobCodec.raw
    private var choices = Choices()
    /// Packs before this one need not be written anew with `laterCodec`.
    var recoded: UInt64 = 0

    init(storeID: StoreID) { header = FormatHeader(storeID: storeID) }

    private struct Choices: OptionSet {
        let rawValue: UInt32
        static let unmaintained = Choices(rawValue: 1), waitsForRoom = Choices(rawValue: 2)
    }

    var isMaintained: Bool {
        get { !choices.contains(.unmaintained) }
        set { if newValue { choices.remove(.unmaintained) } else { choices.insert(.unmaintained) } }
    }

    var waitsForRoom: Bool {
        get { choices.contains(.waitsForRoom) }
        set { if newValue { choices.insert(.waitsForRoom) } else { choices.remove(.waitsForRoom) } }
    }

    /// From now on, new blobs are stored by that codec, and packs written anew with another one.
    mutating func use(_ codec: BlobCodec, later: BlobCodec = .raw) {
        if later != laterCodec { recoded = 0 }
        self.codec = codec
        laterCodec = later
        header.incompatibleFeatures |= codec.feature | later.feature
    }

    /// - Throws: as `FormatHeader.init` does.
    init(_ bytes: RawSpan, of path: String) throws(Failure) {
        header = try FormatHeader(bytes, of: path, byteCount: Self.byteCount, knownFeatures: BlobCodec.knownFeatures)
        nextNode = bytes.load(at: 48)
        nextDisk = bytes.load(at: 56)
        counted = PackPlace(pack: bytes.load(at: 64), slots: bytes.load(at: 72))
        totals = BlobTotals(live: bytes.load(at: 80), dead: bytes.load(at: 88), deadBytes: bytes.load(at: 96))
        rewrites = bytes.load(at: 104)
        index.indexed = PackPlace(pack: bytes.load(at: 112), slots: bytes.load(at: 120))
        index.merging = PackPlace(pack: bytes.load(at: 128), slots: bytes.load(at: 136))
        index.merged = bytes.load(at: 144)
        codec = try Self.codec(bytes.load(at: 152), path)
        choices = Choices(rawValue: bytes.load(at: 160))
        laterCodec = try Self.codec(bytes.load(at: 164), path)
        recoded = bytes.load(at: 168)
        index.pastTable = bytes.load(at: 156)
    }

    private static func codec(_ number: UInt32, _ path: String) throws(Failure) -> BlobCodec {
        guard let codec = BlobCodec(rawValue: UInt8(truncatingIfNeeded: number)), number <= UInt8.max else {
            throw Failure(.system, .file(path), "its blobs are stored by codec \(number), which this program does not know", remedy: "use a newer dedupdisk")
        }
        return codec
    }

    /// The record's bytes.
    var encoded: [UInt8] {
        header.record(byteCount: Self.byteCount) { bytes in
            bytes.store(nextNode, at: 48)
            bytes.store(nextDisk, at: 56)
            bytes.store(counted.pack, at: 64)
            bytes.store(counted.slots, at: 72)
            bytes.store(totals.live, at: 80)
            bytes.store(totals.dead, at: 88)
            bytes.store(totals.deadBytes, at: 96)
            bytes.store(rewrites, at: 104)
            bytes.store(index.indexed.pack, at: 112)
            bytes.store(index.indexed.slots, at: 120)
            bytes.store(index.merging.pack, at: 128)
            bytes.store(index.merging.slots, at: 136)
            bytes.store(index.merged, at: 144)
            bytes.store(UInt32(codec.rawValue), at: 152)
            bytes.store(index.pastTable, at: 156)
            bytes.store(choices.rawValue, at: 160)
            bytes.store(UInt32(laterCodec.rawValue), at: 164)
            bytes.store(recoded, at: 168)
        }
    }

    static func == (a: Superblock, b: Superblock) -> Bool { a.encoded == b.encoded }
}

/// Table `store` of the environment `meta`.
struct SuperblockTable: Sendable {
    private let table: Environment.Table
    /// For messages.
    private let path: String

    init(_ opening: inout TableOpening, _ path: String) throws(Failure) {
        table = try opening.table("store")
        self.path = path
    }

    func superblock(_ view: View) throws(Failure) -> Superblock {
        guard let bytes = try view.value(table, FormatHeader.key) else { throw FormatHeader.missing(path) }
        return try Superblock(bytes, of: path)
    }

    /// - Throws: when there is none, or one of another format, before any other table is opened.
    static func check(_ environment: Environment) throws(Failure) {
        guard let record = try environment.record(FormatHeader.key, inTable: "store") else { throw FormatHeader.missing(environment.path) }
        _ = try Superblock(record.rawBytes, of: environment.path)
    }

    func put(_ superblock: Superblock, _ lmdb: inout WriteTransaction) throws(Failure) {
        try lmdb.put(table, FormatHeader.key, superblock.encoded.rawBytes)
    }
}
