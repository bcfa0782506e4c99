public import BlockModel
internal import CLinux
internal import Glibc
internal import LMDB
internal import Synchronization

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
    let packs: Environment
    let tables: Tables
    let packTables: PackTables
    let storeID: (UInt64, UInt64)
    let lockFile: LockFile
    /// It can't be written to here, and nobody else writes to it either.
    public var isReadOnly: Bool { lockFile.isReadOnly }
    /// How long to wait for other processes where nothing else is said.
    public var patience: Patience { lockFile.patience }
    /// Blobs that a reader of this process found damaged, for the next commit to write down.
    let suspects = Mutex<Set<BlobNumber>>([])
    /// What writers know of the digests; for whoever holds `meta`'s write transaction, and for hints.
    let filter = Mutex<DigestFilter?>(nil)
    /// Those that nobody uses at the moment.
    let recognizers = Mutex<[Recognizer]>([])
    let buckets = Mutex(BucketMemory())
    /// Where packs lie that commits looked at: while these store nothing, the next finds them again. As many as a reader knows.
    let knownPacks = Mutex<KnownValues?>(nil)
    /// When something was last tried to be given back for an ordinary writer: seconds of CLOCK_MONOTONIC.
    let lastRegain = Mutex(-10)

    struct Tables: Sendable {
        let store, disks, nodes, counts, changes, index, damaged: Environment.Table

        init(of meta: Environment, creating: Bool) throws(Failure) {
            let all = try meta.tables(["store", "disks", "nodes", "counts", "changes", "index", "damaged"], creating: creating)
            (store, disks, nodes, counts, changes, index, damaged) = (all[0], all[1], all[2], all[3], all[4], all[5], all[6])
        }
    }
    struct PackTables: Sendable {
        let store, packs: Environment.Table

        init(of environment: Environment, creating: Bool) throws(Failure) {
            let all = try environment.tables(["store", "packs"], creating: creating)
            (store, packs) = (all[0], all[1])
        }
    }

    var metaPath: String { path + "/meta" }
    var filterPath: String { path + "/filter" }

    /// What a store is opened for.
    public enum Access: Sendable {
        /// Where it can't be written to, it is read all the same, as long as nobody writes.
        case reading
        case writing
    }

    /// Opens the store at `path`.
    /// - Parameters:
    ///   - creating: make it when there is none; its directory must then be missing or empty.
    ///   - compression: how a store that is made compresses; one that is there keeps its way.
    ///   - patience: how long to wait for other processes.
    /// - Throws: `.notFound` when there is none, `.damage` when it is not a store or a damaged one, `.busy`.
    public convenience init(
        path: String, for access: Access = .writing, creating: Bool = false, compression: Compression = .none, patience: Patience = Patience()
    ) throws(Failure) {
        let directory = StoreDirectory(path: path)
        // Whoever makes it may be faster, or fail.
        for _ in 0..<8 {
            let state = try directory.state()
            if state == .store {
                if let opened = try Self.open(directory, access, patience) {
                    self.init(path, opened.lockFile, opened.parts)
                    if opened.tookReserve { regain(patience) }
                    return
                }
            } else if creating {
                if let made = try Self.make(directory, compression, patience) {
                    self.init(path, made.lockFile, made.parts)
                    return
                }
            } else {
                let why = state == .missing ? "there is none" : state == .other ? "not a store" : "its making was interrupted, or is at work"
                throw Failure(.notFound, "store \(path)", why, remedy: "make one with: dedupdisk create DISK --size SIZE --store \(path)")
            }
        }
        throw Failure(.busy, "store \(path)", "it is made and removed again and again", remedy: "try again")
    }

    private init(_ path: String, _ lockFile: LockFile, _ parts: Parts) {
        self.path = path
        self.lockFile = lockFile
        (meta, packs, tables, packTables, storeID) = (parts.meta, parts.packs, parts.tables, parts.packTables, parts.storeID)
    }

    /// What an open store is made of.
    private struct Parts {
        let meta, packs: Environment
        let tables: Tables
        let packTables: PackTables
        var storeID: (UInt64, UInt64) = (0, 0)
    }

    /// Opens what is there. Nil: it is not there any more.
    private static func open(
        _ directory: StoreDirectory, _ access: Access, _ patience: Patience
    ) throws(Failure) -> (lockFile: LockFile, parts: Parts, tookReserve: Bool)? {
        func openLocked(_ lockFile: LockFile, _ tookReserve: Bool) throws(Failure) -> (lockFile: LockFile, parts: Parts, tookReserve: Bool)? {
            try open(directory, lockFile).map { (lockFile, $0, tookReserve) }
        }
        do throws(Failure) {
            return try openLocked(directory.lockFile(toWrite: access == .writing, patience), false)
        } catch where error.kind == .noSpace {
            // The tables of readers are missing, and there is no room for them: what the reserve is for.
            giveUpReserve(in: directory.path)
        }
        do throws(Failure) {
            return try openLocked(directory.lockFile(toWrite: access == .writing, patience), true)
        } catch where error.kind == .noSpace && access == .reading {
            // It can be read without, while nobody writes.
            return try openLocked(directory.readOnlyLockFile(patience), false)
        }
    }

    private static func open(_ directory: StoreDirectory, _ lockFile: LockFile) throws(Failure) -> Parts? {
        let opening = try lockFile.isReadOnly ? nil : lockFile.hold(.opening)
        guard try directory.state() == .store, try lockFile.isInPlace() else { return nil }
        try directory.refuseIncomplete()
        var parts = try open(directory.path, lockFile, creating: false)
        parts.storeID = try identity(of: parts)
        _ = consume opening
        return parts
    }

    private static func open(_ path: String, _ lockFile: LockFile, creating: Bool) throws(Failure) -> Parts {
        // Address space only: LMDB's file is as long as what is in it. Where there is little, the packs get most of it.
        let packs = try Environment.open(path: path + "/packs", number: 1, lockFile, mapBytes: 1 << 44, tables: 2, creating: creating)
        let meta = try Environment.open(path: path + "/meta", number: 0, lockFile, mapBytes: 1 << 40, tables: 8, creating: creating)
        if !creating {
            // Of another format, its tables may be others.
            for environment in [meta, packs] { try checkFormat(environment) }
        }
        return Parts(meta: meta, packs: packs, tables: try Tables(of: meta, creating: creating), packTables: try PackTables(of: packs, creating: creating))
    }

    /// Makes a store. Nil: somebody else has made one.
    private static func make(
        _ directory: StoreDirectory, _ compression: Compression, _ patience: Patience
    ) throws(Failure) -> (lockFile: LockFile, parts: Parts)? {
        let made = try directory.makeDirectories()
        let lockFile = try directory.newLockFile(patience)
        let opening = try lockFile.hold(.opening)
        guard try lockFile.isInPlace(), try directory.state() != .store else { return nil }
        do throws(Failure) {
            try directory.beginMaking()
            var parts = try open(directory.path, lockFile, creating: true)
            parts.storeID = try makeSuperblocks(parts, compression)
            _ = fillReserve(in: directory.path)
            try directory.finishMaking()
            _ = consume opening
            return (lockFile, parts)
        } catch {
            directory.abandonMaking(made)
            throw error
        }
    }

    private static func makeSuperblocks(_ parts: Parts, _ compression: Compression) throws(Failure) -> (UInt64, UInt64) {
        var random = SystemRandomNumberGenerator()
        var superblock = Superblock(storeID: (random.next(), random.next()))
        var packs = try WriteTransaction(parts.packs)
        try packs.put(parts.packTables.store, Superblock.key, superblock.encoded.rawBytes)
        try packs.commit()
        superblock.compression = compression
        var meta = try WriteTransaction(parts.meta)
        try meta.put(parts.tables.store, Superblock.key, superblock.encoded.rawBytes)
        try meta.commit()
        return superblock.storeID
    }

    /// - Throws: when it has no superblock, or one that is not known here.
    private static func checkFormat(_ environment: Environment) throws(Failure) {
        let table = try environment.table("store", creating: false)
        let reading = try ReadTransaction(environment)
        _ = try superblock(reading.view, table, environment.path)
    }

    /// The store's id, the same in both environments.
    private static func identity(of parts: Parts) throws(Failure) -> (UInt64, UInt64) {
        let reading = try ReadTransaction(parts.meta)
        let readingPacks = try ReadTransaction(parts.packs)
        let id = try superblock(reading.view, parts.tables.store, parts.meta.path).storeID
        guard try id == superblock(readingPacks.view, parts.packTables.store, parts.packs.path).storeID else {
            throw Failure(.damage, parts.packs.path, "it belongs to another store", remedy: "put back the directory that belongs beside meta")
        }
        return id
    }

    /// Keeps freed memory for the next transaction: LMDB allocates a buffer for each pack that it writes, and glibc
    /// would map, fault in and unmap each anew (mallopt(3)). For the whole process; to be called at its start.
    public static func tuneAllocator() {
        clinux_tune_allocator(32 << 20, 64 << 20)
    }

    static func superblock(_ view: View, _ table: Environment.Table, _ path: String) throws(Failure) -> Superblock {
        guard let bytes = try view.value(table, Superblock.key) else {
            throw Failure(.damage, path, "it has no superblock", remedy: "not a store, or a damaged one: restore it from a copy")
        }
        return try Superblock(bytes, of: path)
    }

    /// The error for a disk that is not there.
    public func noSuchDisk(_ name: String) -> Failure {
        Failure(.notFound, "disk \(name)", "there is none in store \(path)", remedy: "see: dedupdisk list --store \(path)")
    }
}
