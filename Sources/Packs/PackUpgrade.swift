public import BlobModel
public import LMDB
public import System

/// Packs of format 3, which becomes format 4.
///
/// Their bytes stay the same, as version 0 of each. But the key of a pack was its number, and is number × 2²⁴ now. An old key may look
/// like a new one, as there are numbers beyond 2²⁴. So packs are moved in descending order, and each commit says up to which
/// number keys are still old: all keys beyond it are new, since a new key is greater than every number that is left. Meanwhile the superblock is one of
/// format 3 with a feature that programs of that format do not know, and refuse:
///
///      0  header           48    version 3; bit 0 of the features that must be known is set
///     48  rest             u64   packs up to this number have their old keys
///     56  codecs           u64   feature bits (`BlobCodec`) of the blobs that were seen so far
///     64  0                      to 167
///    168  checksum         u64
///
/// Packs of which nothing is left are moved, too, and listed in table `loose`: format 3 had them removed by a collection, format 4 by table `versions`.
public final class PackUpgrade {
    private let environment: Environment
    private let header, packs, loose: Environment.Table
    public let storeID: StoreID

    /// Of a superblock of format 3, and of the one that takes its place meanwhile.
    static let headerBytes = 176
    static let feature: UInt64 = 1
    private static let version: UInt32 = 3
    private static let key = FormatHeader.key

    /// Opens the environment in directory `path`, for whoever has an `Isolation` of it.
    /// - Parameters:
    ///   - number: which of the store's environments it is.
    ///   - storeID: of the store.
    /// - Returns: nil: it is another store's.
    /// - Throws: `.damage` when it is none; `.outdated`, `.system` when it is of another format.
    public init?(path: String, number: Int, _ lockFile: LockFile, of storeID: StoreID) throws(Failure) {
        environment = try Environment.open(path: path, number: number, lockFile, mapBytes: 1 << 44, tables: 3, creating: false, isAlone: true)
        guard let record = try environment.record(Self.key, inTable: "store") else { throw FormatHeader.missing(environment.path) }
        guard try Self.header(record.rawBytes, environment.path).storeID == storeID else { return nil }
        self.storeID = storeID
        do {
            // That it is there is not for this to see to.
            var opening = try TableOpening(environment, creating: false)
            _ = try opening.table("packs")
            try opening.finish()
        }
        var opening = try TableOpening(environment, creating: true)
        header = try opening.table("store")
        packs = try opening.table("packs")
        loose = try opening.table("loose")
        try opening.finish()
    }

    private static func header(_ record: RawSpan, _ path: String) throws(Failure) -> FormatHeader {
        try FormatHeader(record, of: path, version: version, byteCount: headerBytes, knownFeatures: feature)
    }

    /// How far it is.
    private struct Progress {
        /// Packs up to this number have their old keys.
        var rest: UInt64
        /// Feature bits of the blobs of the others.
        var codecs: UInt64
    }

    /// Nil: it was not begun.
    private func progress(_ view: View) throws(Failure) -> Progress? {
        guard let record = try view.value(header, Self.key) else { throw FormatHeader.missing(environment.path) }
        guard try Self.header(record, environment.path).incompatibleFeatures & Self.feature != 0 else { return nil }
        return Progress(rest: record.load(at: 48), codecs: record.load(at: 56))
    }

    private func put(_ progress: Progress, _ writing: inout WriteTransaction) throws(Failure) {
        var header = FormatHeader(storeID: storeID)
        header.incompatibleFeatures = Self.feature
        let record = header.record(version: Self.version, byteCount: Self.headerBytes) {
            $0.store(progress.rest, at: 48)
            $0.store(progress.codecs, at: 56)
        }
        try writing.put(self.header, Self.key, record.rawBytes)
    }

    // MARK: Moving

    /// Moves some packs, in one commit.
    /// - Returns: whether there are more.
    public func move(packs limit: Int) throws(Failure) -> Bool {
        var writing = try WriteTransaction(environment)
        // What they hold is copied from where this transaction does not write.
        let before = try ReadTransaction(environment)
        var progress = try progress(before.view) ?? Progress(rest: .max, codecs: 0)
        guard progress.rest > 0 else {
            writing.abort()
            return false
        }
        let numbers = try numbers(upTo: progress.rest, limit, before.view)
        for number in numbers { progress.codecs |= try move(number, before.view, &writing) }
        progress.rest = numbers.count < limit ? 0 : (numbers.last ?? 1) - 1
        try put(progress, &writing)
        try writing.commit()
        return progress.rest > 0
    }

    /// The last packs that have their old keys, from the last one on.
    private func numbers(upTo rest: UInt64, _ limit: Int, _ view: View) throws(Failure) -> [UInt64] {
        var numbers: [UInt64] = []
        var cursor = try view.cursor(packs)
        let isBehind = try rest < .max ? cursor.seek(atOrAfter: rest + 1) : false
        var more = try isBehind ? cursor.previous() : cursor.last()
        while more, numbers.count < limit {
            guard let number = cursor.integerKey, number > 0, number < PackVersion.mostPacks else {
                throw Failure(.damage, .file(environment.path), "a pack has no number", remedy: "restore the store from a copy")
            }
            numbers.append(number)
            more = try cursor.previous()
        }
        return numbers
    }

    /// - Returns: feature bits of its blobs.
    private func move(_ number: UInt64, _ before: View, _ writing: inout WriteTransaction) throws(Failure) -> UInt64 {
        guard let value = try before.value(packs, number) else { return 0 }
        value.expect()
        let new = PackVersion(number, 0)
        try writing.put(packs, new.key, count: value.byteCount) { $0.copy(value, to: 0) }
        try writing.remove(packs, number)
        // Of a pack that is damaged there is nothing to be said.
        guard let pack = PackView(value, new), pack.isIntact(storeID) else { return 0 }
        if pack.isWhollyCollected { try writing.put(loose, new.key, count: 0) { _ in } }
        return (0..<pack.slotCount).reduce(0) { $0 | (BlobCodec(rawValue: pack.codec($1))?.feature ?? 0) }
    }

    // MARK: What is moved

    /// Feature bits of all blobs that there are.
    public func codecs() throws(Failure) -> UInt64 {
        let reading = try ReadTransaction(environment)
        return try progress(reading.view)?.codecs ?? 0
    }

    /// Packs of which nothing is left.
    public func gone() throws(Failure) -> [UInt64] {
        let reading = try ReadTransaction(environment)
        var numbers: [UInt64] = []
        var cursor = try reading.view.cursor(loose)
        var more = try cursor.first()
        while more {
            if let key = cursor.integerKey { numbers.append(PackVersion(key: key).number) }
            more = try cursor.next()
        }
        return numbers
    }

    /// All packs as they are now.
    public func snapshot(_ versions: any VersionSource) throws(Failure) -> PackSnapshot {
        PackSnapshot(try LMDBPackStore.source(environment, packs), versions, storeID)
    }

    // MARK: The end

    /// Makes it one of format 4. The last thing to be done.
    /// - Parameter place: no pack has a number beyond this place's that is not there.
    public func finish(behind place: PackPlace) throws(Failure) {
        var writing = try WriteTransaction(environment)
        var last: UInt64 = 0
        var open: UInt64 = 0
        do {
            let before = try ReadTransaction(environment)
            var cursor = try before.view.cursor(packs)
            if try cursor.last(), let key = cursor.integerKey {
                last = PackVersion(key: key).number
                // Whether there is room in it is for the next writer to see.
                if try before.view.value(loose, key) == nil { open = last }
            }
        }
        let record = LMDBPackStore.record(next: max(last, place.pack) + 1, open: open, storeID)
        try writing.put(header, Self.key, record.rawBytes)
        try writing.commit()
    }

    // MARK: Room

    /// Has what the last commit but one needed be free, and gives it back to the filesystem.
    public func giveBack() throws(Failure) {
        var writing = try WriteTransaction(environment)
        if let progress = try progress(writing.view) {
            try put(progress, &writing)
            try writing.commit()
        } else {
            writing.abort()
        }
        try environment.trim()
    }
}

extension PackView {
    /// Whether every slot has lost its bytes.
    fileprivate var isWhollyCollected: Bool { slotCount > 0 && (0..<slotCount).allSatisfy { isCollected($0) } }
}
