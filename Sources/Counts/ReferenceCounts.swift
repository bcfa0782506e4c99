public import BlobModel
internal import Hashing
public import LMDB
public import System

/// How many map entries refer to each blob: table `counts`, and what is deferred in table `changes` (`DeferredCounts`). Table `dead` says which packs
/// have blobs that nothing refers to (`DeadBlobs`).
///
/// A record a pack, key its number:
///
///      0  checksum  u64   XXH3-64 of the rest, seeded with the pack's number
///      8  slots     u32   n
///     12  width     u32   bytes of each count: 1, 2 or 4, as the largest needs
///     16  counts          references; 0: nothing refers to the blob, it may be collected or be referred to again
public struct ReferenceCounts: Sendable {
    static let headerSize = 16

    let counts, changes, dead: Environment.Table

    public init(_ opening: inout TableOpening) throws(Failure) {
        counts = try opening.table("counts")
        changes = try opening.table("changes")
        dead = try opening.table("dead")
    }

    /// Most blobs have few references: a byte each is a tenth of a per cent of the payload less than a word.
    private enum Width: UInt32 {
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
        else { throw Failure(.damage, .counts("pack \(pack)"), "damaged") }
        return (0..<(record.byteCount - headerSize) / width.bytes).map { slot in
            let offset = headerSize + slot * width.bytes
            return switch width {
            case .one: UInt32(record.load(at: offset, as: UInt8.self))
            case .two: UInt32(record.load(at: offset, as: UInt16.self))
            case .four: record.load(at: offset)
            }
        }
    }

    /// The counts of a record. Nil: it is damaged.
    static func sound(_ record: RawSpan, pack: UInt64) -> [UInt32]? {
        // It can fail in no other way.
        try? decode(record, pack: pack)
    }

    /// Whether the counts of this record are bytes.
    /// - Throws: `.damage` when it is not what was written.
    private static func hasBytes(_ record: RawSpan, pack: UInt64) throws(Failure) -> Bool {
        guard record.byteCount >= headerSize, record.load(at: 12, as: UInt32.self) == Width.one.rawValue,
            record.byteCount == headerSize + Int(record.load(at: 8, as: UInt32.self))
        else { return false }
        guard record.load(at: 0, as: UInt64.self) == checksum(record.extracting(8..<record.byteCount), seed: pack) else {
            throw Failure(.damage, .counts("pack \(pack)"), "damaged")
        }
        return true
    }

    /// What table `counts` says of one pack, without what is deferred; nil when it has nothing.
    public func settled(ofPack pack: UInt64, _ view: View) throws(Failure) -> [UInt32]? {
        guard let record = try view.value(counts, pack) else { return nil }
        return try Self.decode(record, pack: pack)
    }

    /// Whether there are counts of a pack.
    public func has(_ pack: UInt64, _ view: View) throws(Failure) -> Bool { try view.value(counts, pack) != nil }

    /// A count after a change.
    /// - Throws: `.damage` when it is below zero, `.noSpace` when it is more than a count can say.
    static func sum(_ count: UInt32, _ change: ReferenceChange) throws(Failure) -> UInt32 {
        let new = Int64(count) + change.change
        guard new >= 0 else { throw belowZero(change.blob) }
        guard new <= Int64(UInt32.max) else { throw Failure(.noSpace, .blob("\(change.blob)"), "2^32 references, the most there can be") }
        return UInt32(new)
    }

    static func belowZero(_ blob: BlobNumber) -> Failure {
        Failure(.damage, .counts("blob \(blob)"), "below zero")
    }

    private static func missing(_ subject: Subject) -> Failure {
        Failure(.damage, subject, "a map refers to it and it is missing", remedy: "restore the store from a copy")
    }
}

/// What a transaction changes of reference counts, before it is entered.
public struct CountEdit: Sendable {
    /// Of table `counts` alone, without what is deferred.
    public internal(set) var totals: BlobTotals
    /// Packs that have slots without a count, and how many slots they have now.
    var newSlots: [UInt64: Int] = [:]
    /// Packs that have other dead blobs.
    var dead: [UInt64: DeadChange] = [:]

    public init(totals: BlobTotals) { self.totals = totals }

    /// Slots of a pack are there, from one on, with a reference count of 0.
    /// - Parameter lengths: stored bytes of each; nil: it was collected.
    public mutating func enter(pack: UInt64, from first: Int, lengths: [UInt16?]) {
        guard !lengths.isEmpty else { return }
        var change = DeadChange()
        for case let length? in lengths {
            change.blobs += 1
            change.bytes += Int64(length)
        }
        add(change, ofPack: pack)
        newSlots[pack] = first + lengths.count
    }

    /// A dead blob of a pack is gone.
    /// - Parameter bytes: what it took, as stored.
    public mutating func removeDead(bytes: Int, ofPack pack: UInt64) { add(DeadChange(blobs: -1, bytes: -Int64(bytes)), ofPack: pack) }

    /// A dead blob of a pack takes so much more.
    public mutating func lengthenDead(by bytes: Int, ofPack pack: UInt64) { add(DeadChange(blobs: 0, bytes: Int64(bytes)), ofPack: pack) }

    /// Forgets what there was: it is entered anew.
    public mutating func clear() { self = CountEdit(totals: BlobTotals()) }

    private mutating func add(_ change: DeadChange, ofPack pack: UInt64) {
        totals.add(change)
        dead[pack, default: DeadChange()] += change
    }

    /// Blobs of a pack came to life or died.
    fileprivate mutating func turn(_ change: DeadChange, ofPack pack: UInt64) {
        guard change != DeadChange() else { return }
        totals.turn(change)
        dead[pack, default: DeadChange()] += change
    }
}

extension ReferenceCounts {
    /// Enters the changes that the maps' changes collected, or defers them, and gives new slots their counts; keeps the totals up to date.
    /// - Parameter canSettle: it may take much room, as what unmaps must not.
    public func apply(
        _ references: [ReferenceChange], _ edit: inout CountEdit, canSettle: Bool, _ directory: borrowing some BlobDirectory & ~Copyable,
        _ lmdb: inout WriteTransaction
    ) throws(Failure) {
        // What one leaf lost and another gained cancels out before any record is touched.
        var changes = references
        changes.consolidate()
        var later: [ReferenceChange] = []
        for part in changes.byPack() {
            if edit.newSlots[part.pack] == nil, part.changes.count < DeferredCounts.dense {
                later += part.changes
            } else {
                try apply(part.changes, to: part.pack, &edit, directory, &lmdb, below: &later)
            }
        }
        // Packs whose new slots nobody refers to.
        for (pack, slots) in edit.newSlots {
            var counts = try settled(ofPack: pack, lmdb.view) ?? []
            guard counts.count < slots else { continue }
            counts += [UInt32](repeating: 0, count: slots - counts.count)
            try put(counts, ofPack: pack, &lmdb)
        }
        edit.newSlots.removeAll()
        try deferChanges(later, &edit, canSettle: canSettle, directory, &lmdb)
        try enterDead(&edit, &lmdb)
    }

    private func put(_ values: [UInt32], ofPack pack: UInt64, _ lmdb: inout WriteTransaction) throws(Failure) {
        let width = Width(for: values)
        try lmdb.put(counts, pack, count: Self.headerSize + values.count * width.bytes) { value in
            value.store(UInt32(values.count), at: 8)
            value.store(width.rawValue, at: 12)
            for (slot, count) in values.enumerated() {
                let offset = Self.headerSize + slot * width.bytes
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
    ///   - below: gets those that would bring a count below zero: others that are deferred make up for them.
    func apply(
        _ changes: ArraySlice<ReferenceChange>, to pack: UInt64, _ edit: inout CountEdit, _ directory: borrowing some BlobDirectory & ~Copyable,
        _ lmdb: inout WriteTransaction, below: inout [ReferenceChange]
    ) throws(Failure) {
        if edit.newSlots[pack] == nil, try applyInPlace(changes, to: pack, &edit, directory, &lmdb) { return }
        let lengths = try lengths(ofPack: pack, directory)
        var counts = try settled(ofPack: pack, lmdb.view) ?? []
        if let slots = edit.newSlots[pack], slots > counts.count {
            counts += [UInt32](repeating: 0, count: slots - counts.count)
        }
        var turned = DeadChange()
        for change in changes {
            let slot = change.blob.slot
            guard slot < counts.count else { throw Self.missing(.blob("\(change.blob)")) }
            let old = counts[slot]
            guard Int64(old) + change.change >= 0 else {
                below.append(change)
                continue
            }
            counts[slot] = try Self.sum(old, change)
            turned.count(from: old, to: counts[slot], bytes: lengths.length(slot))
        }
        edit.turn(turned, ofPack: pack)
        try put(counts, ofPack: pack, &lmdb)
    }

    /// Changes a record whose counts are single bytes, and stay so, as most do.
    /// - Returns: false when that can't be, and nothing was changed.
    private func applyInPlace(
        _ changes: ArraySlice<ReferenceChange>, to pack: UInt64, _ edit: inout CountEdit, _ directory: borrowing some BlobDirectory & ~Copyable,
        _ lmdb: inout WriteTransaction
    ) throws(Failure) -> Bool {
        guard var record = try byteRecord(pack, lmdb.view) else { return false }
        var turns = false
        for change in changes {
            let offset = Self.headerSize + change.blob.slot
            guard offset < record.count else { throw Self.missing(.blob("\(change.blob)")) }
            let new = Int64(record[offset]) + change.change
            guard (0...255).contains(new) else { return false }
            if (record[offset] == 0) != (new == 0) { turns = true }
            record[offset] = UInt8(new)
        }
        // The pack is looked at only for blobs that came to life or died.
        if turns {
            let lengths = try lengths(ofPack: pack, directory)
            var turned = DeadChange()
            for change in changes {
                let new = Int64(record[Self.headerSize + change.blob.slot])
                turned.count(from: UInt32(new - change.change), to: UInt32(new), bytes: lengths.length(change.blob.slot))
            }
            edit.turn(turned, ofPack: pack)
        }
        try lmdb.put(counts, pack, count: record.count) { value in
            value.copy(record.rawBytes, to: 0)
            value.store(checksum(value.bytes.extracting(8..<value.byteCount), seed: pack), at: 0)
        }
        return true
    }

    private func lengths(ofPack pack: UInt64, _ directory: borrowing some BlobDirectory & ~Copyable) throws(Failure) -> StoredLengths {
        guard let lengths = try directory.storedLengths(ofPack: pack) else { throw Self.missing(.pack(pack)) }
        return lengths
    }

    /// A copy of a record whose counts are bytes.
    private func byteRecord(_ pack: UInt64, _ view: View) throws(Failure) -> [UInt8]? {
        guard let record = try view.value(counts, pack), try Self.hasBytes(record, pack: pack) else { return nil }
        return unsafe record.withUnsafeBytes { unsafe [UInt8]($0) }
    }

    /// A pack is gone, and nothing is deferred that is about it.
    public func remove(pack: UInt64, _ lmdb: inout WriteTransaction) throws(Failure) { try lmdb.remove(counts, pack) }

    /// Forgets all.
    public func clear(_ lmdb: inout WriteTransaction) throws(Failure) {
        try lmdb.clear(counts)
        try lmdb.clear(changes)
        try lmdb.clear(dead)
    }
}

extension StoredLengths {
    /// 0 when there is no such slot.
    func length(_ slot: Int) -> Int { slot < count ? Int(self[slot]) : 0 }
}
