internal import BlobModel
internal import BlockModel
internal import Catalogue
internal import Counts
internal import Index
internal import LMDB
internal import Maps
internal import Packs
public import System

/// What a check found.
public struct CheckReport: Sendable {
    public internal(set) var packs = 0
    public internal(set) var blobs = 0
    public internal(set) var disks = 0
    public internal(set) var snapshots = 0
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
            var checker = Checker(store: self, meta: state.meta.view)
            try checker.checkAll(state.packs)
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
        let verifier = try BlobVerifier()
        var damaged: [BlobNumber] = []
        var next: UInt64? = 1
        var done = 0
        while let wanted = next {
            // Of one moment: a pack must not seem to be missing while it is written anew.
            let state = try state()
            // The next one comes while this one is looked at.
            var here: (number: UInt64, slots: Int)?
            next = nil
            try state.packs.forEachPack(from: wanted) { (number, pack) throws(Failure) in
                if here == nil {
                    here = (number, pack?.slotCount ?? 0)
                    if number == 1 { try state.packs.expect(number) }
                    return true
                }
                try state.packs.expect(number)
                next = number
                return false
            }
            guard let (number, slots) = here else { break }
            done += 1
            var finder = PackFinder(state.packs)
            for slot in 0..<slots {
                let blob = BlobNumber(pack: number, slot: slot)
                if try verifier.isDamaged(blob, &finder) { damaged.append(blob) }
            }
            progress(done, report.packs)
        }
        damaged = try note(damaged: damaged, verifier)
        for blob in damaged { report.add("blob \(blob): its data is not what was written") }
        if !damaged.isEmpty { try nameVictims(Set(damaged), &report) }
    }

    /// Replaces the list of damaged blobs.
    /// - Returns: those that still are: others may have been healed or collected since they were looked at.
    private func note(damaged: [BlobNumber], _ verifier: borrowing BlobVerifier) throws(Failure) -> [BlobNumber] {
        // What was found is told all the same.
        if isReadOnly { return damaged }
        do {
            let reading = try ReadTransaction(meta)
            let known = try parts.damage.count(reading.view)
            if damaged.isEmpty && known == 0 { return [] }
        }
        var still: [BlobNumber] = []
        try wayOut { (room) throws(Failure) in
            var transaction = try StoreTransaction.begin(self, room: room)
            let packs = try transaction.snapshot()
            var finder = PackFinder(packs)
            // Under the lock, nobody heals them; and what readers have found meanwhile is looked at, too.
            let known = try parts.damage.recorded(transaction.lmdb.view)
            still = []
            for blob in Set(damaged + known).sorted() {
                do throws(Failure) {
                    let isDamaged = try verifier.isDamaged(blob, &finder)
                    if isDamaged { still.append(blob) }
                } catch where error.kind == .damage {
                    // What says which version of its pack is current: nobody can read it.
                    still.append(blob)
                }
            }
            try parts.damage.replace(with: still, &transaction.lmdb)
            try transaction.commit()
        }
        return still
    }

    private func nameVictims(_ damaged: Set<BlobNumber>, _ report: inout CheckReport) throws(Failure) {
        let reading = try ReadTransaction(meta)
        for disk in try parts.catalogue.disks(reading.view) {
            var victims: [UInt64] = []
            try parts.maps.reader(disk.map, blockCount: disk.blockCount, reading.view).forEachLeaf { leaf in
                if !leaf.isEmpty { victims += (leaf.first..<leaf.end).filter { damaged.contains(leaf.blob($0)) } }
            }
            if let first = victims.first {
                report.add("disk \(disk.name): \(victims.count) blocks have lost their data, the first at sector \(first * UInt64(sectorsPerBlock))")
            }
        }
    }

    /// Makes reference counts and totals anew from maps and packs, in one commit that empties the index, which then is made
    /// anew in steps.
    func rebuild() throws(Failure) {
        try wayOut { (room) throws(Failure) in
            var transaction = try StoreTransaction.begin(self, room: room, rebuilding: true)
            let snapshot = try transaction.snapshot()
            var counts: [UInt64: [UInt32]] = [:]
            var mapped: [DiskRecord] = []
            var shared: [(node: UInt64, more: UInt32)] = []
            do {
                var checker = Checker(store: self, meta: transaction.lmdb.view)
                try checker.checkPacks(snapshot)
                (mapped, shared) = try checker.checkMaps()
                counts = checker.counts
            }
            try parts.counts.clear(&transaction.lmdb)
            try parts.index.clear(&transaction.superblock.index, &transaction.lmdb)
            transaction.superblock.counted = .start
            transaction.counts.clear()
            try parts.maps.recount(shared, &transaction.lmdb)
            for disk in mapped { try transaction.put(disk) }
            try transaction.adoptUnknownBlobs()
            try parts.index.retireFilter()
            for (pack, counts) in counts {
                for (slot, count) in counts.enumerated() where count > 0 && count != Checker.collected {
                    transaction.maps.references.refer(to: BlobNumber(pack: pack, slot: slot), Int64(count))
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
