public import BlobModel
internal import BlockModel
public import LMDB
public import System

/// Packs in an LMDB environment of their own.
///
/// Table `packs`: key a pack's number, value the pack. Table `store`: one record, `FormatHeader` and
///
///     48  next pack        u64   number of the next pack
///     56  checksum         u64
///
/// A pack that is not full is written anew, longer, when there is more for it: its slots stay what they are.
public final class LMDBPackStore: PackStore {
    private let lockFile: LockFile
    let environment: Environment
    let header, packs: Environment.Table
    public let storeID: StoreID

    private static let headerBytes = FormatHeader.byteCount + 16
    private static let key = FormatHeader.key

    /// Opens the environment in directory `path`.
    /// - Parameters:
    ///   - number: which of the store's environments it is.
    ///   - storeID: makes one, of that store; nil: opens what is there.
    /// - Throws: `.damage` when it is none, `.system` when it is of another format.
    public init(path: String, number: Int, _ lockFile: LockFile, making storeID: StoreID? = nil) throws(Failure) {
        // Address space only: LMDB's file is as long as what is in it.
        let environment = try Environment.open(path: path, number: number, lockFile, mapBytes: 1 << 44, tables: 2, creating: storeID != nil)
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
        try opening.finish()
        if let storeID { try make(storeID) }
    }

    private func make(_ storeID: StoreID) throws(Failure) {
        var writing = try WriteTransaction(environment)
        try Self.put(next: 1, storeID, header, &writing)
        try writing.commit()
    }

    private static func put(next: UInt64, _ storeID: StoreID, _ table: Environment.Table, _ writing: inout WriteTransaction) throws(Failure) {
        let record = FormatHeader(storeID: storeID).record(byteCount: headerBytes) { $0.store(next, at: FormatHeader.byteCount) }
        try writing.put(table, key, record.rawBytes)
    }

    /// The number of the next pack.
    private func next(_ view: View) throws(Failure) -> UInt64 {
        guard let record = try view.value(header, Self.key) else { throw FormatHeader.missing(environment.path) }
        _ = try FormatHeader(record, of: environment.path, byteCount: Self.headerBytes, knownFeatures: 0)
        return record.load(at: FormatHeader.byteCount)
    }

    public func source() throws(Failure) -> any PackSource { try Source(environment, packs) }

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

    /// - Parameter claimed: gets the packs that are claimed, each before anybody can see what it has new.
    private func seal(
        _ blobs: [NewBlob], _ codec: BlobCodec, _ patience: Patience?, _ previous: inout PackPlace, _ claimed: inout [UInt64]
    ) throws(Failure) -> [SealedPack] {
        var writing = try WriteTransaction(environment, patience)
        // What the open pack has is copied from here, where this transaction does not write.
        let before = try ReadTransaction(environment)
        let next = try next(before.view)
        previous = try end(before.view)
        var filler = PackFiller(unsafe try openPack(before.view, next: next), next: next)
        let sealed = try filler.fill(blobs, codec) { (pack, known) throws(Failure) in
            try lockFile.claim(pack.number)
            claimed.append(pack.number)
            var isTrue = false
            try writing.put(packs, pack.number, count: pack.byteCount) { isTrue = pack.write(into: &$0, storeID, checkingFrom: known) }
            return isTrue
        }
        if let last = sealed.last, last.number >= next { try Self.put(next: last.number + 1, storeID, header, &writing) }
        try writing.commit()
        return sealed
    }

    private func end(_ view: View) throws(Failure) -> PackPlace {
        var cursor = try view.cursor(packs)
        guard try cursor.last(), let last = cursor.integerKey, let pack = PackView(cursor.value, number: last) else { return .start }
        return PackPlace(pack: last, slots: UInt64(pack.slotCount))
    }

    /// The last pack when there is room in it and all is well with it.
    @unsafe private func openPack(_ view: View, next: UInt64) throws(Failure) -> PackBuilder? {
        var cursor = try view.cursor(packs)
        guard try cursor.last(), let last = cursor.integerKey, last < next, cursor.value.byteCount + Self.leastRoom <= PackFormat.capacity,
            let pack = PackView(cursor.value, number: last), pack.isIntact(storeID),
            let builder = unsafe PackBuilder(continuing: pack, number: last), builder.hasRoom(for: blockSize)
        else { return nil }
        return builder
    }

    /// A pack with less room is not opened again.
    private static var leastRoom: Int { blockSize + PackFormat.entrySize }

    public func rewrite(_ changes: [PackRewrite], _ patience: Patience?) throws(Failure) -> [RewrittenPack] {
        guard !changes.isEmpty else { return [] }
        var writing = try WriteTransaction(environment, patience)
        // What they hold is copied from where this transaction does not write.
        let before = try ReadTransaction(environment)
        var done: [RewrittenPack] = []
        for change in changes {
            guard let value = try before.view.value(packs, change.number), let pack = PackView(value, number: change.number), pack.isIntact(storeID)
            else { continue }
            if change.dropped.count < pack.slotCount { value.expect() }
            guard var rewriting = unsafe try PackRewriting(change, of: pack) else { continue }
            try writing.put(packs, change.number, count: rewriting.builder.byteCount) { _ = rewriting.builder.write(into: &$0, storeID) }
            rewriting.release()
            done.append(RewrittenPack(number: change.number, healed: rewriting.healed))
        }
        try writing.commit()
        return done
    }

    public func remove(_ numbers: [UInt64], _ patience: Patience?) throws(Failure) {
        var writing = try WriteTransaction(environment, patience)
        for number in numbers {
            if try isEmpty(number, writing.view) { try writing.remove(packs, number) }
        }
        try writing.commit()
    }

    private func isEmpty(_ number: UInt64, _ view: View) throws(Failure) -> Bool {
        guard let value = try view.value(packs, number) else { return false }
        return PackView(value, number: number)?.isEmpty == true
    }

    /// A writer may have died between its commit and the word of it to the readers (mdb.c, `mdb_env_write_meta`). The next writer
    /// passes that word on when it takes the lock of the dead; a reader alone sees too little.
    public func recover(_ patience: Patience?) throws(Failure) { try WriteTransaction(environment, patience).abort() }

    /// LMDB never writes over what the last commit needs. So a commit that changes next to nothing comes first, after which the one
    /// before is not the last any more.
    public func settleSpace(_ patience: Patience?) throws(Failure) {
        var writing = try WriteTransaction(environment, patience)
        let next = try next(writing.view)
        try Self.put(next: next, storeID, header, &writing)
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
    func count() throws(Failure) -> Int { try reading.withView { (view) throws(Failure) in try view.count(packs) } }

    func last() throws(Failure) -> UInt64? {
        try reading.withView { (view) throws(Failure) in
            var cursor = try view.cursor(packs)
            return try cursor.last() ? cursor.integerKey : nil
        }
    }

    @unsafe func pack(_ number: UInt64) throws(Failure) -> UnsafeRawBufferPointer? { unsafe try reading.address(packs, number) }

    /// All of a pack is in `pack`.
    @unsafe func part(_ range: Range<Int>, ofPack number: UInt64) throws(Failure) -> UnsafeRawBufferPointer? { nil }

    @unsafe func forEachPack(from first: UInt64, _ body: (UInt64, UnsafeRawBufferPointer) throws(Failure) -> Bool) throws(Failure) {
        try reading.withView { (view) throws(Failure) in
            var scan = try Scan(view, packs, expecting: PackFormat.expectedDirectory, from: first)
            while try scan.next() {
                guard unsafe try body(scan.integerKey ?? 0, scan.value.withUnsafeBytes { unsafe $0 }) else { return }
            }
        }
    }

    func expect(_ number: UInt64) throws(Failure) {
        try reading.withView { (view) throws(Failure) in try view.value(packs, number)?.expect() }
    }
}
