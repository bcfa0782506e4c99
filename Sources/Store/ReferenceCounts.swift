internal import BlockModel
internal import Hashing
internal import LMDB

/// How many map entries refer to each blob, but for what is put off (`CountChanges`): table `counts`, one record a pack.
///
///      0  checksum  u64   XXH3-64 of the rest, seeded with the pack's number
///      8  slots     u32   n
///     12  width     u32   bytes of each count: 1, 2 or 4, as the largest needs
///     16  counts          references; 0: nothing refers to the blob, it may be collected or be referred to again
enum ReferenceCounts {
    static let headerSize = 16

    /// Most blobs have few references: a byte each is a tenth of a per cent of the payload less than a word.
    enum Width: UInt32 {
        case one = 1, two = 2, four = 4
        var bytes: Int { Int(rawValue) }
        init(for counts: [UInt32]) {
            let largest = counts.max() ?? 0
            self = largest <= UInt32(UInt8.max) ? .one : largest <= UInt32(UInt16.max) ? .two : .four
        }
    }

    /// The counts of one pack.
    /// - Throws: `.damage` when the record is not what was written.
    private static func decode(_ record: RawSpan, pack: UInt64) throws(Failure) -> [UInt32] {
        guard record.byteCount >= headerSize, record.load(at: 0, as: UInt64.self) == checksum(record.extracting(8..<record.byteCount), seed: pack),
            let width = Width(rawValue: record.load(at: 12)), record.byteCount == headerSize + Int(record.load(at: 8, as: UInt32.self)) * width.bytes
        else { throw Failure(.damage, "reference counts of pack \(pack)", "damaged", remedy: "run: dedupdisk check --repair") }
        return (0..<(record.byteCount - headerSize) / width.bytes).map { slot in
            let offset = headerSize + slot * width.bytes
            return switch width {
            case .one: UInt32(record.load(at: offset, as: UInt8.self))
            case .two: UInt32(record.load(at: offset, as: UInt16.self))
            case .four: record.load(at: offset)
            }
        }
    }

    /// Whether the counts of this record are bytes.
    /// - Throws: `.damage` when it is not what was written.
    static func hasBytes(_ record: RawSpan, pack: UInt64) throws(Failure) -> Bool {
        guard record.byteCount >= headerSize, record.load(at: 12, as: UInt32.self) == Width.one.rawValue,
            record.byteCount == headerSize + Int(record.load(at: 8, as: UInt32.self))
        else { return false }
        guard record.load(at: 0, as: UInt64.self) == checksum(record.extracting(8..<record.byteCount), seed: pack) else {
            throw Failure(.damage, "reference counts of pack \(pack)", "damaged", remedy: "run: dedupdisk check --repair")
        }
        return true
    }

    /// What table `counts` says of one pack, or nil when it has none.
    static func of(_ pack: UInt64, _ view: View, _ tables: Store.Tables) throws(Failure) -> [UInt32]? {
        guard let record = try view.value(tables.counts, pack) else { return nil }
        return try decode(record, pack: pack)
    }

    /// A count after a change.
    /// - Throws: `.damage` when it is below zero, `.noSpace` when it is more than a count can say.
    static func sum(_ count: UInt32, _ change: CountChange) throws(Failure) -> UInt32 {
        let new = Int64(count) + change.change
        guard new >= 0 else { throw belowZero(change.blob) }
        guard new <= Int64(UInt32.max) else { throw Failure(.noSpace, "blob \(change.blob)", "2^32 references, the most there can be") }
        return UInt32(new)
    }

    static func belowZero(_ blob: BlobNumber) -> Failure {
        Failure(.damage, "reference count of blob \(blob)", "below zero", remedy: "run: dedupdisk check --repair")
    }

    static func missing(_ what: String) -> Failure {
        Failure(.damage, what, "a map refers to it and it is missing", remedy: "restore the store from a copy")
    }
}

extension StoreTransaction {
    /// The blob is referred to `change` times more.
    mutating func refer(to blob: BlobNumber, _ change: Int64) {
        // Neighbours on a disk are neighbours in a pack or the same blob, more often than not.
        if let last = countChanges.last, last.blob == blob {
            countChanges[countChanges.count - 1].change += change
        } else {
            countChanges.append(CountChange(blob: blob, change: change))
        }
    }

    /// Enters the changes that the map's changes collected, or puts them off, and gives new slots their counts; keeps the totals.
    mutating func applyCountChanges() throws(Failure) {
        // What one leaf lost and another gained cancels out before any record is touched.
        countChanges.consolidate()
        let changes = countChanges
        countChanges.removeAll(keepingCapacity: true)
        let packs = try ReadTransaction(store.packs)
        var later: [CountChange] = []
        try changes.forEachPack { (pack, changes) throws(Failure) in
            if newSlots[pack] == nil, changes.count < CountChanges.dense {
                later += changes
            } else {
                try apply(changes, to: pack, packs.view, &later)
            }
        }
        // Packs whose new slots nobody refers to.
        for (pack, slots) in newSlots {
            var counts = try ReferenceCounts.of(pack, lmdb.view, store.tables) ?? []
            guard counts.count < slots else { continue }
            counts += [UInt32](repeating: 0, count: slots - counts.count)
            try putCounts(counts, ofPack: pack)
        }
        newSlots.removeAll()
        try putOff(later)
    }

    private mutating func putCounts(_ counts: [UInt32], ofPack pack: UInt64) throws(Failure) {
        let width = ReferenceCounts.Width(for: counts)
        try lmdb.put(store.tables.counts, pack, count: ReferenceCounts.headerSize + counts.count * width.bytes) { value in
            value.store(UInt32(counts.count), at: 8)
            value.store(width.rawValue, at: 12)
            for (slot, count) in counts.enumerated() {
                let offset = ReferenceCounts.headerSize + slot * width.bytes
                switch width {
                case .one: value.store(UInt8(count), at: offset)
                case .two: value.store(UInt16(count), at: offset)
                case .four: value.store(count, at: offset)
                }
            }
            value.store(checksum(value.bytes.extracting(8..<value.byteCount), seed: pack), at: 0)
        }
    }

    /// Changes the record of a pack's counts, and the totals.
    /// - Parameters:
    ///   - changes: consolidated.
    ///   - below: gets those that would bring a count below zero: others that are put off make up for them.
    mutating func apply(
        _ changes: ArraySlice<CountChange>, to pack: UInt64, _ packs: View, _ below: inout [CountChange]
    ) throws(Failure) {
        if newSlots[pack] == nil, try applyInPlace(changes, to: pack, packs) { return }
        let directory = try directory(of: pack, packs)
        var counts = try ReferenceCounts.of(pack, lmdb.view, store.tables) ?? []
        if let slots = newSlots[pack], slots > counts.count {
            counts += [UInt32](repeating: 0, count: slots - counts.count)
        }
        for change in changes {
            let slot = change.blob.slot
            guard slot < counts.count else { throw ReferenceCounts.missing("blob \(change.blob)") }
            let old = counts[slot]
            guard Int64(old) + change.change >= 0 else {
                below.append(change)
                continue
            }
            counts[slot] = try ReferenceCounts.sum(old, change)
            superblock.totals.count(from: old, to: counts[slot], bytes: directory.storedLength(slot))
        }
        try putCounts(counts, ofPack: pack)
    }

    /// Changes a record whose counts are single bytes, and stay so, as most do.
    /// - Returns: false when that can't be, and nothing was changed.
    private mutating func applyInPlace(_ changes: ArraySlice<CountChange>, to pack: UInt64, _ packs: View) throws(Failure) -> Bool {
        guard var record = try byteRecord(pack) else { return false }
        var turns = false
        for change in changes {
            let offset = ReferenceCounts.headerSize + change.blob.slot
            guard offset < record.count else { throw ReferenceCounts.missing("blob \(change.blob)") }
            let new = Int64(record[offset]) + change.change
            guard (0...255).contains(new) else { return false }
            if (record[offset] == 0) != (new == 0) { turns = true }
            record[offset] = UInt8(new)
        }
        // The pack is looked at only for blobs that came to life or died.
        if turns {
            let directory = try directory(of: pack, packs)
            for change in changes {
                let new = Int64(record[ReferenceCounts.headerSize + change.blob.slot])
                superblock.totals.count(from: UInt32(new - change.change), to: UInt32(new), bytes: directory.storedLength(change.blob.slot))
            }
        }
        try lmdb.put(store.tables.counts, pack, count: record.count) { value in
            value.copy(record.rawBytes, to: 0)
            value.store(checksum(value.bytes.extracting(8..<value.byteCount), seed: pack), at: 0)
        }
        return true
    }

    @_lifetime(copy packs)
    private func directory(of pack: UInt64, _ packs: View) throws(Failure) -> PackView {
        guard let directory = try PackView.find(pack, in: packs, store.packTables.packs) else { throw ReferenceCounts.missing("pack \(pack)") }
        return directory
    }

    /// A copy of a record whose counts are bytes.
    private func byteRecord(_ pack: UInt64) throws(Failure) -> [UInt8]? {
        guard let record = try lmdb.view.value(store.tables.counts, pack), try ReferenceCounts.hasBytes(record, pack: pack) else { return nil }
        return unsafe record.withUnsafeBytes { unsafe [UInt8]($0) }
    }
}
