internal import BlobModel
internal import Catalogue
internal import Counts
internal import Index
internal import LMDB
internal import Maps
internal import Packs
internal import System

/// One change of the store: maps, counts, index and totals together, or nothing of it.
///
/// Lock order: `meta`'s write transaction first, then that of the packs, which mostly is taken alone, before. Packs are durable first: what
/// `meta` does not know yet is found by the next transaction, here, and its blobs get a reference count of 0.
struct StoreTransaction: ~Copyable {
    let store: Store
    /// How long it waits for the lock of the packs, too.
    let patience: Patience?
    var lmdb: WriteTransaction
    /// As it was, and changed by `commit` with what `maps` and `counts` have.
    var superblock: Superblock
    var maps: MapEdit
    var counts: CountEdit
    /// It unmaps much, which has to work where no space is left, and so settles no counts.
    var isUnmapping = false
    /// The claims to what was stored for it, kept until this is committed.
    var claims: [SealedBlobs] = []
    /// Damaged blobs that are healed with this.
    var healed: Set<BlobNumber> = []
    /// Packs of which it has made another version current.
    private(set) var switched: [UInt64: VersionState] = [:]

    private init(_ store: Store, _ patience: Patience?, _ lmdb: consuming WriteTransaction, _ superblock: Superblock) {
        self.store = store
        self.patience = patience
        self.lmdb = lmdb
        self.superblock = superblock
        maps = MapEdit(nextNode: superblock.nextNode)
        counts = CountEdit(totals: superblock.totals)
    }

    /// Waits for the other writers.
    /// - Parameters:
    ///   - patience: for how long; as long as others of the process when not given.
    ///   - room: what it may take.
    ///   - rebuilding: without a look at counts and index, which are about to be made anew.
    static func begin(
        _ store: Store, _ patience: Patience? = nil, room: Room = .beyondReserve, rebuilding: Bool = false
    ) throws(Failure) -> StoreTransaction {
        let lmdb = try room == .beyondReserve ? lockBeyondReserve(store, patience) : WriteTransaction(store.meta, patience)
        if room == .reserve { store.reserve.giveUp() }
        let superblock = try superblock(lmdb, store)
        var transaction = StoreTransaction(store, patience, lmdb, superblock)
        if !rebuilding { try transaction.adoptUnknownBlobs() }
        return transaction
    }

    /// Waits for the other writers, and sees to it that the reserve is there.
    private static func lockBeyondReserve(_ store: Store, _ patience: Patience?) throws(Failure) -> WriteTransaction {
        do {
            let lmdb = try WriteTransaction(store.meta, patience)
            if store.reserve.fill() { return lmdb }
            lmdb.abort()
        }
        // A process that gave the reserve up may have been killed before it gave back what it had freed.
        if store.reserve.mayRegain() { store.regain(patience) }
        let lmdb = try WriteTransaction(store.meta, patience)
        if store.reserve.fill() { return lmdb }
        lmdb.abort()
        throw store.isFull
    }

    private static func superblock(_ lmdb: borrowing WriteTransaction, _ store: Store) throws(Failure) -> Superblock {
        try store.parts.superblock.superblock(lmdb.view)
    }

    // MARK: Packs

    /// Which versions of packs are current, as this transaction has it.
    var versions: CommittedVersions { CommittedVersions(store.parts.versions, store.meta, changed: switched) }

    /// Packs as this transaction has them: nobody else changes now which versions are current.
    func snapshot() throws(Failure) -> PackSnapshot { try store.packs.snapshot(versions) }

    /// Makes what was written anew current; a pack of which nothing is left is gone.
    /// - Returns: false: it may not be, as another version has come in between.
    mutating func makeCurrent(_ pack: RewrittenPack) throws(Failure) -> Bool {
        var state = try store.parts.versions.state(of: pack.number, lmdb.view)
        guard pack.canBecomeCurrent(state) else { return false }
        if switched.isEmpty { superblock.rewrites += 1 }
        state.current = pack.new
        if let new = pack.new { state.next = new + 1 }
        switched[pack.number] = state
        try store.parts.versions.put(state, of: pack.number, &lmdb)
        return true
    }

    /// Drops all of it.
    consuming func abandon() { lmdb.abort() }

    consuming func commit() throws(Failure) {
        try enterReferences()
        superblock.nextNode = maps.nextNode
        superblock.totals = counts.totals
        try store.parts.superblock.put(superblock, &lmdb)
        try lmdb.commit()
        store.noteExcess(superblock)
        store.parts.damage.noteHealed(healed)
        withExtendedLifetime(claims) {}
    }

    /// Counts the blobs that were stored since the last transaction, by whoever is about to refer to them, or was killed before it could.
    mutating func adoptUnknownBlobs() throws(Failure) {
        let packs = try snapshot()
        let counted = superblock.counted
        // Mostly nothing is behind that place.
        if try packs.last() == counted { return }
        try packs.forEachPack(from: max(counted.pack, 1)) { (number, pack) throws(Failure) in
            guard let pack, packs.isIntact(pack) else {
                // Nothing is added to a damaged pack; all it had is counted.
                if number == counted.pack { return true }
                throw Failure(.damage, .pack(number), "its directory is damaged", remedy: "restore the store from a copy")
            }
            let first = number == counted.pack ? Int(counted.slots) : 0
            if pack.slotCount > first {
                counts.enter(pack: number, from: first, lengths: (first..<pack.slotCount).map { pack.isCollected($0) ? nil : UInt16(pack.storedLength($0)) })
                superblock.counted = PackPlace(pack: number, slots: UInt64(pack.slotCount))
            }
            return true
        }
    }

    // MARK: Index

    /// What tells which digests are new, up to date with all blobs.
    mutating func synchronizedFilter() throws(Failure) -> DigestFilter {
        let directory = try snapshot()
        return try store.parts.index.synchronize(&superblock.index, superblock.counted, directory, &lmdb)
    }

    /// Takes the index's merge on, as far as so many new blobs make it necessary.
    mutating func advanceMerge(_ filter: DigestFilter, entered count: Int) throws(Failure) {
        try store.parts.index.advanceMerge(filter, entered: count, &superblock.index, superblock.counted, &lmdb)
    }

    // MARK: Disks

    /// The disk, or `.notFound`.
    func disk(_ name: String) throws(Failure) -> DiskRecord {
        guard let disk = try store.parts.catalogue.disk(name, lmdb.view) else { throw store.noSuchDisk(name) }
        return disk
    }

    /// Adds a disk; `.exists` when the name is taken.
    mutating func add(_ disk: DiskRecord) throws(Failure) { try store.parts.catalogue.add(disk, &lmdb) }

    mutating func put(_ disk: DiskRecord) throws(Failure) { try store.parts.catalogue.change(disk, &lmdb) }

    /// Enters changes, sorted by block, each block once.
    mutating func changeMap(of disk: inout DiskRecord, _ changes: [MapChange]) throws(Failure) {
        var rest = changes[...]
        while !rest.isEmpty {
            try store.parts.maps.change(&disk.map, rest.prefix(Self.changesAtOnce), &maps, &lmdb)
            rest = rest.dropFirst(Self.changesAtOnce)
            if !rest.isEmpty, maps.references.count >= Self.mostReferences { try enterReferences() }
        }
    }

    /// These bound the memory that references take: each change may have a leaf copied, and so change the count of each of its blobs.
    private static let changesAtOnce = 512, mostReferences = 1 << 19

    /// Has the counts take in what references have changed.
    private mutating func enterReferences() throws(Failure) {
        let directory = try snapshot()
        try store.parts.counts.apply(maps.references, &counts, canSettle: !isUnmapping, directory, &lmdb)
        maps.references.removeAll(keepingCapacity: true)
    }

    /// Sets the size, with a map that is high enough for it.
    mutating func resize(_ disk: inout DiskRecord, to byteCount: UInt64) throws(Failure) {
        try store.parts.maps.grow(&disk.map, toBlocks: DiskRecord.blocks(byteCount), &maps, &lmdb)
        disk.byteCount = byteCount
    }

    /// Unmaps the blocks `first..<end`, in bounded pieces: at most `leaves` leaves a call.
    /// - Returns: the first block that is left to do, or `end`.
    mutating func unmap(_ disk: inout DiskRecord, from first: UInt64, to end: UInt64, leaves: Int) throws(Failure) -> UInt64 {
        isUnmapping = true
        return try store.parts.maps.unmap(&disk.map, from: first, to: end, leaves: leaves, &maps, &lmdb)
    }
}
