internal import Glibc
public import System

/// The right to use an environment alone: it also keeps out programs that know LMDB's own locks only, as those from before the store's lock file do.
///
/// Whoever has an environment open has byte 0 of its `lock.mdb` locked to read, and opens it by locking that byte (mdb.c, `mdb_env_setup_locks`,
/// fcntl(2)). So while it is locked exclusively nobody has it open, and who wants to waits. The kernel keeps these locks: they end with their holder,
/// however that dies. The environment is to be opened `isAlone`, as LMDB would wait for this lock, too.
public struct Isolation: ~Copyable {
    private let file: File

    /// - Parameter path: the environment's directory; for whoever holds `LockFile.Lock.opening`, and has it not open.
    /// - Throws: `.busy` when another process has it open.
    public init(of path: String) throws(Failure) {
        let file = try File.owned(path + "/lock.mdb")
        var isOurs = false
        for attempt in 0..<32 where !isOurs {
            // A process that was killed keeps its locks until the kernel has closed its files.
            if attempt > 0 { usleep(10_000) }
            isOurs = try file.tryLock(0..<1, exclusive: true)
        }
        guard isOurs else {
            throw Failure(
                .busy, .upgrade, .file(path), "a program of an older version has it open", remedy: "end that: what serves the store's disks, say")
        }
        self.file = file
    }
}
