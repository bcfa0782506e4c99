public import BlobModel
internal import BlockModel
public import LMDB
public import System

/// Packs in an LMDB environment of their own.
///
/// Table `packs`: key a pack's number and version (`PackVersion`), value the pack. Table `loose`: the same keys, no values: versions of which
/// some will have to go. Table `store`: one record, `FormatHeader` and
///
///     48  next pack        u64   number of the next pack
///     56  open pack        u64   the one that is short of full, and goes on being filled; 0: none
///     64  checksum         u64
///
/// The open pack is written anew, longer, when there is more for it, as the version 0 that it is: its slots stay what they are.
public final class LMDBPackStore: PackStore {
    private let lockFile: LockFile
    let environment: Environment
    let header, packs, loose: Environment.Table
    public let storeID: StoreID

    private static let headerBytes = FormatHeader.byteCount + 24
    private static let key = FormatHeader.key

    /// Opens the environment in directory `path`.
    /// - Parameters:
    ///   - number: which of the store's environments it is.
    ///   - storeID: makes one, of that store; nil: opens what is there.
    /// - Throws: `.damage` when it is none, `.system` when it is of another format.
    public init(path: String, number: Int, _ lockFile: LockFile, making storeID: StoreID? = nil) throws(Failure) {
        // Address space only: LMDB's file is as long as what is in it.
        let environment = try Environment.open(path: path, number: number, lockFile, mapBytes: 1 << 44, tables: 3, creating: storeID != nil)
        self.environment = environment
        self.lockFile = lockFile
        if let storeID {
            self.storeID = storeID
        } else {
            // Of another format, its tables may be others.
            guard let record = try environment.record(Self.key, inTable: "store") else { throw FormatHeader.missing(environment.path) }
            self.storeID = try FormatHeader(record.rawBytes, of: environment.path, byteCount: Self.headerBytes, knownFeatures: 0).storeID
        }
        var opening = try TableOpening(environment, creating: storeID != nil)
        header = try opening.table("store")
        packs = try opening.table("packs")
        loose = try opening.table("loose")
        try opening.finish()
        if let storeID { try make(storeID) }
    }

    /// Of which format the environment in directory `path` is, for whoever has an `Isolation` of it, and how many bytes are in it.
    /// - Throws: `.damage` when it is of none.
    public static func format(path: String, number: Int, _ lockFile: LockFile) throws(Failure) -> (version: UInt32, byteCount: UInt64) {
        let environment = try Environment.open(path: path, number: number, lockFile, mapBytes: 1 << 44, tables: 3, creating: false, isAlone: true)
        guard let record = try environment.record(key, inTable: "store"), let version = FormatHeader.intactVersion(of: record.rawBytes) else {
            throw FormatHeader.missing(path)
        }
        return (version, try environment.highWaterBytes())
    }

    private func make(_ storeID: StoreID) throws(Failure) {
        var writing = try WriteTransaction(environment)
        try put(Numbering(next: 1, open: 0), storeID, &writing)
        try writing.commit()
    }

    /// Where the next blobs go.
    private struct Numbering: Equatable {
        /// The number of the next pack.
        var next: UInt64
        /// The pack that is filled up first; 0: none.
        var open: UInt64
    }

    private func put(_ numbering: Numbering, _ storeID: StoreID, _ writing: inout WriteTransaction) throws(Failure) {
        try writing.put(header, Self.key, Self.record(next: numbering.next, open: numbering.open, storeID).rawBytes)
    }

    /// The record of table `store`.
    static func record(next: UInt64, open: UInt64, _ storeID: StoreID) -> [UInt8] {
        FormatHeader(storeID: storeID).record(byteCount: headerBytes) {
            $0.store(next, at: FormatHeader.byteCount)
            $0.store(open, at: FormatHeader.byteCount + 8)
        }
    }

    private func numbering(_ view: View) throws(Failure) -> Numbering {
        guard let record = try view.value(header, Self.key) else { throw FormatHeader.missing(environment.path) }
        _ = try FormatHeader(record, of: environment.path, byteCount: Self.headerBytes, knownFeatures: 0)
        return Numbering(next: record.load(at: FormatHeader.byteCount), open: record.load(at: FormatHeader.byteCount + 8))
    }

    public func source() throws(Failure) -> any PackSource { try Self.source(environment, packs) }

    /// The packs that a table has now.
    static func source(_ environment: Environment, _ packs: Environment.Table) throws(Failure) -> any PackSource { try Source(environment, packs) }

    // MARK: Writing

    public func seal(_ blobs: [NewBlob], _ codec: BlobCodec, _ patience: Patience?) throws(Failure) -> SealedBlobs {
        guard !blobs.isEmpty else { return SealedBlobs([], behind: .start) {} }
        var previous = PackPlace.start
        var claimed: [UInt64] = []
        do throws(Failure) {
            let packs = try seal(blobs, codec, patience, &previous, &claimed)
            return SealedBlobs(packs, behind: previous) { [lockFile, claimed] in for number in claimed { lockFile.release(number) } }
        } catch {
            for number in claimed { lockFile.release(number) }
            throw error
        }
    }

    public func isClaimed(_ number: UInt64) throws(Failure) -> Bool { try lockFile.isClaimed(number) }

    /// - Parameter claimed: gets the packs that are claimed, each before anybody can see its new blobs.
    private func seal(
        _ blobs: [NewBlob], _ codec: BlobCodec, _ patience: Patience?, _ previous: inout PackPlace, _ claimed: inout [UInt64]
    ) throws(Failure) -> [SealedPack] {
        var writing = try WriteTransaction(environment, patience)
        // The open pack's blobs are copied from an older state, whose pages this transaction does not write to.
        let before = try ReadTransaction(environment)
        let numbering = try numbering(before.view)
        previous = try end(before.view)
        var filler = PackFiller(unsafe try openPack(before.view, numbering), next: numbering.next)
        let sealed = try filler.fill(blobs, codec) { (pack, known) throws(Failure) in
            try lockFile.claim(pack.number)
            claimed.append(pack.number)
            var isTrue = false
            try writing.put(packs, PackVersion(pack.number, pack.version).key, count: pack.byteCount) {
                isTrue = pack.write(into: &$0, storeID, checkingFrom: known)
            }
            return isTrue
        }
        if let last = sealed.last {
            let now = Numbering(next: max(numbering.next, last.number + 1), open: last.number)
            if now != numbering { try put(now, storeID, &writing) }
        }
        try writing.commit()
        return sealed
    }

    private func end(_ view: View) throws(Failure) -> PackPlace {
        var cursor = try view.cursor(packs)
        // Each version has all slots.
        guard try cursor.last(), let last = cursor.version, let pack = PackView(cursor.value, last) else { return .start }
        return PackPlace(pack: last.number, slots: UInt64(pack.slotCount))
    }

    /// The open pack when there is room in it and all is well with it.
    @unsafe private func openPack(_ view: View, _ numbering: Numbering) throws(Failure) -> PackBuilder? {
        let open = PackVersion(numbering.open, 0)
        guard open.number > 0, open.number < numbering.next, let value = try view.value(packs, open.key),
            value.byteCount + Self.leastRoom <= PackFormat.capacity, let pack = PackView(value, open), pack.isIntact(storeID),
            let builder = unsafe PackBuilder(continuing: pack, number: open.number), builder.hasRoom(for: blockSize)
        else { return nil }
        return builder
    }

    /// A pack with less room is not opened again.
    private static var leastRoom: Int { blockSize + PackFormat.entrySize }

    // MARK: Versions

    public func rewrite(_ changes: [PackRewrite], _ versions: any VersionSource, _ patience: Patience?) throws(Failure) -> [RewrittenPack] {
        guard !changes.isEmpty else { return [] }
        // Compressing comes before the lock, so that nobody waits for it. A pack that is not open stays the same meanwhile.
        let early = try ReadTransaction(environment)
        let open = try numbering(early.view).open
        var prepared: [UInt64: PackRewriting] = [:]
        for change in changes where change.codec != .raw && change.from.number != open {
            prepared[change.from.number] = try unsafe rewriting(change, as: 0, early.view)
        }
        var writing = try WriteTransaction(environment, patience)
        // What they hold is copied from where this transaction does not write.
        let before = try ReadTransaction(environment)
        // Versions that were removed until now were over before that, so the newest state of versions is asked for.
        versions.reset()
        var done: [RewrittenPack] = []
        for change in changes {
            let next = try max(versions.state(of: change.from.number).next, highest(of: change.from.number, before.view).map { $0 + 1 } ?? 0)
            guard next < PackVersion.most else { continue }
            var rewriting = prepared[change.from.number]
            // The pack is gone, or was written anew, meanwhile.
            if rewriting != nil, try before.view.value(packs, change.from.key) == nil { continue }
            rewriting?.builder.version = next
            if rewriting == nil { rewriting = try unsafe self.rewriting(change, as: next, before.view) }
            if let rewriting { done.append(try put(rewriting, change, &writing)) }
        }
        try close(done.map(\.number), &writing)
        try writing.commit()
        // What was prepared borrows from here.
        withExtendedLifetime(prepared) {}
        withExtendedLifetime(early) {}
        return done
    }

    /// - Returns: nil: the pack can't be had.
    @unsafe private func rewriting(_ change: PackRewrite, as version: UInt32, _ view: View) throws(Failure) -> PackRewriting? {
        guard let value = try view.value(packs, change.from.key), let pack = PackView(value, change.from), pack.isIntact(storeID) else { return nil }
        if change.dropped.count < pack.slotCount { value.expect() }
        return unsafe try PackRewriting(change, of: pack, as: version)
    }

    private func put(_ rewriting: PackRewriting, _ change: PackRewrite, _ writing: inout WriteTransaction) throws(Failure) -> RewrittenPack {
        let done = rewriting.outcome(change)
        if let new = done.new {
            try writing.put(packs, PackVersion(done.number, new).key, count: rewriting.builder.byteCount) { _ = rewriting.builder.write(into: &$0, storeID) }
        }
        for version in done.loose { try writing.put(loose, version.key, count: 0) { _ in } }
        return done
    }

    /// Nothing is added to these packs any more.
    private func close(_ numbers: [UInt64], _ writing: inout WriteTransaction) throws(Failure) {
        var numbering = try numbering(writing.view)
        guard numbers.contains(numbering.open) else { return }
        numbering.open = 0
        try put(numbering, storeID, &writing)
    }

    /// The highest version of a pack that is there.
    private func highest(of number: UInt64, _ view: View) throws(Failure) -> UInt32? {
        var cursor = try view.cursor(packs)
        guard try cursor.seek(before: PackVersion(number + 1, 0)), let version = cursor.version, version.number == number else { return nil }
        return version.version
    }

    public func loose(from number: UInt64, limit: Int) throws(Failure) -> [PackVersion] {
        let reading = try ReadTransaction(environment)
        var found: [PackVersion] = []
        var packs = 0
        var cursor = try reading.view.cursor(loose)
        var more = try cursor.seek(atOrAfter: PackVersion(number, 0).key)
        while more, let version = cursor.version {
            if version.number != found.last?.number { packs += 1 }
            guard packs <= limit else { break }
            found.append(version)
            more = try cursor.next()
        }
        return found
    }

    public func sweep(_ loose: [PackVersion], _ versions: any VersionSource, _ patience: Patience?) throws(Failure) {
        guard !loose.isEmpty else { return }
        var writing = try WriteTransaction(environment, patience)
        versions.reset()
        var isChanged = false
        for version in loose {
            let state = try versions.state(of: version.number)
            if state.isOver(version.version), try writing.remove(packs, version.key) { isChanged = true }
            if try isDecided(version, state, writing.view), try writing.remove(self.loose, version.key) { isChanged = true }
        }
        if isChanged { try writing.commit() } else { writing.abort() }
    }

    /// Whether nothing is left to be decided about a version: it is gone for good, or current and the only one of its pack.
    private func isDecided(_ version: PackVersion, _ state: VersionState, _ view: View) throws(Failure) -> Bool {
        // A pack that is gone has its record in `versions` until a sweep finds it by what is loose.
        guard state.current != nil else { return false }
        var cursor = try view.cursor(packs)
        guard try cursor.seek(atOrAfter: version.key), cursor.version == version else { return true }
        guard state.current == version.version else { return false }
        // Another may be about to take its place.
        if try cursor.next(), cursor.version?.number == version.number { return false }
        return try !cursor.seek(before: version) || cursor.version?.number != version.number
    }

    /// LMDB never writes over what the last commit needs. So a commit that changes next to nothing comes first, after which the one
    /// before is not the last any more.
    public func releaseSpace(_ patience: Patience?) throws(Failure) {
        var writing = try WriteTransaction(environment, patience)
        let numbering = try numbering(writing.view)
        try put(numbering, storeID, &writing)
        try writing.commit()
    }

    public func giveBackSpace(_ patience: Patience?) throws(Failure) { try environment.trim(patience) }
}

/// What an LMDB environment shows of its packs. Nothing in it ever changes but LMDB's transaction, as the exclusivity that Swift would have to
/// prove of each access to a variable is a fifth of what a small read costs.
@safe
private final class Source: PackSource {
    private let reading: ReadTransaction
    private let packs: Environment.Table

    init(_ environment: Environment, _ packs: Environment.Table) throws(Failure) {
        reading = try ReadTransaction(environment)
        self.packs = packs
    }

    var state: Int { reading.id }
    func renew() throws(Failure) { unsafe try reading.renewInPlace() }
    func reset() { unsafe reading.resetInPlace() }

    func last(before number: UInt64) throws(Failure) -> UInt64? {
        try reading.withView { (view) throws(Failure) in
            var cursor = try view.cursor(packs)
            return try cursor.seek(before: PackVersion(min(number, 1 << 40 - 1), 0)) ? cursor.version?.number : nil
        }
    }

    @unsafe func pack(_ version: PackVersion) throws(Failure) -> UnsafeRawBufferPointer? { unsafe try reading.address(packs, version.key) }

    /// All of a pack is in `pack`.
    @unsafe func part(_ range: Range<Int>, of version: PackVersion) throws(Failure) -> UnsafeRawBufferPointer? { nil }

    @unsafe func forEachPack(
        from first: UInt64, where isWanted: (PackVersion) throws(Failure) -> Bool, _ body: (PackVersion, UnsafeRawBufferPointer) throws(Failure) -> Bool
    ) throws(Failure) {
        try reading.withView { (view) throws(Failure) in
            var scan = try Scan(view, packs, expecting: PackFormat.expectedDirectory, from: PackVersion(first, 0).key)
            while try scan.next() {
                let version = PackVersion(key: scan.integerKey ?? 0)
                guard try isWanted(version) else { continue }
                guard unsafe try body(version, scan.value.withUnsafeBytes { unsafe $0 }) else { return }
            }
        }
    }

    func expect(_ version: PackVersion) throws(Failure) {
        try reading.withView { (view) throws(Failure) in try view.value(packs, version.key)?.expect() }
    }
}

extension Cursor {
    /// The key here, of a pack.
    fileprivate var version: PackVersion? { integerKey.map { PackVersion(key: $0) } }

    /// To the last record before a version's. False: there is none.
    fileprivate mutating func seek(before version: PackVersion) throws(Failure) -> Bool {
        try seek(atOrAfter: version.key) ? previous() : last()
    }
}
