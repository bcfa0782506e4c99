public import BlockModel
internal import Hashing
internal import LMDB

/// What a check found.
public struct CheckReport: Sendable {
    public internal(set) var packs = 0
    public internal(set) var blobs = 0
    public internal(set) var disks = 0
    public internal(set) var mappedBlocks: UInt64 = 0
    /// A line each, at most `limit` of them.
    public internal(set) var problems: [String] = []
    /// All problems, those beyond the limit too.
    public internal(set) var problemCount = 0
    /// Problems in what `repair` can make anew: index, counts and totals.
    var repairable = 0
    public internal(set) var isRepaired = false
    static let limit = 100

    mutating func add(_ problem: String, repairable isRepairable: Bool = false) {
        problemCount += 1
        if isRepairable { repairable += 1 }
        if problems.count < Self.limit { problems.append(problem) }
    }
}

extension Store {
    /// Recomputes everything that can be: directories of packs, maps, reference counts, index and totals, from one
    /// state of the store. Takes memory of about 8 bytes a blob.
    /// - Parameters:
    ///   - readData: read every blob and compare it with its digest; damaged ones are written down, so that the
    ///     next write of the same content heals them.
    ///   - repair: make counts, index and totals anew when they are wrong and the maps and packs are not.
    ///   - progress: called with steps done and steps to do.
    public func check(readData: Bool, repair: Bool, progress: (Int, Int) -> Void) throws(Failure) -> CheckReport {
        var report: CheckReport
        do {
            let reading = try ReadTransaction(meta)
            let packReading = try ReadTransaction(packs)
            var checker = Checker(store: self, meta: reading.view, packs: packReading.view)
            try checker.checkAll()
            report = checker.report
        }
        if readData { try checkData(&report, progress) }
        if repair, report.repairable > 0, report.repairable == report.problemCount {
            try rebuild()
            report.isRepaired = true
        }
        return report
    }

    /// Reads every blob, a short transaction a pack.
    private func checkData(_ report: inout CheckReport, _ progress: (Int, Int) -> Void) throws(Failure) {
        let reader = PackReader(hasher: try SHA256())
        var damaged: [BlobNumber] = []
        var number: UInt64 = 1
        var done = 0
        while true {
            let reading = try ReadTransaction(packs)
            var cursor = try reading.view.cursor(packTables.packs)
            guard try cursor.seek(atOrAfter: number), let found = cursor.integerKey else { break }
            number = found + 1
            done += 1
            guard let pack = PackView(cursor.value, number: found) else { continue }
            for slot in 0..<pack.slotCount where !pack.isCollected(slot) {
                if try !reader.holds(slot, of: pack) { damaged.append(BlobNumber(pack: found, slot: slot)) }
            }
            progress(done, report.packs)
        }
        for blob in damaged { report.add("blob \(blob): its data is not what was written") }
        try note(damaged: damaged)
        if !damaged.isEmpty { try nameVictims(Set(damaged), &report) }
    }

    /// Replaces the list of damaged blobs.
    private func note(damaged: [BlobNumber]) throws(Failure) {
        if isReadOnly { return }
        do {
            let reading = try ReadTransaction(meta)
            let known = try reading.view.count(tables.damaged)
            if damaged.isEmpty && known == 0 { return }
        }
        var transaction = try StoreTransaction.begin(self)
        try transaction.lmdb.clear(tables.damaged)
        for blob in damaged { try transaction.lmdb.put(tables.damaged, blob.rawValue, count: 0) { _ in } }
        try transaction.commit()
    }

    private func nameVictims(_ damaged: Set<BlobNumber>, _ report: inout CheckReport) throws(Failure) {
        let reading = try ReadTransaction(meta)
        for disk in try reading.view.disks(tables) {
            let map = MapReader(disk, reading.view, tables)
            var block: UInt64 = 0
            var victims: [UInt64] = []
            while block < map.blockCount {
                let leaf = try map.leaf(over: block)
                if !leaf.isEmpty { victims += (leaf.first..<leaf.end).filter { damaged.contains(leaf.blob($0)) } }
                block = leaf.end
            }
            if let first = victims.first {
                report.add("disk \(disk.name): \(victims.count) blocks have lost their data, the first at sector \(first * UInt64(sectorsPerBlock))")
            }
        }
    }

    /// Makes reference counts, index and totals anew from maps and packs, in one commit.
    private func rebuild() throws(Failure) {
        var transaction = try StoreTransaction.begin(self, rebuilding: true)
        let packReading = try ReadTransaction(packs)
        var counts: [UInt64: [UInt32]] = [:]
        var mapped: [DiskRecord] = []
        do {
            var checker = Checker(store: self, meta: transaction.lmdb.view, packs: packReading.view)
            try checker.checkPacks()
            mapped = try checker.checkMaps()
            counts = checker.counts
        }
        try transaction.lmdb.clear(tables.counts)
        try transaction.lmdb.clear(tables.changes)
        try transaction.lmdb.clear(tables.index)
        transaction.superblock.counted = .start
        transaction.superblock.indexed = .start
        transaction.superblock.merging = .start
        transaction.superblock.totals = BlobTotals()
        for disk in mapped { try transaction.putDisk(disk) }
        try transaction.adoptUnknownBlobs()
        invalidateFilter(transaction.superblock.storeID)
        while try !transaction.indexDirectories(limit: 1 << 20) {}
        for (pack, counts) in counts {
            for (slot, count) in counts.enumerated() where count > 0 {
                transaction.refer(to: BlobNumber(pack: pack, slot: slot), Int64(count))
            }
        }
        try transaction.commit()
    }
}

/// Reads blobs to compare them with their names.
private struct PackReader: ~Copyable {
    let hasher: SHA256
    let decompressor = Decompressor()

    init(hasher: consuming SHA256) { self.hasher = hasher }

    /// Whether the blob in `slot` hashes to its name.
    func holds(_ slot: Int, of pack: PackView) throws(Failure) -> Bool {
        guard let digest = pack.digest(slot) else { return false }
        var block = InlineArray<4096, UInt8>(repeating: 0)
        var room = block.mutableSpan
        var bytes = unsafe room.mutableBytes
        guard pack.copyBlock(slot, to: &bytes, at: 0, decompressor) else { return false }
        return try hasher.digest(bytes.bytes) == digest
    }
}

/// The check of one state of the store.
private struct Checker: ~Escapable {
    let store: Store
    let meta: View
    let packs: View
    var report = CheckReport()
    /// References counted from the maps, per pack and slot.
    var counts: [UInt64: [UInt32]] = [:]
    /// Slots whose blobs were collected.
    private var collected: Set<BlobNumber> = []
    private var nodes: Set<UInt64> = []

    @_lifetime(copy meta, copy packs)
    init(store: Store, meta: View, packs: View) {
        self.store = store
        self.meta = meta
        self.packs = packs
    }

    mutating func checkAll() throws(Failure) {
        try checkPacks()
        let disks = try checkMaps()
        for disk in disks {
            let recorded = try meta.disk(disk.name, store.tables)?.mappedBlocks ?? 0
            if recorded != disk.mappedBlocks {
                report.add("disk \(disk.name): \(disk.mappedBlocks) blocks are mapped, its record says \(recorded)", repairable: true)
            }
        }
        try checkCounts()
        try checkIndex()
        let damaged = try meta.count(store.tables.damaged)
        if damaged > 0 { report.add("\(damaged) blobs are known to be damaged: write their blocks again") }
    }

    mutating func checkPacks() throws(Failure) {
        var cursor = try packs.cursor(store.packTables.packs)
        var more = try cursor.first()
        while more {
            report.packs += 1
            let number = cursor.integerKey ?? 0
            if let pack = PackView(cursor.value, number: number), pack.isIntact(storeID: store.storeID.0) {
                counts[number] = [UInt32](repeating: 0, count: pack.slotCount)
                report.blobs += pack.slotCount
                for slot in 0..<pack.slotCount where pack.isCollected(slot) {
                    collected.insert(BlobNumber(pack: number, slot: slot))
                    report.blobs -= 1
                }
            } else {
                report.add("pack \(number): its directory is damaged")
            }
            more = try cursor.next()
        }
    }

    /// Walks every map. Returns the disks with the mapped blocks that were counted.
    mutating func checkMaps() throws(Failure) -> [DiskRecord] {
        var disks = try meta.disks(store.tables)
        for index in disks.indices {
            report.disks += 1
            var mapped: UInt64 = 0
            walk(disks[index].root, level: disks[index].height, base: 0, of: disks[index], &mapped)
            disks[index].mappedBlocks = mapped
            report.mappedBlocks += mapped
        }
        let stored = try meta.count(store.tables.nodes)
        // Nodes that are missing were reported where a map names them.
        if stored > nodes.count { report.add("\(stored - nodes.count) map nodes belong to no disk") }
        return disks
    }

    private mutating func walk(_ node: UInt64, level: Int, base: UInt64, of disk: DiskRecord, _ mapped: inout UInt64) {
        guard node != 0 else { return }
        guard nodes.insert(node).inserted else { return report.add("disk \(disk.name): map node \(node) appears twice") }
        let bytes: RawSpan
        do {
            bytes = try BlockMap.node(node, level: level, meta, store.tables)
        } catch {
            return report.add("disk \(disk.name): \(error)")
        }
        let span = BlockMap.entrySpan(level: level)
        for index in 0..<BlockMap.fanout {
            let entry = BlockMap.entry(bytes, index)
            guard entry != 0 else { continue }
            let first = base &+ UInt64(index) &* span
            if level > 0 {
                walk(entry, level: level - 1, base: first, of: disk, &mapped)
                continue
            }
            mapped += 1
            let blob = BlobNumber(rawValue: entry)
            if first &* UInt64(blockSize) >= disk.byteCount && !disk.isIncomplete { report.add("disk \(disk.name): block \(first) is mapped beyond its end") }
            if blob.slot < counts[blob.pack]?.count ?? 0, !collected.contains(blob) {
                counts[blob.pack]?[blob.slot] += 1
            } else {
                report.add("disk \(disk.name): block \(first) refers to blob \(blob), which is missing")
            }
        }
    }

    private mutating func checkCounts() throws(Failure) {
        let superblock = try Store.superblock(meta, store.tables.store, store.metaPath)
        var live: UInt64 = 0
        var dead: UInt64 = 0
        var deadBytes: UInt64 = 0
        var reader = CountReader(meta, store.tables)
        for (number, found) in counts.sorted(by: { $0.key < $1.key }) {
            // Slots that a writer left just before it died are not counted yet.
            let known = number < superblock.counted.pack ? found.count : number == superblock.counted.pack ? Int(superblock.counted.slots) : 0
            let pack = try PackView.find(number, in: packs, store.packTables.packs)
            for slot in 0..<min(known, found.count) {
                if found[slot] > 0 { live += 1 } else if !collected.contains(BlobNumber(pack: number, slot: slot)) {
                    dead += 1
                    if let pack { deadBytes += UInt64(pack.storedLength(slot)) }
                }
            }
            guard known > 0 else { continue }
            do throws(Failure) {
                let recorded = try reader.counts(ofPack: number)
                let isWhollyCollected = found.indices.allSatisfy { collected.contains(BlobNumber(pack: number, slot: $0)) }
                if recorded != Array(found[..<min(known, found.count)]), !(recorded == nil && isWhollyCollected) { report.add("pack \(number): its reference counts are wrong", repairable: true) }
            } catch {
                report.add("\(error)", repairable: true)
            }
        }
        let totals: BlobTotals
        do throws(Failure) {
            totals = superblock.totals + (try reader.totals(packs, store.packTables))
        } catch {
            return report.add("\(error)", repairable: true)
        }
        for (name, recorded, found) in [
            ("live blobs", totals.live, live), ("dead blobs", totals.dead, dead), ("dead bytes", totals.deadBytes, deadBytes),
        ] where recorded != found {
            report.add("\(name): \(found) found, \(recorded) recorded", repairable: true)
        }
    }

    /// Whether the blob is known to be damaged.
    private func isDamaged(_ blob: BlobNumber) throws(Failure) -> Bool { try meta.value(store.tables.damaged, blob.rawValue) != nil }

    private func digest(of blob: BlobNumber) throws(Failure) -> Digest? {
        guard let pack = try PackView.find(blob.pack, in: packs, store.packTables.packs) else { return nil }
        return pack.digest(blob.slot)
    }

    private mutating func checkIndex() throws(Failure) {
        let superblock = try Store.superblock(meta, store.tables.store, store.metaPath)
        var cursor = try meta.cursor(store.tables.index)
        var more = try cursor.first()
        var indexed = 0
        var previous: DigestIndex.Entry?
        while more, let key = cursor.integerKey {
            let count: Int
            do {
                count = try DigestIndex.entryCount(cursor.value, key: key)
            } catch {
                report.add("\(error)", repairable: true)
                more = try cursor.next()
                continue
            }
            for index in 0..<count {
                let entry = DigestIndex.Entry(cursor.value, at: DigestIndex.headerSize + index * DigestIndex.entrySize)
                if superblock.indexed.isBehind(entry.blob) { indexed += 1 }
                if entry.prefix < key { report.add("digest index: an entry for blob \(entry.blob) is in the wrong bucket", repairable: true) }
                if let previous, !(previous < entry) { report.add("digest index: entries for blobs \(previous.blob) and \(entry.blob) are out of order", repairable: true) }
                let digest = try digest(of: entry.blob)
                if digest.map({ $0.word0 >> 16 }) != entry.prefix { report.add("digest index: blob \(entry.blob) is not there, or has another name", repairable: true) }
                if let previous, previous.prefix == entry.prefix, digest != nil, try self.digest(of: previous.blob) == digest,
                    try !isDamaged(previous.blob), try !isDamaged(entry.blob)
                {
                    report.add("blobs \(previous.blob) and \(entry.blob) hold the same block")
                }
                previous = entry
            }
            more = try cursor.next()
        }
        var expected = 0
        var recent: [(digest: Digest, blob: BlobNumber)] = []
        for (number, found) in counts {
            // Whatever is collected is indexed no more; an interrupted collection is finished by the next writer.
            let known = number < superblock.indexed.pack ? found.count : number == superblock.indexed.pack ? min(found.count, Int(superblock.indexed.slots)) : 0
            expected += known
            for slot in known..<found.count {
                let blob = BlobNumber(pack: number, slot: slot)
                if collected.contains(blob) { expected += 1 } else if let digest = try digest(of: blob) { recent.append((digest, blob)) }
            }
        }
        expected -= collected.count
        if indexed != expected, superblock.collecting.0 == 0 { report.add("digest index: \(indexed) entries for \(expected) blobs", repairable: true) }
        try checkRecent(&recent)
    }

    /// Blobs that are not in the index yet: none of them is stored twice, or is in the index under another number.
    private mutating func checkRecent(_ recent: inout [(digest: Digest, blob: BlobNumber)]) throws(Failure) {
        recent.sort { $0.digest < $1.digest }
        var cursor = try meta.cursor(store.tables.index)
        var finder = PackFinder(packs, store.packTables.packs)
        for index in recent.indices {
            let (digest, blob) = recent[index]
            // One that was damaged for good was stored once more.
            if try isDamaged(blob) { continue }
            if index > 0, recent[index - 1].digest == digest, try !isDamaged(recent[index - 1].blob) { report.add("blobs \(recent[index - 1].blob) and \(blob) hold the same block") }
            do throws(Failure) {
                if let other = try DigestIndex.lookup(digest, &cursor, &finder), other != blob, try !isDamaged(other) { report.add("blobs \(other) and \(blob) hold the same block") }
            } catch {
                // A damaged bucket was reported.
            }
        }
    }
}
