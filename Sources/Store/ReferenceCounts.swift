internal import BlockModel
internal import Hashing
internal import LMDB

/// How many map entries refer to each blob: table `counts`, one record a pack.
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

    /// The counts of one pack, or nil when it has none.
    static func of(_ pack: UInt64, _ view: View, _ tables: Store.Tables) throws(Failure) -> [UInt32]? {
        guard let record = try view.value(tables.counts, pack) else { return nil }
        return try decode(record, pack: pack)
    }
}

extension StoreTransaction {
    func counts(ofPack pack: UInt64) throws(Failure) -> [UInt32]? { try ReferenceCounts.of(pack, lmdb.view, store.tables) }

    /// The blob is referred to `change` times more.
    mutating func refer(to blob: BlobNumber, _ change: Int64) {
        // Neighbours on a disk are neighbours in a pack or the same blob, more often than not.
        if let last = countChanges.last, last.blob == blob {
            countChanges[countChanges.count - 1].change += change
        } else {
            countChanges.append((blob, change))
        }
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

    /// Applies the changes that the map's changes collected, and gives new slots their counts, pack by pack; keeps the
    /// totals.
    mutating func applyCountChanges() throws(Failure) {
        // What one leaf lost and another gained cancels out before any record is touched.
        countChanges.sort { $0.blob < $1.blob }
        let changes = countChanges
        countChanges.removeAll(keepingCapacity: true)
        let packs = try ReadTransaction(store.packs)
        var next = 0
        while next < changes.count {
            let pack = changes[next].blob.pack
            var end = next
            while end < changes.count, changes[end].blob.pack == pack { end += 1 }
            try apply(changes[next..<end], to: pack, packs.view)
            next = end
        }
        // Packs whose new slots nobody refers to.
        for (pack, slots) in newSlots {
            var counts = try counts(ofPack: pack) ?? []
            guard counts.count < slots else { continue }
            counts += [UInt32](repeating: 0, count: slots - counts.count)
            try putCounts(counts, ofPack: pack)
        }
        newSlots.removeAll()
    }

    private mutating func apply(
        _ changes: ArraySlice<(blob: BlobNumber, change: Int64)>, to pack: UInt64, _ packs: View
    ) throws(Failure) {
        if newSlots[pack] == nil, try applyInPlace(changes, to: pack, packs) { return }
        let directory = try directory(of: pack, packs)
        var counts = try counts(ofPack: pack) ?? []
        if let slots = newSlots[pack], slots > counts.count {
            counts += [UInt32](repeating: 0, count: slots - counts.count)
        }
        var next = changes.startIndex
        while next < changes.endIndex {
            let (blob, change) = Self.take(&next, of: changes)
            guard blob.slot < counts.count else { throw Self.missing("blob \(blob)") }
            counts[blob.slot] = try changed(counts[blob.slot], by: change, blob, directory)
        }
        try putCounts(counts, ofPack: pack)
    }

    /// Changes a record whose counts are single bytes, and stay so, as most do: one of a pack's two hundred changes when a
    /// block comes up again that was not written together with its neighbours.
    /// - Returns: false when that can't be, and nothing was changed.
    private mutating func applyInPlace(
        _ changes: ArraySlice<(blob: BlobNumber, change: Int64)>, to pack: UInt64, _ packs: View
    ) throws(Failure) -> Bool {
        guard var record = try byteRecord(pack) else { return false }
        var next = changes.startIndex
        var turns = false
        while next < changes.endIndex {
            let (blob, change) = Self.take(&next, of: changes)
            let offset = ReferenceCounts.headerSize + blob.slot
            guard offset < record.count else { throw Self.missing("blob \(blob)") }
            let new = Int64(record[offset]) + change
            guard (0...255).contains(new) else { return false }
            if (record[offset] == 0) != (new == 0) { turns = true }
            record[offset] = UInt8(new)
        }
        // The pack is looked at only for blobs that came to life or died.
        if turns {
            let directory = try directory(of: pack, packs)
            next = changes.startIndex
            while next < changes.endIndex {
                let (blob, change) = Self.take(&next, of: changes)
                let new = Int64(record[ReferenceCounts.headerSize + blob.slot])
                count(from: UInt32(new - change), to: UInt32(new), directory.storedLength(blob.slot))
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
        guard let directory = try PackView.find(pack, in: packs, store.packTables.packs) else { throw Self.missing("pack \(pack)") }
        return directory
    }

    /// A copy of a record whose counts are bytes.
    private func byteRecord(_ pack: UInt64) throws(Failure) -> [UInt8]? {
        guard let record = try lmdb.view.value(store.tables.counts, pack), try ReferenceCounts.hasBytes(record, pack: pack) else { return nil }
        return unsafe record.withUnsafeBytes { unsafe [UInt8]($0) }
    }

    /// The blob at `next` and all that it won and lost; goes on to the next blob.
    private static func take(
        _ next: inout Int, of changes: ArraySlice<(blob: BlobNumber, change: Int64)>
    ) -> (blob: BlobNumber, change: Int64) {
        let blob = changes[next].blob
        var change: Int64 = 0
        while next < changes.endIndex, changes[next].blob == blob {
            change += changes[next].change
            next += 1
        }
        return (blob, change)
    }

    private mutating func changed(_ old: UInt32, by change: Int64, _ blob: BlobNumber, _ directory: PackView) throws(Failure) -> UInt32 {
        let new = Int64(old) + change
        guard new >= 0 else { throw Failure(.damage, "reference count of blob \(blob)", "below zero", remedy: "run: dedupdisk check --repair") }
        guard new <= Int64(UInt32.max) else { throw Failure(.noSpace, "blob \(blob)", "2^32 references, the most there can be") }
        count(from: old, to: UInt32(new), directory.storedLength(blob.slot))
        return UInt32(new)
    }

    /// Keeps the totals when a blob of `bytes` stored bytes has another count.
    private mutating func count(from old: UInt32, to new: UInt32, _ bytes: Int) {
        if old == 0, new > 0 { moveBlob(live: 1, bytes: bytes) }
        if old > 0, new == 0 { moveBlob(live: -1, bytes: bytes) }
    }

    private static func missing(_ what: String) -> Failure {
        Failure(.damage, what, "a map refers to it and it is missing", remedy: "restore the store from a copy")
    }

    /// A blob of `bytes` stored bytes came to life (1) or died (-1).
    private mutating func moveBlob(live: Int64, bytes: Int) {
        superblock.liveBlobs &+= UInt64(bitPattern: live)
        superblock.deadBlobs &-= UInt64(bitPattern: live)
        superblock.deadBytes &-= UInt64(bitPattern: live &* Int64(bytes))
    }
}
