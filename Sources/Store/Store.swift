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
    /// Blobs that a reader of this process found damaged, for the next commit to write down.
    let suspects = Mutex<Set<BlobNumber>>([])
    /// What writers know of the digests; for whoever holds `meta`'s write transaction, and for hints.
    let filter = Mutex<DigestFilter?>(nil)
    /// Those that nobody uses at the moment.
    let recognizers = Mutex<[Recognizer]>([])
    let buckets = Mutex(BucketMemory())
    /// Where packs lie that commits looked at: while these store nothing, the next finds them again. As many as a reader knows.
    let knownPacks = Mutex<KnownValues?>(nil)

    struct Tables: Sendable {
        let store, disks, nodes, counts, changes, index, damaged: Environment.Table
    }
    struct PackTables: Sendable {
        let store, packs: Environment.Table
    }

    var metaPath: String { path + "/meta" }
    var filterPath: String { path + "/filter" }

    /// Opens the store at `path`.
    /// - Parameters:
    ///   - creating: make it when there is none; its directory must then be missing or empty.
    ///   - compression: how a store that is made compresses; one that is there keeps its way.
    /// - Throws: `.notFound` when there is none, `.damage` when it is not a store or a damaged one.
    public init(path: String, creating: Bool = false, compression: Compression = .none) throws(Failure) {
        let exists = try Self.exists(path + "/meta/data.mdb", of: path)
        if !exists {
            guard creating else {
                throw Failure(.notFound, "store \(path)", try Self.exists(path, of: path) ? "not a store" : "there is none",
                    remedy: "make one with: dedupdisk create DISK --size SIZE --store \(path)")
            }
            try Self.prepareDirectory(path)
        }
        self.path = path
        // Address space only: LMDB's file is as long as what is in it.
        meta = try Environment.open(path: path + "/meta", mapBytes: 1 << 40, tables: 8, creating: !exists)
        packs = try Environment.open(path: path + "/packs", mapBytes: 1 << 44, tables: 2, creating: !exists)
        // A store whose creation was interrupted is completed by the next one to open it.
        let metaIsFresh = try Self.isFresh(meta)
        let packsAreFresh = try Self.isFresh(packs)
        let fresh = metaIsFresh || packsAreFresh
        tables = Tables(
            store: try meta.table("store", creating: fresh), disks: try meta.table("disks", creating: fresh),
            nodes: try meta.table("nodes", creating: fresh), counts: try meta.table("counts", creating: fresh),
            changes: try meta.table("changes", creating: fresh), index: try meta.table("index", creating: fresh),
            damaged: try meta.table("damaged", creating: fresh))
        packTables = PackTables(store: try packs.table("store", creating: fresh), packs: try packs.table("packs", creating: fresh))
        storeID = try Self.identity(fresh ? compression : nil, meta, tables.store, packs, packTables)
        if fresh {
            refillReserve()
            for directory in [path, path + "/meta", path + "/packs", path + "/journals", path + "/.."] {
                try File(path: directory, options: [.directory]).synchronize()
            }
        }
    }

    /// Whether there is something at `file`: access(2). What may not be looked at is not taken for missing.
    private static func exists(_ file: String, of path: String) throws(Failure) -> Bool {
        guard unsafe access(file, F_OK) != 0 else { return true }
        let code = errno
        guard code == ENOENT || code == ENOTDIR else { throw Failure(systemCall: "open store", path, errno: code) }
        return false
    }

    /// Keeps freed memory for the next transaction: LMDB allocates a buffer for each pack that it writes, and glibc
    /// would map, fault in and unmap each anew (mallopt(3)). For the whole process; to be called at its start.
    public static func tuneAllocator() {
        clinux_tune_allocator(32 << 20, 64 << 20)
    }

    /// Whether the environment still lacks its tables or its superblock: its creation did not come to its end.
    /// - Throws: `.damage` when it is of another format, whose tables may be others.
    private static func isFresh(_ environment: Environment) throws(Failure) -> Bool {
        guard try environment.hasTable("store") else { return true }
        let table = try environment.table("store", creating: false)
        let reading = try ReadTransaction(environment)
        guard let bytes = try reading.view.value(table, Superblock.key) else { return true }
        _ = try Superblock(bytes, of: environment.path)
        return false
    }

    /// The store's id, the same in both environments; written when the store is fresh.
    private static func identity(
        _ fresh: Compression?, _ meta: Environment, _ metaTable: Environment.Table, _ packs: Environment, _ packTables: PackTables
    ) throws(Failure) -> (UInt64, UInt64) {
        if let compression = fresh {
            var transaction = try WriteTransaction(meta)
            let isOld = try transaction.view.value(metaTable, Superblock.key) != nil
            if !isOld {
                var random = SystemRandomNumberGenerator()
                var superblock = Superblock(storeID: (random.next(), random.next()))
                superblock.compression = compression
                try transaction.put(metaTable, Superblock.key, superblock.encoded.rawBytes)
            }
            let id = try superblock(transaction.view, metaTable, meta.path).storeID
            // Inside the first transaction: two creators make one store.
            var other = try WriteTransaction(packs)
            let isKnown = try other.view.value(packTables.store, Superblock.key) != nil
            // A superblock in `meta` without one in `packs`, or packs without one in `meta`, is no interrupted creation.
            let packCount = try other.view.count(packTables.packs)
            guard isOld ? isKnown : packCount == 0 else {
                throw Failure(.damage, isOld ? packs.path : meta.path, "it is empty, and the other half of the store is not", remedy: "restore it from a copy")
            }
            if !isKnown {
                try other.put(packTables.store, Superblock.key, Superblock(storeID: id).encoded.rawBytes)
            }
            try other.commit()
            try transaction.commit()
        }
        let reading = try ReadTransaction(meta)
        let readingPacks = try ReadTransaction(packs)
        let id = try superblock(reading.view, metaTable, meta.path).storeID
        guard try id == superblock(readingPacks.view, packTables.store, packs.path).storeID else {
            throw Failure(.damage, packs.path, "it belongs to another store", remedy: "put back the directory that belongs beside meta")
        }
        return id
    }

    private static func prepareDirectory(_ path: String) throws(Failure) {
        func make(_ path: String, mode: mode_t) throws(Failure) {
            if unsafe mkdir(path, mode) != 0, errno != EEXIST {
                throw Failure(errno == ENOSPC ? .noSpace : .system, "create the store's directory \(path)", unsafe String(cString: strerror(errno)))
            }
        }
        var parent = ""
        for part in path.split(separator: "/", omittingEmptySubsequences: true) {
            parent += (parent.isEmpty && !path.hasPrefix("/") ? "" : "/") + part
            try make(parent, mode: parent.count == path.count ? 0o700 : 0o755)
        }
        guard let directory = unsafe opendir(path) else {
            throw Failure(.system, "store \(path)", unsafe String(cString: strerror(errno)), remedy: "name a directory")
        }
        defer { unsafe closedir(directory) }
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { bytes in
                unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            // What an interrupted creation leaves is welcome; a stranger's files are not.
            guard [".", "..", "lost+found", "meta", "packs", "journals", "filter", "filter.new", "reserve"].contains(name) else {
                throw Failure(.exists, "create a store in \(path)", "the directory is not empty", remedy: "name an empty or a new directory")
            }
        }
        for part in ["/meta", "/packs", "/journals"] { try make(path + part, mode: 0o700) }
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
