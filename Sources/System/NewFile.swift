internal import CLinux
internal import Glibc
internal import Synchronization

/// A file that gets its name when it is whole. Until then it has none, or, where a filesystem can't have files without one
/// (open(2), O_TMPFILE), a random one that nothing else has; it goes with this.
///
/// Of several that get the same name, the last one stands, as a whole. A link that has the name is replaced, not followed.
public final class NewFile: Sendable {
    public let file: File
    private let directory: File
    private let name: String
    /// The random name, as long as the file has it.
    private let temporary: Mutex<String?>

    /// Makes it in the directory of `path`, to be called that. `mode`: permissions, less the process's umask.
    public convenience init(for path: String, mode: UInt32 = 0o600) throws(Failure) { try self.init(for: path, mode: mode, unnamed: true) }

    /// - Parameter unnamed: without a name, where that can be.
    init(for path: String, mode: UInt32 = 0o600, unnamed: Bool) throws(Failure) {
        let (directory, name) = File.split(path)
        self.directory = try File(path: directory, options: .directory)
        self.name = name
        let opened = try self.directory.withDescriptor { (directory) throws(Failure) -> CInt in
            guard unnamed else { return -1 }
            let descriptor = clinux_open_unnamed(directory, mode)
            let code = errno
            guard descriptor >= 0 || code == EOPNOTSUPP else { throw Failure(systemCall: "create", .file(path), errno: code) }
            return descriptor
        }
        if opened >= 0 {
            file = File(descriptor: opened, path: path)
            temporary = Mutex(nil)
        } else {
            var created: CInt = -1
            temporary = Mutex(
                try Self.withRandomName(in: self.directory, for: path) { directory, name in
                    unsafe created = clinux_create_at(directory, name, mode)
                    return created >= 0
                })
            file = File(descriptor: created, path: path)
        }
    }

    deinit { removeTemporary() }

    /// Gives it its name. A file that has the name is replaced.
    /// - Parameter durably: file and name survive the loss of power: fsync(2).
    public func put(durably: Bool) throws(Failure) {
        if durably { try file.synchronize() }
        try temporary.withLock { (temporary) throws(Failure) in
            if temporary == nil {
                if try takeName() { return }
                // rename(2) replaces, link(2) does not. Between the two, the file has a name that a kill -9 would leave.
                temporary = try Self.withRandomName(in: directory, for: file.path) { directory, name in
                    // False: another name is tried; that the descriptor is closed can't be.
                    (try? file.withDescriptor { (descriptor) throws(Failure) in unsafe clinux_name_temporary(descriptor, directory, name) == 0 }) ?? false
                }
            }
            guard let random = temporary else { return }
            try directory.withDescriptor { (directory) throws(Failure) in
                guard unsafe renameat(directory, random, directory, name) == 0 else {
                    throw Failure(systemCall: "put in place", .file(file.path), errno: errno)
                }
            }
            temporary = nil
        }
        if durably { try directory.synchronize() }
    }

    /// linkat(2). False: something has the name.
    private func takeName() throws(Failure) -> Bool {
        try directory.withDescriptor { (directory) throws(Failure) in
            try file.withDescriptor { (descriptor) throws(Failure) in
                if unsafe clinux_name_temporary(descriptor, directory, name) == 0 { return true }
                let code = errno
                guard code == EEXIST else { throw Failure(systemCall: "put in place", .file(file.path), errno: code) }
                return false
            }
        }
    }

    private func removeTemporary() {
        temporary.withLock { temporary in
            guard let name = temporary else { return }
            // It is removed or, where that can't be, left: nobody is there to hear of it.
            _ = try? directory.withDescriptor { (directory) throws(Failure) in unsafe unlinkat(directory, name, 0) }
            temporary = nil
        }
    }

    /// A name that `make` could take in `directory`: 64 random bits, which nobody foresees.
    private static func withRandomName(
        in directory: borrowing File, for path: String, _ make: (CInt, String) -> Bool
    ) throws(Failure) -> String {
        var random = SystemRandomNumberGenerator()
        var code = EEXIST
        for _ in 0..<16 where code == EEXIST {
            let name = ".dedupdisk-" + String(random.next() as UInt64, radix: 36)
            code = try directory.withDescriptor { (directory) throws(Failure) in make(directory, name) ? 0 : errno }
            if code == 0 { return name }
        }
        throw Failure(systemCall: "create", .file(path), errno: code)
    }

    // MARK: Whose it is

    /// Gives it to whom its directory belongs, as `File.owned`.
    public func belongToDirectory() throws(Failure) { try file.giveToOwner(ofDirectoryOf: file.path) }

    /// Gives it owner, group, permissions and access control list of the file at `path`.
    /// - Throws: `.system` when this process may not.
    public func resemble(_ path: String) throws(Failure) {
        guard let old = try File.status(of: path) else { return }
        let list = try Self.accessList(of: path)
        try file.withDescriptor { (descriptor) throws(Failure) in
            let own = try file.status()
            if own.owner != old.owner || own.group != old.group {
                try file.check(fchown(descriptor, old.owner, old.group), "give to its old owner")
            }
            if let list {
                try file.check(unsafe list.withUnsafeBytes { unsafe clinux_set_acl(descriptor, $0.baseAddress, $0.count) }, "copy the access control list of")
            } else {
                // What a directory's default list gave it; mostly there is none.
                _ = clinux_remove_acl(descriptor)
            }
            // Last: a change of owner takes bits away.
            try file.check(fchmod(descriptor, mode_t(old.mode)), "give the old permissions to")
        }
    }

    /// Nil: it has none beyond its permissions, or its filesystem knows no such thing.
    private static func accessList(of path: String) throws(Failure) -> [UInt8]? {
        // The most that Linux keeps (xattr(7)).
        var value = [UInt8](repeating: 0, count: 65536)
        let count = unsafe value.withUnsafeMutableBytes { unsafe clinux_get_acl(path, $0.baseAddress, $0.count) }
        if count >= 0 { return Array(value.prefix(count)) }
        let code = errno
        guard code == ENODATA || code == EOPNOTSUPP || code == ENOSYS else {
            throw Failure(systemCall: "read the access control list of", .file(path), errno: code)
        }
        return nil
    }
}
