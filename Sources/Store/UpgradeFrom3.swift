internal import BlobModel
internal import Catalogue
internal import Counts
internal import Glibc
internal import Index
internal import LMDB
internal import Packs
internal import System

/// From format 3 to format 4.
///
/// 1. The packs are moved to their new keys, some at a time (`PackUpgrade`). That writes each once more, and takes the room of three such commits, which
///    is given back.
/// 2. Tables that are new are made, empty, in `meta`.
/// 3. Where a collection of format 3 was interrupted, what it has collected is taken out of the index, some at a time, as the next writer of that format
///    would have done.
/// 4. One commit of `meta` makes table `dead` and the totals from the counts, says of the packs that have nothing left that they are gone, writes the
///    disks' records anew, and is the first with a superblock of format 4.
/// 5. The superblock of `packs` becomes one of format 4.
///
/// Nodes of maps, counts, what of them is deferred, index and journals are the same in both.
struct UpgradeFrom3 {
    private let upgrade: Upgrade
    private let path: String
    private let packs: PackUpgrade
    private let meta: Environment

    /// Packs, and entries of the index, in one commit.
    private static let mostPacks = 32, mostEntries = 1 << 13
    /// Each on a page of its own, and one above it: half of the reserve.
    private static let fewestEntries = 48

    /// - Throws: `.damage` when the environments are not what they were, or not of one store, before anything is changed.
    init(_ upgrade: Upgrade) throws(Failure) {
        self.upgrade = upgrade
        path = upgrade.directory.path
        meta = try Store.openMeta(path, upgrade.lockFile, creating: false, isAlone: true)
        let record = try Self.record(meta)
        let storeID = try record.isUpgraded ? record.upgraded().header.storeID : SuperblockOfFormat3(record).superblock.header.storeID
        guard let packs = try PackUpgrade(path: path + "/packs", number: 1, upgrade.lockFile, of: storeID) else { throw Store.stranger(path) }
        self.packs = packs
    }

    /// The superblock of `meta`.
    private static func record(_ meta: Environment) throws(Failure) -> SuperblockRecord {
        guard let record = try meta.record(FormatHeader.key, inTable: "store") else { throw FormatHeader.missing(meta.path) }
        return SuperblockRecord(bytes: record, path: meta.path)
    }

    func run() throws(Failure) {
        var size = StepSize(least: 1, most: Self.mostPacks)
        while try upgrade.part(&size, giveBack, { (count) throws(Failure) in try packs.move(packs: count) }) {}
        giveBack()
        try changeMeta()
        try packs.finish(behind: Self.record(meta).upgraded().last)
        giveBack()
    }

    /// Gives what is free in both environments back to the filesystem.
    private func giveBack() {
        // What can't be given back now is later.
        try? packs.giveBack()
        try? meta.trim()
    }

    // MARK: Meta

    private func changeMeta() throws(Failure) {
        let record = try Self.record(meta)
        // Done before, by one who was killed.
        if record.isUpgraded { return }
        let old = try SuperblockOfFormat3(record)
        try refuseMissingTables()
        // It can be made anew, and has blobs that were collected.
        for file in ["/filter", "/filter.new"] where unsafe unlink(path + file) != 0 && errno != ENOENT {
            throw Failure(systemCall: "remove", .file(path + file), errno: errno)
        }
        let parts = try Store.Parts(of: meta, in: path, packs.storeID, upgrade.reserve.reporter, creating: true)
        if let range = old.collecting { try finishCollecting(range, parts) }
        try commit(old, parts)
    }

    /// They are made where they are missing, which must not hide that one is lost.
    private func refuseMissingTables() throws(Failure) {
        var opening = try TableOpening(meta, creating: false)
        for name: StaticString in ["store", "disks", "nodes", "counts", "changes", "index", "damaged"] { _ = try opening.table(name) }
        try opening.finish()
    }

    private func snapshot(_ parts: Store.Parts) throws(Failure) -> PackSnapshot { try packs.snapshot(CommittedVersions(parts.versions, meta)) }

    /// Takes what was collected of these packs out of the index.
    private func finishCollecting(_ range: ClosedRange<UInt64>, _ parts: Store.Parts) throws(Failure) {
        var size = StepSize(least: Self.fewestEntries, most: Self.mostEntries)
        var place: BlobNumber? = BlobNumber(pack: range.lowerBound, slot: 0)
        do throws(Failure) {
            while let first = place {
                place = try upgrade.part(&size, giveBack) { (limit) throws(Failure) in try takeOut(from: first, through: range.upperBound, limit, parts) }
            }
        } catch where error.kind == .damage {
            // Entries that are left are hints like others, and a check tells of them.
        }
    }

    /// - Returns: the blob to go on from; nil: these were all.
    private func takeOut(from first: BlobNumber, through last: UInt64, _ limit: Int, _ parts: Store.Parts) throws(Failure) -> BlobNumber? {
        var entries: [IndexEntry] = []
        var next: BlobNumber?
        do {
            let snapshot = try snapshot(parts)
            try snapshot.forEachPack(from: first.pack) { (number, pack) throws(Failure) in
                guard number <= last else { return false }
                guard let pack, snapshot.isIntact(pack) else { return true }
                for slot in (number == first.pack ? min(first.slot, pack.slotCount) : 0)..<pack.slotCount where pack.isCollected(slot) {
                    let blob = BlobNumber(pack: number, slot: slot)
                    guard entries.count < limit else {
                        next = blob
                        return false
                    }
                    if let digest = pack.digest(slot) { entries.append(IndexEntry(digest, blob)) }
                }
                return true
            }
        }
        var writing = try WriteTransaction(meta)
        _ = try parts.index.remove(entries.sorted(), &writing)
        try parts.damage.remove(entries.map(\.blob), &writing)
        try writing.commit()
        return next
    }

    /// The commit that makes `meta` one of format 4.
    private func commit(_ old: SuperblockOfFormat3, _ parts: Store.Parts) throws(Failure) {
        var size = StepSize(least: 1, most: 1)
        try upgrade.part(&size, giveBack) { (_) throws(Failure) in
            var superblock = old.superblock
            superblock.header.incompatibleFeatures |= try packs.codecs()
            let snapshot = try snapshot(parts)
            var writing = try WriteTransaction(meta)
            let gone = try packs.gone()
            for number in gone {
                try parts.versions.put(VersionState(current: nil, next: 1), of: number, &writing)
                try parts.counts.remove(pack: number, &writing)
            }
            // As long as there are none, nobody asks whether a pack is there.
            if !gone.isEmpty { superblock.rewrites = 1 }
            superblock.totals = try parts.counts.recountDead(&writing) { (number) throws(Failure) in try lengths(ofPack: number, snapshot) }
            try parts.catalogue.upgradeFrom3(&writing)
            try parts.superblock.put(superblock, &writing)
            try writing.commit()
        }
    }

    private func lengths(ofPack number: UInt64, _ packs: borrowing PackSnapshot) throws(Failure) -> [UInt16?]? {
        guard let pack = try packs.pack(number) else { return nil }
        pack.expectDirectory()
        return (0..<pack.slotCount).map { pack.isCollected($0) ? nil : UInt16(pack.storedLength($0)) }
    }
}

/// The superblock of `meta` in format 3:
///
///      0  header           48    see `FormatHeader`; version 3, no features
///     48  next node        u64
///     56  next disk        u64
///     64  counted          2 × u64
///     80  live blobs       u64
///     88  dead blobs       u64
///     96  dead bytes       u64
///    104  collecting       2 × u64  first and last pack that a collection is at work on; 0: none
///    120  indexed          2 × u64
///    136  merging          2 × u64
///    152  merged           u64
///    160  compression      u32   codec of new blobs
///    164  past table       u32
///    168  checksum         u64
private struct SuperblockOfFormat3 {
    /// What it is in format 4, but for its totals and what it says of codecs.
    private(set) var superblock: Superblock
    private(set) var collecting: ClosedRange<UInt64>?

    static let byteCount = 176
    static let version: UInt32 = 3

    init(_ record: SuperblockRecord) throws(Failure) {
        let bytes = record.bytes.rawBytes
        let header = try FormatHeader(bytes, of: record.path, version: Self.version, byteCount: Self.byteCount, knownFeatures: 0)
        superblock = Superblock(storeID: header.storeID)
        superblock.header.compatibleFeatures = header.compatibleFeatures
        superblock.nextNode = bytes.load(at: 48)
        superblock.nextDisk = bytes.load(at: 56)
        superblock.counted = PackPlace(pack: bytes.load(at: 64), slots: bytes.load(at: 72))
        let (first, last): (UInt64, UInt64) = (bytes.load(at: 104), bytes.load(at: 112))
        collecting = first > 0 && first <= last ? first...last : nil
        superblock.index.indexed = PackPlace(pack: bytes.load(at: 120), slots: bytes.load(at: 128))
        superblock.index.merging = PackPlace(pack: bytes.load(at: 136), slots: bytes.load(at: 144))
        superblock.index.merged = bytes.load(at: 152)
        let number: UInt32 = bytes.load(at: 160)
        guard number <= UInt8.max, let codec = BlobCodec(rawValue: UInt8(truncatingIfNeeded: number)) else {
            throw Failure(.damage, .file(record.path), "its superblock is damaged", remedy: "restore the store from a copy")
        }
        superblock.use(codec)
        superblock.index.pastTable = bytes.load(at: 164)
    }
}

/// The superblock of `meta`, of either format.
private struct SuperblockRecord {
    let bytes: [UInt8]
    /// Whose it is, for messages.
    let path: String

    var isUpgraded: Bool { FormatHeader.intactVersion(of: bytes.rawBytes) == FormatHeader.version }
    func upgraded() throws(Failure) -> Superblock { try Superblock(bytes.rawBytes, of: path) }
}

extension Superblock {
    /// The last place that it refers to.
    fileprivate var last: PackPlace { max(counted, index.indexed, index.merging) }
}
