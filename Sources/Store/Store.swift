internal import BlobModel
internal import CLinux
internal import Catalogue
internal import Counts
internal import Glibc
internal import Index
internal import LMDB
internal import Maps
public import Packs
internal import Synchronization
public import System

/// A content-addressed store of blocks, and the disks made of them, in one directory:
///
///     DIR/meta/      LMDB environment: disks, maps, digest index, reference counts
///     DIR/packs/     LMDB environment: the blobs
///     DIR/journals/  a file a disk: its lock, and writes on their way into the store
///     DIR/filter     what writers know of the digests: see `DigestFilter`; may be deleted when nobody has the store open
///     DIR/reserve    room that is given back when the filesystem is full, so that deleting works
///     DIR/lock       who is using it: see `LockFile`
///
/// Any number of processes may have it open.
public final class Store: Sendable {
    /// The store's directory.
    public let path: String
    let meta: Environment
    let packs: any PackStore
    let parts: Parts
    let lockFile: LockFile
    let reserve: Reserve
    /// Hears of the store, and of its disks.
    public let events: Events
    let reporter: Reporter
    /// Many blocks at once can't be hashed.
    let hashing: Condition
    /// It can't be written to here, and nobody else writes to it either.
    public var isReadOnly: Bool { lockFile.isReadOnly }
    /// How long to wait for other processes where nothing else is said.
    public var patience: Patience { lockFile.patience }
    var storeID: StoreID { packs.storeID }
    /// Recognizers that no thread uses at the moment.
    let recognizers = Mutex<[Recognizer]>([])
    /// By how much dead blobs exceeded their bound at this process's last commit: the bits of a `Double`, 0 where they did not.
    let excess = Atomic<UInt64>(0)
    /// How many maintainers this process has for the store.
    let maintainers = Atomic(0)
    /// Places of packs that commits looked at, for the next one, as long as nothing is stored.
    let packCache = Mutex<ValueCache?>(nil)

    /// What `meta` consists of: each part has its tables, and no other part opens them.
    struct Parts: Sendable {
        let superblock: SuperblockTable
        let versions: PackVersions
        let catalogue: LMDBDiskCatalogue
        let maps: BlockMaps
        let counts: ReferenceCounts
        let index: DigestIndex
        let damage: Damage

        /// - Parameter path: the store's directory.
        init(of meta: Environment, in path: String, _ storeID: StoreID, _ reporter: Reporter, creating: Bool) throws(Failure) {
            var opening = try TableOpening(meta, creating: creating)
            superblock = try SuperblockTable(&opening, meta.path)
            versions = try PackVersions(&opening)
            catalogue = try LMDBDiskCatalogue(&opening)
            maps = try BlockMaps(&opening)
            counts = try ReferenceCounts(&opening)
            index = try DigestIndex(meta, &opening, filterPath: path + "/filter", storeID, reporter)
            damage = try Damage(&opening, reporter)
            try opening.finish()
        }
    }

    /// Which versions of packs are current, as it is committed.
    var versions: CommittedVersions { CommittedVersions(parts.versions, meta) }

    /// Packs as they are now.
    func snapshot() throws(Failure) -> PackSnapshot { try packs.snapshot(versions) }

    /// What a store is opened for.
    public enum Access: Sendable {
        /// Where it can't be written to, it is read all the same, as long as nobody writes.
        case reading
        case writing
    }

    /// Opens the store at `path`.
    /// - Parameters:
    ///   - creating: make it when there is none; its directory must then be missing or empty.
    ///   - codec: how a store that is made stores blobs; one that is there keeps its way.
    ///   - patience: how long to wait for other processes.
    ///   - events: hears what the store and its disks tell; nobody when not given.
    /// - Throws: `.notFound` when there is none, `.damage` when it is not a store or a damaged one, `.busy`.
    public convenience init(
        path: String, for access: Access = .writing, creating: Bool = false, codec: BlobCodec = .raw, patience: Patience = Patience(),
        events: Events = Events()
    ) throws(Failure) {
        let reporter = Reporter(events, .store(path))
        let patience = patience.telling(reporter)
        let directory = StoreDirectory(path: path)
        let reserve = Reserve(in: path, reporter)
        // Another process may make it, or give up making it, meanwhile.
        for _ in 0..<8 {
            let state = try directory.state()
            if state == .store {
                if let opened = try Self.open(directory, access, patience, reserve) {
                    self.init(reporter, path, opened.lockFile, opened.files, reserve)
                    if opened.tookReserve { regain(patience) }
                    return
                }
            } else if creating {
                if let made = try Self.make(directory, codec, patience, reserve) {
                    self.init(reporter, path, made.lockFile, made.files, reserve)
                    return
                }
            } else {
                let why = state == .missing ? "there is none" : state == .other ? "not a store" : "its making was interrupted, or is at work"
                throw Failure(.notFound, .store(path), why)
            }
        }
        throw Failure(.busy, .store(path), "it is made and removed again and again", remedy: "try again")
    }

    private init(_ reporter: Reporter, _ path: String, _ lockFile: LockFile, _ files: Files, _ reserve: Reserve) {
        self.path = path
        self.lockFile = lockFile
        self.reserve = reserve
        self.reporter = reporter
        events = reporter.events
        hashing = reporter.condition(.hashing)
        (meta, packs, parts) = (files.meta, files.packs, files.parts)
    }

    /// What an open store is made of.
    private struct Files {
        let meta: Environment
        let packs: any PackStore
        let parts: Parts
    }

    /// Opens what is there. Nil: it is not there any more.
    private static func open(
        _ directory: StoreDirectory, _ access: Access, _ patience: Patience, _ reserve: Reserve
    ) throws(Failure) -> (lockFile: LockFile, files: Files, tookReserve: Bool)? {
        func openLocked(_ lockFile: LockFile, _ tookReserve: Bool) throws(Failure) -> (lockFile: LockFile, files: Files, tookReserve: Bool)? {
            try open(directory, lockFile, reserve).map { (lockFile, $0, tookReserve) }
        }
        do throws(Failure) {
            return try openLocked(directory.lockFile(toWrite: access == .writing, patience), false)
        } catch where error.kind == .noSpace {
            // The tables of readers are missing, and there is no room for them: what the reserve is for.
            reserve.giveUp()
        }
        let noSpace: Failure
        do throws(Failure) {
            return try openLocked(directory.lockFile(toWrite: access == .writing, patience), true)
        } catch where error.kind == .noSpace && access == .reading {
            noSpace = error
        }
        do throws(Failure) {
            // It can be read without, while nobody writes.
            return try openLocked(directory.readOnlyLockFile(patience), false)
        } catch where error.kind == .outdated {
            // It is outdated because there was no room to upgrade it.
            throw noSpace
        }
    }

    private static func open(_ directory: StoreDirectory, _ lockFile: LockFile, _ reserve: Reserve) throws(Failure) -> Files? {
        let opening = try lockFile.isReadOnly ? nil : lockFile.hold(.opening)
        guard try directory.state() == .store, try lockFile.isInPlace() else { return nil }
        try directory.refuseIncomplete()
        var files: Files?
        do throws(Failure) {
            files = try openFiles(directory, lockFile, reserve.reporter)
        } catch where error.kind == .outdated && !lockFile.isReadOnly {
            // Upgraded below, when nothing of it is open any more.
        }
        if files == nil {
            try Upgrade(directory: directory, lockFile: lockFile, reserve: reserve).run()
            files = try openFiles(directory, lockFile, reserve.reporter)
        }
        _ = consume opening
        return files
    }

    private static func openFiles(_ directory: StoreDirectory, _ lockFile: LockFile, _ reporter: Reporter) throws(Failure) -> Files {
        // Where there is little address space, the packs get most of it.
        let packs = try LMDBPackStore(path: directory.path + "/packs", number: 1, lockFile)
        let meta = try openMeta(directory.path, lockFile, creating: false)
        // A store of another format may have other tables.
        try SuperblockTable.check(meta)
        let parts = try Parts(of: meta, in: directory.path, packs.storeID, reporter, creating: false)
        let files = Files(meta: meta, packs: packs, parts: parts)
        try refuseStranger(files, directory.path)
        return files
    }

    /// Address space only: LMDB's file is as long as what is in it.
    /// - Parameter isAlone: for whoever has an `Isolation` of it.
    static func openMeta(_ path: String, _ lockFile: LockFile, creating: Bool, isAlone: Bool = false) throws(Failure) -> Environment {
        try Environment.open(path: path + "/meta", number: 0, lockFile, mapBytes: 1 << 40, tables: 16, creating: creating, isAlone: isAlone)
    }

    /// - Throws: when the packs are those of another store.
    private static func refuseStranger(_ files: Files, _ path: String) throws(Failure) {
        let reading = try ReadTransaction(files.meta)
        guard try files.parts.superblock.superblock(reading.view).header.storeID == files.packs.storeID else { throw stranger(path) }
    }

    /// The error for packs of another store.
    static func stranger(_ path: String) -> Failure {
        Failure(.damage, .file(path + "/packs"), "it belongs to another store", remedy: "put back the directory that belongs beside meta")
    }

    /// Makes a store. Nil: somebody else has made one.
    private static func make(
        _ directory: StoreDirectory, _ codec: BlobCodec, _ patience: Patience, _ reserve: Reserve
    ) throws(Failure) -> (lockFile: LockFile, files: Files)? {
        let made = try directory.makeDirectories()
        let lockFile = try directory.newLockFile(patience)
        let opening = try lockFile.hold(.opening)
        guard try lockFile.isInPlace(), try directory.state() != .store else { return nil }
        do throws(Failure) {
            try directory.beginMaking()
            // The reserve comes with the first writer, before whom nothing has to be deleted.
            let files = try makeFiles(directory.path, lockFile, codec, reserve.reporter)
            try directory.finishMaking()
            _ = consume opening
            return (lockFile, files)
        } catch {
            directory.abandonMaking(made)
            throw error
        }
    }

    private static func makeFiles(_ path: String, _ lockFile: LockFile, _ codec: BlobCodec, _ reporter: Reporter) throws(Failure) -> Files {
        let storeID = StoreID.random()
        let packs = try LMDBPackStore(path: path + "/packs", number: 1, lockFile, making: storeID)
        let meta = try openMeta(path, lockFile, creating: true)
        let parts = try Parts(of: meta, in: path, storeID, reporter, creating: true)
        var superblock = Superblock(storeID: storeID)
        superblock.use(codec)
        var writing = try WriteTransaction(meta)
        try parts.superblock.put(superblock, &writing)
        try writing.commit()
        return Files(meta: meta, packs: packs, parts: parts)
    }

    /// Keeps freed memory for the next transaction: LMDB allocates a buffer for each pack that it writes, and glibc
    /// would map, fault in and unmap each anew (mallopt(3)). For the whole process; to be called at its start.
    public static func tuneAllocator() {
        clinux_tune_allocator(32 << 20, 64 << 20)
    }

    /// Gives the kernel what is free now (malloc_trim(3)), for a process that goes on for long after a start that took more.
    public static func trimAllocator() { clinux_trim_allocator() }

    /// Has `end` called when LMDB finds that a page of a store's files can't be right, where it can only give up: with what it says. For a program's
    /// start; without it LMDB ends the process in its own words.
    public static func endProcess(by end: @escaping @Sendable (String) -> Never) { Environment.endProcess(by: end) }

    /// The error for a disk that is not there.
    public func noSuchDisk(_ name: String) -> Failure {
        Failure(.notFound, .diskOf(store: path, name), "there is none in store \(path)")
    }
}
