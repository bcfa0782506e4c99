internal import CLMDB
internal import Glibc
internal import Synchronization
public import System

/// An LMDB environment (lmdb.h, `MDB_env`): one memory-mapped file of copy-on-write B+trees, one writer at a
/// time over all processes, readers that never wait.
@safe
public final class Environment: @unchecked Sendable {
    /// A named B+tree within an environment (`MDB_dbi`).
    public struct Table: Sendable {
        let dbi: MDB_dbi
        /// For error messages.
        public let name: StaticString
    }

    /// The directory, for error messages.
    public let path: String
    let handle: OpaquePointer
    /// The locks of the store that it belongs to, and which number it has there.
    let lockFile: LockFile
    let number: Int
    /// Read transactions that nobody uses at the moment.
    let idleReaders = Mutex<[IdleReader]>([])
    /// Address space of its map, in bytes, and whether it is less than it should be.
    private let mapBytes: Int
    private let isMapSmall: Bool
    /// Without LMDB's own locks, for whoever has an `Isolation`.
    let isAlone: Bool
    /// Nil until it is in the process's registry.
    var id: FileID?

    /// Opens the environment in directory `path`, which exists, while `LockFile.Lock.opening` is held.
    ///
    /// The map is address space, not memory or disk: it is fixed and generous, so that no process ever has to
    /// move it under another's feet (lmdb.h, `mdb_env_set_mapsize`). Where the process may have less, it is smaller.
    /// - Parameters:
    ///   - number: which of the store's environments it is, 0 or 1.
    ///   - mapBytes: upper limit of the file's size, a multiple of the page size.
    ///   - creating: make the file when it is missing. Otherwise a missing file is `.notFound`.
    ///   - isAlone: without LMDB's own locks, and its table of readers: for whoever has an `Isolation`. A state that is read must not be two commits
    ///     old.
    /// - Throws: `.damage` when the file is not an LMDB file, or shorter than it says; `.noSpace` when there is no room for
    ///   the table of readers.
    init(path: String, _ number: Int, _ lockFile: LockFile, mapBytes: Int, tables: Int, creating: Bool, isAlone: Bool) throws(Failure) {
        self.path = path
        self.number = number
        self.lockFile = lockFile
        self.isAlone = isAlone
        let file = path + "/data.mdb"
        if !creating, unsafe access(file, F_OK) != 0 {
            throw Failure(.notFound, .file(file), unsafe String(cString: strerror(errno)))
        }
        let isLocking = !lockFile.isReadOnly && !isAlone
        if isLocking { try Self.prepareFiles(path, creating: creating) }
        // A read transaction belongs to its holder, not to a thread. Where nobody else writes, LMDB needs no lock file.
        let flags = UInt32(MDB_NOTLS) | (lockFile.isReadOnly ? UInt32(MDB_RDONLY) : 0) | (isLocking ? 0 : UInt32(MDB_NOLOCK))
        let opened = try unsafe Self.openMapped(path, lockFile, flags, mapBytes: mapBytes, tables: tables)
        unsafe handle = opened.handle
        self.mapBytes = unsafe opened.mapBytes
        isMapSmall = self.mapBytes < mapBytes
        // A throw from here on runs the deinitialiser, which closes the environment.
        try refuseShortFile(file)
        if isLocking { try forgetDeadReaders() }
    }

    /// Makes LMDB's files, owned as their directory is, and with blocks for all that is written to them through a mapping.
    private static func prepareFiles(_ path: String, creating: Bool) throws(Failure) {
        if creating { _ = try File.owned(path + "/data.mdb") }
        let locks = try File.owned(path + "/lock.mdb")
        try locks.allocate(byteCount: max(lockBytes, locks.size()))
    }

    /// What `lock.mdb` takes: 1022 readers (`mdb_env_set_maxreaders`), 64 bytes each, and the mutexes.
    private static let lockBytes: UInt64 = 65536
    /// Address space that an environment has to have beyond what its file takes.
    private static let leastGrowth = 64 << 20

    /// Opens it with the largest map that the process may have.
    @unsafe private static func openMapped(
        _ path: String, _ lockFile: LockFile, _ flags: UInt32, mapBytes: Int, tables: Int
    ) throws(Failure) -> (handle: OpaquePointer, mapBytes: Int) {
        var bytes = mapBytes
        while true {
            do throws(Failure) {
                return (try unsafe open(path, lockFile, flags, mapBytes: bytes, tables: tables), bytes)
            } catch where error.kind == .noMemory {
                var status = stat()
                let needed = unsafe (stat(path + "/data.mdb", &status) == 0 ? Int(status.st_size) : 0) + leastGrowth
                guard bytes > needed else { throw noAddressSpace("map", .file(path), needed) }
                bytes = max(needed, bytes / 2) & ~4095
            }
        }
    }

    @unsafe private static func open(_ path: String, _ lockFile: LockFile, _ flags: UInt32, mapBytes: Int, tables: Int) throws(Failure) -> OpaquePointer {
        var created: OpaquePointer?
        guard lockFile.withIdentity({ unsafe mdb_env_create(&created) }) == 0, let created = unsafe created else {
            throw Failure(.system, .file(path), "LMDB gave no environment")
        }
        var result = unsafe mdb_env_set_mapsize(created, mapBytes)
        if result == 0 { result = unsafe mdb_env_set_maxdbs(created, MDB_dbi(tables)) }
        if result == 0 { result = unsafe mdb_env_set_maxreaders(created, 1022) }
        if result == 0 { result = unsafe mdb_env_set_assert(created) { _, message in unsafe Environment.endProcess(message) } }
        if result == 0 { result = unsafe PathText.withCString(path) { unsafe mdb_env_open(created, $0, flags, 0o600) } }
        guard result == 0 else {
            unsafe mdb_env_close(created)
            throw failure(result, "open", .file(path), path)
        }
        return unsafe created
    }

    /// Who ends the process when an assertion of LMDB's fails: then the file is damaged, and LMDB can't go on.
    private static let end = Mutex<(@Sendable (String) -> Never)?>(nil)

    /// Has `end` called with LMDB's words when one of its assertions fails in this process, in whichever environment. `end` has to end the process; without
    /// it LMDB does, by abort(3).
    public static func endProcess(by end: @escaping @Sendable (String) -> Never) { Self.end.withLock { $0 = end } }

    private static func endProcess(_ message: UnsafePointer<CChar>?) {
        let text = unsafe message.map { unsafe String(cString: $0) } ?? "assertion failed"
        Self.end.withLock { $0 }?(text)
    }

    /// Clears what processes that are gone left in the table of readers.
    func forgetDeadReaders() throws(Failure) {
        let entering = try lockFile.hold(.reading(number))
        var dead: Int32 = 0
        try unsafe check(mdb_reader_check(handle, &dead), "clear dead readers of", .file(path))
        _ = consume entering
    }

    deinit { close() }

    func closeHandle() {
        idleReaders.withLock { idle in
            for reader in idle { unsafe mdb_txn_abort(reader.handle) }
            idle = []
        }
        lockFile.withIdentity { unsafe mdb_env_close(handle) }
    }

    /// A page beyond the end of the file would be a bus error at first touch.
    private func refuseShortFile(_ file: String) throws(Failure) {
        var info = unsafe MDB_envinfo()
        try unsafe check(mdb_env_info(handle, &info), "inspect", .file(path))
        var status = stat()
        guard unsafe stat(file, &status) == 0 else { throw Failure(.system, .file(file), unsafe String(cString: strerror(errno))) }
        // In pages, as a damaged number of them may not fit in bytes.
        let last = unsafe info.me_last_pgno, present = status.st_size / 4096
        // An environment that was never written ends after its two meta pages, or before.
        if last >= 2, UInt(present) <= UInt(last) {
            throw Failure(.damage, .file(file), "truncated: \(present) pages, \(last) is in use", remedy: "restore it from a copy")
        }
    }

    /// Bytes of a page (`ms_psize`) times pages of the file in use, free ones included (`me_last_pgno`).
    public func highWaterBytes() throws(Failure) -> UInt64 {
        var info = unsafe MDB_envinfo()
        try unsafe check(mdb_env_info(handle, &info), "inspect", .file(path))
        return unsafe (UInt64(info.me_last_pgno) + 1) * 4096
    }

    /// Whether less than 1 MiB is left where the environment is, of the filesystem or of a quota, which only shows when some room is asked for
    /// (fallocate(2)).
    private static func isFilesystemFull(_ path: String) -> Bool {
        // Where that can't be asked, what follows tells.
        if let filesystem = try? Filesystem(of: path), filesystem.freeBytes < 1 << 20 { return true }
        do throws(Failure) {
            try File(temporaryIn: path).allocate(byteCount: 1 << 20)
            return false
        } catch {
            return error.kind == .noSpace
        }
    }

    /// The file has grown to what the process's limit for files allows: getrlimit(2), `RLIMIT_FSIZE`.
    private static func isFileLimitReached(_ path: String) -> Bool {
        var limit = rlimit()
        var status = stat()
        return unsafe getrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit) == 0 && stat(path + "/data.mdb", &status) == 0
            && rlim_t(max(0, status.st_size)) >= limit.rlim_cur
    }

    func check(_ result: CInt, _ operation: Failure.Operation, _ subject: @autoclosure () -> Subject) throws(Failure) {
        if result != 0 { throw failure(result, operation, subject()) }
    }

    /// The error behind a result code of LMDB, or of the system: LMDB returns both.
    func failure(_ result: CInt, _ operation: Failure.Operation, _ subject: Subject) -> Failure {
        if isMapSmall, result == MDB_MAP_FULL || result == MDB_MAP_RESIZED { return Self.noAddressSpace(operation, subject, mapBytes) }
        return Self.failure(result, operation, subject, path)
    }

    private static func noAddressSpace(_ operation: Failure.Operation, _ subject: Subject, _ bytes: Int) -> Failure {
        var limit = rlimit()
        let isLimited = unsafe getrlimit(__rlimit_resource_t(RLIMIT_AS.rawValue), &limit) == 0 && limit.rlim_cur != .max
        let allowed = isLimited ? ", and this process may have \(limit.rlim_cur >> 20) MiB in all (ulimit -v)" : ""
        return Failure(
            .noMemory, operation, subject, "it takes more than \(bytes >> 20) MiB of address space\(allowed)",
            remedy: isLimited ? "raise the limit: ulimit -v unlimited" : "see vm.overcommit_memory and vm.max_map_count")
    }

    private static func failure(_ result: CInt, _ operation: Failure.Operation, _ subject: Subject, _ path: String) -> Failure {
        let why = unsafe String(cString: mdb_strerror(result))
        switch result {
        case ENOSPC, EDQUOT:
            return Failure(.noSpace, operation, subject, why, remedy: "free some space on the filesystem of \(path)")
        case EIO where isFilesystemFull(path):
            // What LMDB returns when write(2) took a part only (mdb.c, `mdb_page_flush`).
            return Failure(.noSpace, operation, subject, unsafe String(cString: strerror(ENOSPC)), remedy: "free some space on the filesystem of \(path)")
        case ENOMEM: return Failure(.noMemory, operation, subject, why, remedy: "see ulimit -v, and how much memory is free")
        case _ where result == EFBIG || result == EIO && isFileLimitReached(path):
            return Failure(.system, operation, subject, unsafe String(cString: strerror(EFBIG)), remedy: "raise the limit of a file's size: ulimit -f")
        case MDB_MAP_FULL:
            return Failure(.noSpace, operation, subject, "the store has reached its largest size", remedy: "delete disks, and collect what they leave")
        case MDB_PANIC:
            // A meta page could not be written: LMDB refuses everything to this process then, and other processes find the last commit.
            return Failure(.system, operation, subject, "a write to the store's files failed before", remedy: "start again; see the system's log for the disk")
        case MDB_CORRUPTED, MDB_PAGE_NOTFOUND, MDB_INVALID, MDB_VERSION_MISMATCH:
            return Failure(.damage, operation, subject, why, remedy: "not a store, or a damaged one: restore it from a copy")
        case MDB_READERS_FULL:
            return Failure(.busy, operation, subject, "too many processes read the store", remedy: "end some of them")
        case ENOENT: return Failure(.notFound, operation, subject, why)
        case MDB_NOTFOUND: return Failure(.damage, operation, subject, "missing", remedy: "not a store, or a damaged one: restore it from a copy")
        case EACCES, EPERM: return Failure(.notPermitted, operation, subject, why, remedy: "run as root, or as the owner of \(path)")
        default: return Failure(.system, operation, subject, why)
        }
    }
}
