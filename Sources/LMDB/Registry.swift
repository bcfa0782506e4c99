internal import Glibc
internal import Synchronization
public import System

extension Environment {
    /// An environment by its file: device and inode.
    struct FileID: Hashable {
        let device: UInt64
        let inode: UInt64

        /// Nil: there is no file at `path`.
        init?(_ path: String) {
            var status = stat()
            guard unsafe stat(path, &status) == 0 else { return nil }
            device = UInt64(status.st_dev)
            inode = UInt64(status.st_ino)
        }
    }

    private final class Weak: Sendable {
        weak let environment: Environment?
        init(_ environment: Environment) { self.environment = environment }
    }

    /// Environments that this process has open. An entry goes when its environment is closed.
    private static let opened = Mutex<[FileID: Weak]>([:])

    /// Opens the environment in directory `path`, as `init` does, or shares it with whoever in this process has it
    /// open: LMDB must not open one twice in a process (lmdb.h, "Caveats"). Its file locks are the process's own, so that a second opening
    /// would find nobody, and make the mutexes anew while they are in use.
    ///
    /// For whoever holds `LockFile.Lock.opening`.
    public static func open(
        path: String, number: Int, _ lockFile: LockFile, mapBytes: Int, tables: Int, creating: Bool, isAlone: Bool = false
    ) throws(Failure) -> Environment {
        let file = path + "/data.mdb"
        while true {
            let result = opened.withLock { opened -> Result<Environment, Failure>? in
                if let id = FileID(file), let entry = opened[id] {
                    // Nil: it is being closed by another thread, which waits for this lock.
                    return entry.environment.map { $0.isAlone == isAlone ? .success($0) : .failure(Self.isOpenOtherwise(path)) }
                }
                do throws(Failure) {
                    let environment = try Environment(
                        path: path, number, lockFile, mapBytes: mapBytes, tables: tables, creating: creating, isAlone: isAlone)
                    environment.id = FileID(file)
                    if let id = environment.id { opened[id] = Weak(environment) }
                    return .success(environment)
                } catch {
                    return .failure(error)
                }
            }
            if let result { return try result.get() }
            sched_yield()
        }
    }

    private static func isOpenOtherwise(_ path: String) -> Failure {
        Failure(.busy, "open", .file(path), "another part of this process upgrades it", remedy: "try again")
    }

    /// Closes the environment and forgets it, in one step for whoever wants to open it.
    func close() {
        // Not known: its opening failed, under the lock.
        guard let id else { return closeHandle() }
        Self.opened.withLock { opened in
            closeHandle()
            opened[id] = nil
        }
    }
}
