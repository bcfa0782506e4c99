internal import BlobModel
internal import BlockModel
internal import Catalogue
internal import Counts
internal import Index
internal import LMDB
internal import Maps
internal import Packs
internal import System

/// The check of one moment of the store (`StoreState`). What commits leave for later ones to finish is no damage.
///
/// Each table is walked once, in the order of its keys, and so is `packs`, whose directories alone are read. What table `index` has, in
/// the order of digests, is compared with what the directories have, in the order of packs, by sums over both: nothing is looked for
/// in an order that is not its own.
struct Checker: ~Escapable {
    let store: Store
    let meta: View
    var report = CheckReport()
    /// References counted from the maps, per pack and slot; `collected`: the slot's blob was collected.
    var counts: [UInt64: [UInt32]] = [:]
    static let collected = UInt32.max
    private var superblock: Superblock?
    /// Packs whose directories are damaged.
    private var damagedPacks: Set<UInt64> = []
    /// Blobs that table `damaged` names.
    private var damaged: Set<BlobNumber> = []
    /// Of all index entries that there should be, and how many.
    private var expected = Tally()
    /// What may be in the index or not: blobs behind its end.
    private var recent: [IndexEntry] = []

    @_lifetime(copy meta)
    init(store: Store, meta: View) {
        self.store = store
        self.meta = meta
    }

    @_lifetime(self: copy self)
    mutating func checkAll(_ packs: borrowing PackSnapshot) throws(Failure) {
        let superblock = try store.parts.superblock.superblock(meta)
        self.superblock = superblock
        try checkDamaged(packs)
        try checkVersions(packs)
        try checkPacks(packs)
        let disks = try checkMaps().disks
        for disk in disks {
            let recorded = try store.parts.catalogue.disk(disk.name, meta)?.map.mappedBlocks ?? 0
            if recorded != disk.map.mappedBlocks {
                report.add("disk \(disk.name): \(disk.map.mappedBlocks) blocks are mapped, its record says \(recorded)", repairable: true)
            }
        }
        try checkCounts(superblock, packs)
        try checkIndex(superblock, packs)
        if !damaged.isEmpty { report.add("\(damaged.count) blobs are known to be damaged: write their blocks again") }
    }

    /// A blob that is written down as damaged may have been healed before that, as the reader that found it looked at an older state.
    @_lifetime(self: copy self)
    private mutating func checkDamaged(_ packs: borrowing PackSnapshot) throws(Failure) {
        let verifier = try BlobVerifier()
        var finder = PackFinder(packs)
        for blob in try store.parts.damage.recorded(meta) {
            do throws(Failure) {
                let isDamaged = try verifier.isDamaged(blob, &finder)
                if isDamaged { damaged.insert(blob) }
            } catch where error.kind == .damage {
                // What says which version of its pack is current: told of the pack.
            }
        }
    }

    // MARK: Packs

    /// Each current version is there, and packs that are gone have no counts.
    @_lifetime(self: copy self)
    private mutating func checkVersions(_ packs: borrowing PackSnapshot) throws(Failure) {
        try store.parts.versions.forEach(meta) { (number, state) throws(Failure) in
            guard let state else { return report.add("pack \(number): what says which version of it is current is damaged") }
            if let current = state.current {
                let isThere = try packs.holds(PackVersion(number, current))
                if !isThere || current >= state.next { report.add("pack \(number): its version \(current) is missing") }
            } else if try store.parts.counts.has(number, meta) {
                report.add("pack \(number): it is gone, and there are reference counts of it", repairable: true)
            }
        }
    }

    @_lifetime(self: copy self)
    mutating func checkPacks(_ packs: borrowing PackSnapshot) throws(Failure) {
        try packs.forEachPack { (number, pack) throws(Failure) in
            report.packs += 1
            guard let pack else {
                noteDamaged(number)
                return true
            }
            if pack.slotCount > 184 { pack.expectDirectory() }
            if packs.isIntact(pack) { take(pack, number) } else { noteDamaged(number) }
            return true
        }
    }

    private mutating func noteDamaged(_ pack: UInt64) {
        damagedPacks.insert(pack)
        report.add("pack \(pack): its directory is damaged")
    }

    @_lifetime(self: copy self)
    private mutating func take(_ pack: PackView, _ number: UInt64) {
        var slots = [UInt32](repeating: 0, count: pack.slotCount)
        let indexed = superblock?.index.indexed ?? .start
        for slot in 0..<pack.slotCount {
            let blob = BlobNumber(pack: number, slot: slot)
            if pack.isCollected(slot) {
                slots[slot] = Self.collected
                continue
            }
            report.blobs += 1
            guard let digest = pack.digest(slot) else { continue }
            let entry = IndexEntry(digest, blob)
            if indexed.isBehind(blob) { expected.add(entry) } else { recent.append(entry) }
        }
        counts[number] = slots
    }

    // MARK: Maps

    /// Walks every map. Returns the disks, and snapshots, with the mapped blocks that were counted, and the nodes that several refer to.
    @_lifetime(self: copy self)
    mutating func checkMaps() throws(Failure) -> (disks: [DiskRecord], shared: [(node: UInt64, more: UInt32)]) {
        var disks = try store.parts.catalogue.disks(meta)
        var walk = MapWalk(store.parts.maps, meta)
        for index in disks.indices {
            let disk = disks[index], kind = disk.isSnapshot ? "snapshot" : "disk"
            if disk.isSnapshot { report.snapshots += 1 } else { report.disks += 1 }
            var problems: [String] = []
            let mapped = try walk.walk(disk.map) { block, blob in
                refer("block \(block)", blob, &problems)
            } problem: {
                problems.append($0)
            }
            if mapped.end > disk.blockCount && !disk.isIncomplete { problems.append("block \(mapped.end - 1) is mapped beyond its end") }
            for problem in problems { report.add("\(kind) \(disk.name): \(problem)") }
            disks[index].map.mappedBlocks = mapped.count
            report.mappedBlocks += mapped.count
        }
        var problems: [String] = []
        try walk.walkDetached {
            refer("a block", $0, &problems)
        } problem: {
            problems.append($0)
        }
        for problem in problems { report.add("what deleted disks have left: \(problem)") }
        // Nodes that are missing were reported where a map names them.
        let strangers = try walk.strangers()
        if strangers > 0 { report.add("\(strangers) map nodes belong to no disk") }
        problems = []
        try walk.checkReferences { problems.append($0) }
        for problem in problems { report.add(problem, repairable: true) }
        return (disks, walk.shared())
    }

    /// A block is mapped to a blob.
    private mutating func refer(_ block: @autoclosure () -> String, _ blob: BlobNumber, _ problems: inout [String]) {
        if let count = counts[blob.pack].flatMap({ blob.slot < $0.count ? $0[blob.slot] : nil }), count < Self.collected {
            // 2^32 − 2 is as many as a count says.
            counts[blob.pack]?[blob.slot] = min(count + 1, Self.collected - 1)
        } else {
            problems.append("\(block()) refers to blob \(blob), which is missing")
        }
    }

    // MARK: Counts

    @_lifetime(self: copy self)
    private mutating func checkCounts(_ superblock: Superblock, _ packs: borrowing PackSnapshot) throws(Failure) {
        // Of table `counts` alone, as the superblock's are.
        var totals = BlobTotals()
        var isComplete = true
        var walk = store.parts.counts.walk(meta)
        var recordedDead = try deadRecords()
        for (number, found) in counts.sorted(by: { $0.key < $1.key }) {
            // Slots that a writer left just before it died are not counted yet.
            let known = number < superblock.counted.pack ? found.count : number == superblock.counted.pack ? min(found.count, Int(superblock.counted.slots)) : 0
            guard known > 0 else { continue }
            do throws(Failure) {
                let recorded = try walk.counts(ofPack: number)
                let references = found[..<known].map { $0 == Self.collected ? 0 : $0 }
                if recorded?.now != references { report.add("pack \(number): its reference counts are wrong", repairable: true) }
                let settled = recorded?.settled ?? []
                let dead = try deadBlobs(ofPack: number, settled, found[..<known], packs)
                if recordedDead.removeValue(forKey: number) != dead { report.add("pack \(number): its dead blobs are counted wrong", repairable: true) }
                totals =
                    totals
                    + BlobTotals(
                        live: UInt64(settled.count { $0 > 0 }), dead: UInt64(dead?.blobs ?? 0), deadBytes: UInt64(dead?.bytes ?? 0))
            } catch {
                report.add("\(error)", repairable: true)
                isComplete = false
            }
        }
        for number in recordedDead.keys.sorted() { report.add("pack \(number): it has no dead blobs, but a record of some", repairable: true) }
        do throws(Failure) {
            for number in try walk.finish() { report.add("pack \(number): changes of its reference counts are deferred, and it has none", repairable: true) }
        } catch {
            report.add("\(error)", repairable: true)
        }
        // What counts can't be read of adds up to nothing.
        if isComplete { checkTotals(superblock.totals, totals) }
    }

    /// What is recorded of packs with dead blobs.
    @_lifetime(self: copy self)
    private mutating func deadRecords() throws(Failure) -> [UInt64: DeadBlobs] {
        var records: [UInt64: DeadBlobs] = [:]
        do throws(Failure) {
            try store.parts.counts.forEachPackWithDead(meta) { (number, dead) throws(Failure) in
                records[number] = dead
                return true
            }
        } catch {
            report.add("\(error)", repairable: true)
        }
        return records
    }

    /// The dead blobs of a pack by its counts in table `counts`. Nil: it has none.
    private func deadBlobs(
        ofPack number: UInt64, _ settled: [UInt32], _ found: ArraySlice<UInt32>, _ packs: borrowing PackSnapshot
    ) throws(Failure) -> DeadBlobs? {
        let dead = found.indices.filter { $0 < settled.count && settled[$0] == 0 && found[$0] != Self.collected }
        guard !dead.isEmpty, let pack = try packs.pack(number) else { return nil }
        pack.expectDirectory()
        return DeadBlobs(blobs: UInt32(dead.count), bytes: UInt32(dead.reduce(0) { $0 + pack.storedLength($1) }))
    }

    private mutating func checkTotals(_ recorded: BlobTotals, _ found: BlobTotals) {
        for (name, recorded, found) in [
            ("live blobs", recorded.live, found.live), ("dead blobs", recorded.dead, found.dead), ("dead bytes", recorded.deadBytes, found.deadBytes),
        ] where recorded != found {
            report.add("\(name): \(found) found, \(recorded) recorded", repairable: true)
        }
    }

    // MARK: Index

    /// The digest of a blob that is there.
    private func digest(of blob: BlobNumber, _ packs: borrowing PackSnapshot) throws(Failure) -> Digest? {
        // What a damaged pack says is nothing to go by, and of its versions it may not be known which is current.
        guard !damagedPacks.contains(blob.pack), let pack = try packs.pack(blob.pack), !pack.isCollected(blob.slot) else { return nil }
        pack.expectDirectory()
        return pack.digest(blob.slot)
    }

    private func isLive(_ blob: BlobNumber) -> Bool {
        guard let counts = counts[blob.pack], blob.slot < counts.count else { return false }
        return counts[blob.slot] > 0 && counts[blob.slot] < Self.collected
    }

    /// Whether two blobs whose digests begin alike are the same block, undamaged and referred to, which must not be. Of what two writers stored
    /// at the same moment, nothing refers to one.
    private func areDuplicates(_ a: BlobNumber, _ b: BlobNumber, _ packs: borrowing PackSnapshot) throws(Failure) -> Bool {
        guard a != b, isLive(a), isLive(b), !damaged.contains(a), !damaged.contains(b), let digest = try digest(of: a, packs) else { return false }
        return try digest == self.digest(of: b, packs)
    }

    /// Walks the index, and the recent blobs beside it, in the order of digests. None is there twice, and all that are behind the
    /// index's end are in it.
    @_lifetime(self: copy self)
    private mutating func checkIndex(_ superblock: Superblock, _ packs: borrowing PackSnapshot) throws(Failure) {
        recent.sort()
        for index in recent.indices.dropFirst() where recent[index].prefix == recent[index - 1].prefix {
            let (a, b) = (recent[index - 1].blob, recent[index].blob)
            if try areDuplicates(a, b, packs) { report.add("blobs \(a) and \(b) hold the same block") }
        }
        let indexed = superblock.index.indexed
        var found = Tally()
        var strangers: [IndexEntry] = []
        var next = 0
        var previous: IndexEntry?
        var damagedBuckets: [Failure] = []
        try store.parts.index.forEachBucket(meta, damaged: { damagedBuckets.append($0) }) { (entry, key) throws(Failure) in
            try checkOrder(entry, behind: previous, key, packs)
            previous = entry
            while next < recent.count, recent[next].prefix < entry.prefix { next += 1 }
            if indexed.isBehind(entry.blob) { found.add(entry) }
            try compare(entry, withRecentFrom: next, isRecent: !indexed.isBehind(entry.blob), packs, &strangers)
            return true
        }
        for failure in damagedBuckets { report.add("\(failure)", repairable: true) }
        let isDamaged = !damagedBuckets.isEmpty
        for entry in strangers { report.add("digest index: blob \(entry.blob) is not there, or has another name", repairable: true) }
        if found != expected, !isDamaged || found.count > expected.count {
            try nameStrangers(superblock, packs)
            report.add(
                "digest index: \(found.count) entries for \(expected.count) blobs\(found.count == expected.count ? ", and not theirs" : "")", repairable: true)
        }
    }

    @_lifetime(self: copy self)
    private mutating func checkOrder(
        _ entry: IndexEntry, behind previous: IndexEntry?, _ key: UInt64, _ packs: borrowing PackSnapshot
    ) throws(Failure) {
        if entry.prefix < key { report.add("digest index: an entry for blob \(entry.blob) is in the wrong bucket", repairable: true) }
        guard let previous else { return }
        if !(previous < entry) { report.add("digest index: entries for blobs \(previous.blob) and \(entry.blob) are out of order", repairable: true) }
        // One in 2^48 pairs, but for what should not be.
        if previous.prefix == entry.prefix, try areDuplicates(previous.blob, entry.blob, packs) {
            report.add("blobs \(previous.blob) and \(entry.blob) hold the same block")
        }
    }

    /// - Parameters:
    ///   - start: the first recent blob that does not come before the entry.
    ///   - isRecent: the entry is of a blob behind the index's end, and has to be among the recent ones.
    @_lifetime(self: copy self)
    private mutating func compare(
        _ entry: IndexEntry, withRecentFrom start: Int, isRecent: Bool, _ packs: borrowing PackSnapshot, _ strangers: inout [IndexEntry]
    ) throws(Failure) {
        var isThere = false
        var place = start
        while place < recent.count, recent[place].prefix == entry.prefix {
            if recent[place].blob == entry.blob {
                isThere = true
            } else if try areDuplicates(recent[place].blob, entry.blob, packs) {
                // Two recent ones were compared with each other.
                if !isRecent { report.add("blobs \(entry.blob) and \(recent[place].blob) hold the same block") }
            }
            place += 1
        }
        if isRecent, !isThere, strangers.count <= CheckReport.limit { strangers.append(entry) }
    }

    /// Says which entries are wrong, now that some are: a look at a pack for each, in the order of digests.
    @_lifetime(self: copy self)
    private mutating func nameStrangers(_ superblock: Superblock, _ packs: borrowing PackSnapshot) throws(Failure) {
        var named = 0
        // What is damaged was reported.
        try store.parts.index.forEachBucket(meta, damaged: { _ in }) { (entry, _) throws(Failure) in
            // Of a damaged pack it was told; what it has is not known.
            guard superblock.index.indexed.isBehind(entry.blob), !damagedPacks.contains(entry.blob.pack),
                try digest(of: entry.blob, packs).map({ $0.word0 >> 16 }) != entry.prefix
            else { return true }
            named += 1
            report.add("digest index: blob \(entry.blob) is not there, or has another name", repairable: true)
            return named < CheckReport.limit
        }
    }
}

/// A set of index entries, as far as one tells it from another: how many they are, and a sum over all that takes no order.
private struct Tally: Equatable {
    private(set) var count = 0
    private var sum: UInt64 = 0
    /// Nobody who chooses data can choose what they sum up to.
    private static let seeds = (UInt64.random(in: 1 ... .max) | 1, UInt64.random(in: .min ... .max))

    mutating func add(_ entry: IndexEntry) {
        count += 1
        let word = (entry.prefix << 16 | entry.blob.rawValue >> 32) ^ Self.seeds.1
        let first = word.multipliedFullWidth(by: Self.seeds.0)
        let second = (first.high ^ first.low ^ entry.blob.rawValue &* 0x9e37_79b9_7f4a_7c15).multipliedFullWidth(by: Self.seeds.0 ^ 0xd1b5_4a32_d192_ed03 | 1)
        sum &+= second.high ^ second.low
    }
}
