internal import CLMDB
public import BlockModel
internal import Glibc

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
    /// Set when the process's registry knows it.
    var id: FileID?

    /// Opens the environment in directory `path`, which exists.
    ///
    /// The map is address space, not memory or disk: it is fixed and generous, so that no process ever has to
    /// move it under another's feet (lmdb.h, `mdb_env_set_mapsize`).
    /// - Parameters:
    ///   - mapBytes: upper limit of the file's size, a multiple of the page size.
    ///   - creating: make the file when it is missing. Otherwise a missing file is `.notFound`.
    /// - Throws: `.damage` when the file is not an LMDB file, or shorter than it says.
    init(path: String, mapBytes: Int, tables: Int, creating: Bool) throws(Failure) {
        self.path = path
        let file = path + "/data.mdb"
        if !creating, unsafe access(file, F_OK) != 0 {
            throw Failure(.notFound, file, unsafe String(cString: strerror(errno)))
        }
        var created: OpaquePointer?
        guard unsafe mdb_env_create(&created) == 0, let created = unsafe created else { throw Failure(.system, path, "LMDB gave no environment") }
        unsafe handle = created
        // A throw from here on runs the deinitialiser, which closes the environment.
        try unsafe check(mdb_env_set_mapsize(handle, mapBytes), "map \(path)")
        try unsafe check(mdb_env_set_maxdbs(handle, MDB_dbi(tables)), "open \(path)")
        try unsafe check(mdb_env_set_maxreaders(handle, 1022), "open \(path)")
        // An assertion in LMDB means that the file is damaged: say so instead of dumping core.
        try unsafe check(mdb_env_set_assert(handle) { _, message in
            let text = unsafe message.map { unsafe String(cString: $0) } ?? "assertion failed"
            let line = "dedupdisk: the store's database is damaged: \(text) (restore it from a copy)\n"
            _ = unsafe line.utf8CString.withUnsafeBytes { bytes in unsafe write(2, bytes.baseAddress, bytes.count - 1) }
            _exit(3)
        }, "open \(path)")
        // No thread-local readers: a read transaction belongs to who holds it.
        try unsafe check(mdb_env_open(handle, path, UInt32(MDB_NOTLS), 0o600), "open \(path)")
        try refuseShortFile(file)
        var dead: Int32 = 0
        try unsafe check(mdb_reader_check(handle, &dead), "clear dead readers of \(path)")
    }

    deinit { close() }

    func closeHandle() { unsafe mdb_env_close(handle) }

    /// A page beyond the end of the file would be a bus error at first touch.
    private func refuseShortFile(_ file: String) throws(Failure) {
        var info = unsafe MDB_envinfo()
        try unsafe check(mdb_env_info(handle, &info), "inspect \(path)")
        var status = stat()
        guard unsafe stat(file, &status) == 0 else { throw Failure(.system, file, unsafe String(cString: strerror(errno))) }
        // In pages, as a damaged number of them may not fit in bytes.
        let last = unsafe info.me_last_pgno, present = status.st_size / 4096
        // An environment that was never written ends after its two meta pages, or before.
        if last >= 2, UInt(present) <= UInt(last) {
            throw Failure(.damage, file, "truncated: \(present) pages, \(last) is in use", remedy: "restore it from a copy")
        }
    }

    /// Opens the named table, creating it when `creating`. To be called before any other transaction of this process.
    public func table(_ name: StaticString, creating: Bool) throws(Failure) -> Table {
        var transaction: OpaquePointer?
        try unsafe check(mdb_txn_begin(handle, nil, creating ? 0 : UInt32(MDB_RDONLY), &transaction), "open \(path)")
        var dbi = MDB_dbi(0)
        let result = name.withUTF8Buffer { utf8 in
            let text = unsafe String(decoding: utf8, as: UTF8.self)
            return unsafe mdb_dbi_open(transaction, text, creating ? UInt32(MDB_CREATE) : 0, &dbi)
        }
        guard result == 0 else {
            unsafe mdb_txn_abort(transaction)
            throw failure(result, "open table \(name) of \(path)")
        }
        try unsafe check(mdb_txn_commit(transaction), "open table \(name) of \(path)")
        return Table(dbi: dbi, name: name)
    }

    /// Whether there is a table of that name. To be called before any other transaction of this process.
    public func hasTable(_ name: StaticString) throws(Failure) -> Bool {
        var transaction: OpaquePointer?
        try unsafe check(mdb_txn_begin(handle, nil, UInt32(MDB_RDONLY), &transaction), "open \(path)")
        defer { unsafe mdb_txn_abort(transaction) }
        var dbi = MDB_dbi(0)
        let result = unsafe mdb_dbi_open(transaction, "\(name)", 0, &dbi)
        if result == MDB_NOTFOUND { return false }
        try check(result, "open table \(name) of \(path)")
        return true
    }

    /// Bytes of a page (`ms_psize`) times pages of the file in use, free ones included (`me_last_pgno`).
    public func highWaterBytes() throws(Failure) -> UInt64 {
        var info = unsafe MDB_envinfo()
        try unsafe check(mdb_env_info(handle, &info), "inspect \(path)")
        return unsafe (UInt64(info.me_last_pgno) + 1) * 4096
    }

    /// Less than 1 MiB is left where the environment is: statvfs(3).
    private var isFilesystemFull: Bool {
        var status = statvfs()
        return unsafe statvfs(path, &status) == 0 && UInt64(status.f_bavail) &* UInt64(status.f_frsize) < 1 << 20
    }

    func check(_ result: CInt, _ what: @autoclosure () -> String) throws(Failure) {
        if result != 0 { throw failure(result, what()) }
    }

    /// The error behind a result code of LMDB, or of the system: LMDB returns both.
    func failure(_ result: CInt, _ what: String) -> Failure {
        let why = unsafe String(cString: mdb_strerror(result))
        switch result {
        case ENOSPC, EDQUOT:
            return Failure(.noSpace, what, why, remedy: "free some space on the filesystem of \(path)")
        case EIO where isFilesystemFull:
            // What LMDB returns when write(2) took a part only (mdb.c, `mdb_page_flush`).
            return Failure(.noSpace, what, unsafe String(cString: strerror(ENOSPC)), remedy: "free some space on the filesystem of \(path)")
        case MDB_MAP_FULL:
            return Failure(.noSpace, what, "the store has reached its largest size", remedy: "delete disks, then run gc")
        case MDB_CORRUPTED, MDB_PAGE_NOTFOUND, MDB_INVALID, MDB_PANIC, MDB_VERSION_MISMATCH:
            return Failure(.damage, what, why, remedy: "not a store, or a damaged one: restore it from a copy")
        case MDB_READERS_FULL:
            return Failure(.busy, what, "too many processes read the store", remedy: "end some of them")
        case ENOENT: return Failure(.notFound, what, why)
        case MDB_NOTFOUND: return Failure(.damage, what, "missing", remedy: "not a store, or a damaged one: restore it from a copy")
        case EACCES, EPERM: return Failure(.system, what, why, remedy: "run as root, or as the owner of \(path)")
        default: return Failure(.system, what, why)
        }
    }
}
