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
    /// state of the store, whatever others do meanwhile. Takes memory of about 8 bytes a blob. Directories and tables are read once,
    /// in the order in which they lie there.
    /// - Parameters:
    ///   - readData: read every blob and compare it with its digest; damaged ones are written down, so that the
    ///     next write of the same content heals them.
    ///   - repair: make counts, index and totals anew when they are wrong and the maps and packs are not.
    ///   - progress: called with steps done and steps to do.
    public func check(readData: Bool, repair: Bool, progress: (Int, Int) -> Void) throws(Failure) -> CheckReport {
        var report: CheckReport
        do {
            let state = try state()
            var checker = Checker(store: self, meta: state.meta.view, packs: state.packs.view)
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
            let bytes = cursor.value
            if number == 1 { bytes.expect() }
            // The next one comes while this one is looked at.
            if try cursor.next() { cursor.value.expect() }
            number = found + 1
            done += 1
            guard let pack = PackView(bytes, number: found) else { continue }
            for slot in 0..<pack.slotCount where !pack.isCollected(slot) {
                if try !reader.holds(slot, of: pack) { damaged.append(BlobNumber(pack: found, slot: slot)) }
            }
            progress(done, report.packs)
        }
        damaged = try note(damaged: damaged, reader)
        for blob in damaged { report.add("blob \(blob): its data is not what was written") }
        if !damaged.isEmpty { try nameVictims(Set(damaged), &report) }
    }

    /// Replaces the list of damaged blobs.
    /// - Returns: those that still are: others may have been healed or collected since they were looked at.
    private func note(damaged: [BlobNumber], _ reader: borrowing PackReader) throws(Failure) -> [BlobNumber] {
        // What was found is told all the same.
        if isReadOnly { return damaged }
        do {
            let reading = try ReadTransaction(meta)
            let known = try reading.view.count(tables.damaged)
            if damaged.isEmpty && known == 0 { return [] }
        }
        var still: [BlobNumber] = []
        try wayOut { (room) throws(Failure) in
            var transaction = try StoreTransaction.begin(self, room: room)
            let reading = try ReadTransaction(packs)
            // Under the lock, nobody heals them; and what readers have found meanwhile is looked at, too.
            let known = try transaction.lmdb.view.damagedBlobs(tables)
            still = []
            for blob in Set(damaged + known).sorted() where try reader.isDamaged(blob, reading.view, packTables) { still.append(blob) }
            try transaction.lmdb.clear(tables.damaged)
            for blob in still { try transaction.lmdb.put(tables.damaged, blob.rawValue, count: 0) { _ in } }
            try transaction.commit()
        }
        return still
    }

    private func nameVictims(_ damaged: Set<BlobNumber>, _ report: inout CheckReport) throws(Failure) {
        let reading = try ReadTransaction(meta)
        for disk in try reading.view.disks(tables) {
            let map = MapReader(disk, reading.view, tables)
            var block: UInt64 = 0
            var victims: [UInt64] = []
            var leaves = 0
            while block < map.blockCount {
                if leaves % 64 == 0 { try map.expectLeaves(from: block, count: 64) }
                leaves += 1
                let leaf = try map.leaf(over: block)
                if !leaf.isEmpty { victims += (leaf.first..<leaf.end).filter { damaged.contains(leaf.blob($0)) } }
                block = leaf.end
            }
            if let first = victims.first {
                report.add("disk \(disk.name): \(victims.count) blocks have lost their data, the first at sector \(first * UInt64(sectorsPerBlock))")
            }
        }
    }

    /// Makes reference counts and totals anew from maps and packs, in one commit that empties the index, which then is made
    /// anew in steps.
    private func rebuild() throws(Failure) {
        try wayOut { (room) throws(Failure) in
            var transaction = try StoreTransaction.begin(self, room: room, rebuilding: true)
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
            try invalidateFilter(transaction.superblock.storeID)
            for (pack, counts) in counts {
                for (slot, count) in counts.enumerated() where count > 0 && count != Checker.collected {
                    transaction.refer(to: BlobNumber(pack: pack, slot: slot), Int64(count))
                }
            }
            try transaction.commit()
        }
        var size = StepSize(least: 64, most: 1 << 20)
        var isDone = false
        while !isDone {
            isDone = try wayOut(&size) { (entries, room) throws(Failure) in
                var transaction = try StoreTransaction.begin(self, room: room)
                let isDone = try transaction.indexDirectories(limit: entries)
                try transaction.commit()
                return isDone
            }
        }
    }
}

extension View {
    /// The blobs that are known to be damaged.
    func damagedBlobs(_ tables: Store.Tables) throws(Failure) -> [BlobNumber] {
        var cursor = try cursor(tables.damaged)
        var blobs: [BlobNumber] = []
        var more = try cursor.first()
        while more, let key = cursor.integerKey {
            blobs.append(BlobNumber(rawValue: key))
            more = try cursor.next()
        }
        return blobs
    }
}

/// Reads blobs to compare them with their names.
struct PackReader: ~Copyable {
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

    /// Whether a blob is there and does not hash to its name.
    func isDamaged(_ blob: BlobNumber, _ packs: View, _ tables: Store.PackTables) throws(Failure) -> Bool {
        guard let pack = try PackView.find(blob.pack, in: packs, tables.packs), blob.slot < pack.slotCount, !pack.isCollected(blob.slot) else { return false }
        return try !holds(blob.slot, of: pack)
    }
}
