internal import Glibc
internal import LMDB
internal import System

/// The directory of a store, and how it comes to be one.
///
/// A store is made under the lock `opening`, and under a mark, the file `creating`. The mark's name is durable before anything else is
/// there, and it is removed when all the rest is durable: the files, their names, and those of the directories above. So a directory
/// with the mark holds nothing and is made anew, at whatever instant its maker was killed or lost power; one without it is a
/// store, of which nothing is ever made anew.
struct StoreDirectory {
    let path: String

    var lockPath: String { path + "/lock" }
    private var mark: String { path + "/creating" }
    private var data: [String] { ["/meta/data.mdb", "/packs/data.mdb"].map { path + $0 } }
    private static let subdirectories = ["/meta", "/packs", "/journals"]

    enum State {
        /// There is no such directory.
        case missing
        /// It holds no store.
        case other
        /// The making of a store was begun.
        case unfinished
        case store
    }

    /// - Throws: where it can't be looked at: that is not taken for missing.
    func state() throws(Failure) -> State {
        guard try exists(path) else { return .missing }
        if try exists(mark) { return .unfinished }
        for file in data where try exists(file) { return .store }
        return .other
    }

    /// access(2).
    private func exists(_ file: String) throws(Failure) -> Bool {
        guard unsafe access(file, F_OK) != 0 else { return true }
        let code = errno
        guard code == ENOENT || code == ENOTDIR else { throw Failure(systemCall: "open", .store(path), errno: code) }
        return false
    }

    // MARK: Opening

    /// The locks of the store that is there. Where they can't be written to, and `toWrite` is false, they are those of a reader.
    func lockFile(toWrite: Bool, _ patience: Patience) throws(Failure) -> LockFile {
        try refuseNetwork()
        do throws(Failure) {
            return try LockFile(try openLock(), patience: patience)
        } catch where !toWrite && error.isNoRight {
            return try readOnlyLockFile(patience)
        }
    }

    private func openLock() throws(Failure) -> File {
        let file = try File.owned(lockPath)
        if try file.size() < LockFile.byteCount {
            // Who holds a lock is written there; without room for that, waiters have nobody to name.
            try? file.allocate(byteCount: LockFile.byteCount)
            try? file.write(at: 0, Array(LockFile.magic.utf8).rawBytes)
        }
        return file
    }

    /// Where there is no lock file and none can be made, nobody can be kept from writing: only a filesystem that can't be
    /// written to needs none.
    func readOnlyLockFile(_ patience: Patience) throws(Failure) -> LockFile {
        do throws(Failure) {
            return try LockFile(readOnly: try File(path: lockPath), patience: patience)
        } catch where error.kind == .notFound {
            guard try Filesystem(of: path).isReadOnly else {
                throw Failure(
                    .notPermitted, .read, .store(path), "it has no lock file, and this user may not make one", remedy: "have its owner open it once")
            }
            return try LockFile(readOnly: try File(path: data[0]), patience: patience)
        }
    }

    /// LMDB's locks and maps are this machine's.
    private func refuseNetwork() throws(Failure) {
        guard let name = try Filesystem(of: path).networkName else { return }
        throw Failure(
            .system, .store(path), "it is on \(name): a store's files are mapped into memory and locked, which only works on a filesystem of this machine",
            remedy: "put the store on a local disk, and serve its disks to other machines by NBD")
    }

    /// - Throws: `.damage` when a file of the store is missing, or has nothing in it.
    func refuseIncomplete() throws(Failure) {
        for file in data {
            guard try exists(file) else {
                throw Failure(.damage, .file(file), "missing, though the rest of the store is there", remedy: "restore it from a copy")
            }
            if try File(path: file).size() == 0 {
                throw Failure(.damage, .file(file), "empty, though the rest of the store is there", remedy: "restore it from a copy")
            }
        }
    }

    // MARK: Making

    /// Makes the directory, and those above it; what a stranger has there stays.
    /// - Returns: the directories that were made, the outermost first.
    func makeDirectories() throws(Failure) -> [String] {
        var made: [String] = []
        var parent = ""
        // By scalars: a slash is one whatever follows, a combining accent, say.
        for part in path.unicodeScalars.split(separator: "/", omittingEmptySubsequences: true) {
            parent += (parent.isEmpty && path.utf8.first != UInt8(ascii: "/") ? "" : "/") + String(part)
            let isLast = parent.utf8.count == path.utf8.count
            if unsafe mkdir(parent, isLast ? Self.newMode : 0o777) == 0 {
                made.append(parent)
            } else if errno != EEXIST {
                throw Failure(systemCall: "create the directory", .file(parent), errno: errno)
            }
        }
        do throws(Failure) {
            try refuseNetwork()
            try refuseStrangers()
        } catch {
            for directory in made.reversed() { unsafe rmdir(directory) }
            throw error
        }
        return made
    }

    /// A new directory is its maker's alone, or its group's, too, where the umask gives the group all that is made (umask(2)).
    private static var newMode: mode_t {
        let mask = umask(0o077)
        umask(mask)
        return mask & 0o070 == 0 ? 0o770 : 0o700
    }

    private func refuseStrangers() throws(Failure) {
        guard let directory = unsafe opendir(path) else { throw Failure(systemCall: "open the store's directory", .file(path), errno: errno) }
        defer { unsafe closedir(directory) }
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { bytes in
                unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            guard name.hasPrefix("filter") || [".", "..", "lost+found", "lock", "creating", "meta", "packs", "journals", "reserve"].contains(name) else {
                throw Failure(.exists, "create a store in", .file(path), "the directory is not empty", remedy: "name an empty or a new directory")
            }
        }
    }

    /// The locks of a store that is to be made here.
    func newLockFile(_ patience: Patience) throws(Failure) -> LockFile { try LockFile(try openLock(), patience: patience) }

    /// Sets the mark, removes what an interrupted making left, and makes the directories. For whoever holds `opening`.
    func beginMaking() throws(Failure) {
        if try !exists(mark) {
            try File.owned(mark, options: [.write]).synchronize()
            try synchronize(path)
        }
        removeParts()
        for part in Self.subdirectories { try File.makeOwnedDirectory(path + part) }
    }

    /// Has all names on the disk, then takes the mark away.
    func finishMaking() throws(Failure) {
        for part in Self.subdirectories { try synchronize(path + part) }
        try synchronize(path)
        try synchronizeParents()
        guard unsafe unlink(mark) == 0 || errno == ENOENT else { throw Failure(systemCall: "remove the mark", .file(mark), errno: errno) }
        try synchronize(path)
    }

    /// Takes back a making that failed.
    /// - Parameter made: directories that it made.
    func abandonMaking(_ made: [String]) {
        removeParts()
        for part in Self.subdirectories { unsafe rmdir(path + part) }
        unsafe unlink(mark)
        // Whoever waits for the lock finds that there is no directory.
        if made.last == path { unsafe unlink(lockPath) }
        for directory in made.reversed() { unsafe rmdir(directory) }
    }

    private func removeParts() {
        for part in ["/meta/data.mdb", "/meta/lock.mdb", "/packs/data.mdb", "/packs/lock.mdb", "/filter", "/reserve"] { unsafe unlink(path + part) }
    }

    private func synchronize(_ directory: String) throws(Failure) { try File(path: directory, options: [.directory]).synchronize() }

    /// Their maker, now or in an earlier try, may not have come to it.
    private func synchronizeParents() throws(Failure) {
        guard let real = unsafe realpath(path, nil) else { throw Failure(systemCall: "find", .file(path), errno: errno) }
        defer { unsafe free(real) }
        var parent = unsafe PathText.text(real)
        while let slash = parent.unicodeScalars.lastIndex(of: "/"), parent != "/" {
            parent = slash == parent.startIndex ? "/" : String(parent[..<slash])
            // A directory that this user may not open, it has not made.
            do throws(Failure) { try synchronize(parent) } catch where error.isNoRight {}
        }
    }
}

extension Failure {
    /// Nothing can be written there, or not by this user.
    fileprivate var isNoRight: Bool { kind == .notPermitted || kind == .readOnly }
}
