internal import CLinux
internal import Glibc

/// Files and directories that belong to whom the directory belongs that they are in: so that one command of root's on a user's
/// store, or of another member of its group, locks nobody out. What is there already stays as it is.
extension File {
    /// Opens the regular file at `path`, or makes it. No link is followed to it: who owns the directory could have put it there.
    /// - Parameter options: besides `.create`; `.truncate` goes without saying for a new one.
    public static func owned(_ path: String, options: Options = [.write]) throws(Failure) -> File {
        let directory = try Owner(directoryOf: path)
        for _ in 0..<8 {
            do throws(Failure) {
                let file = try File(path: path, options: options.union(.notFollowing))
                guard try file.kind() == .regular else {
                    throw Failure(.exists, "open", .file(path), "it is no regular file", remedy: "see what it is, and move it away")
                }
                return file
            } catch where error.kind == .notFound {
                // Made below.
            }
            do throws(Failure) {
                let file = try File(path: path, options: options.union([.create, .exclusive, .notFollowing]))
                try file.give(to: directory)
                return file
            } catch where error.kind == .exists {
                // Another process was faster.
            }
        }
        throw Failure(.busy, "open", .file(path), "it is made and removed again and again", remedy: "try again")
    }

    /// Makes the directory at `path`, which belongs to whom its parent belongs. Does nothing when it is there.
    public static func makeOwnedDirectory(_ path: String) throws(Failure) {
        let parent = try Owner(directoryOf: path)
        guard unsafe mkdir(path, 0o700) == 0 else {
            let code = errno
            guard code == EEXIST else { throw Failure(systemCall: "create the directory", .file(path), errno: code) }
            return
        }
        try File(path: path, options: [.directory, .notFollowing]).give(to: parent)
    }

    /// Whether a socket is at `path` itself: lstat(2).
    public static func isSocket(_ path: String) -> Bool {
        var status = stat()
        return unsafe lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFSOCK
    }

    /// Removes the socket at `path`; does nothing when there is none.
    public static func removeSocket(_ path: String) { if isSocket(path) { unsafe unlink(path) } }

    /// Gives the socket at `path`, which this process has just made, to whom its directory belongs.
    static func giveSocketToOwner(ofDirectoryOf path: String) throws(Failure) {
        let owner = try Owner(directoryOf: path)
        // Only root may give away; the group can be any that the process is in.
        let code = unsafe clinux_give_socket(path, geteuid() == 0 ? owner.user : .max, owner.group, owner.mode & 0o660)
        guard code == 0 || code == EPERM else { throw Failure(systemCall: "set the owner of", .file(path), errno: code) }
    }

    /// Gives this new file, which is to be called `path`, to whom that directory belongs.
    func giveToOwner(ofDirectoryOf path: String) throws(Failure) { try give(to: Owner(directoryOf: path)) }

    /// fchown(2) and fchmod(2) of what this process has just made.
    private func give(to owner: Owner) throws(Failure) {
        let isDirectory = try kind() == .directory
        let code = try withDescriptor { (descriptor) throws(Failure) -> Int32 in
            // Only root may give away; the group can be any that the process is in. Otherwise it stays its maker's.
            if fchown(descriptor, geteuid() == 0 ? owner.user : .max, owner.group) != 0, errno != EPERM { return errno }
            return fchmod(descriptor, owner.mode & (isDirectory ? 0o770 : 0o660)) == 0 ? 0 : errno
        }
        guard code == 0 else { throw Failure(systemCall: "set the owner of", .file(path), errno: code) }
    }

    /// fallocate(2): the first `byteCount` bytes have their blocks, so that to write them through a map never finds a full
    /// filesystem, which would be a bus error. Does nothing where the filesystem has no such thing.
    /// - Throws: `.noSpace`.
    public func allocate(byteCount: UInt64) throws(Failure) {
        let code = try withDescriptor { (descriptor) throws(Failure) -> Int32 in
            while clinux_allocate(descriptor, off_t(clamping: byteCount)) != 0 {
                let code = errno
                guard code == EINTR else { return code }
            }
            return 0
        }
        guard code == 0 || code == EOPNOTSUPP || code == ENOSYS else { throw Failure(systemCall: "allocate", .file(path), errno: code) }
    }
}

/// Whom a directory belongs to, and what others may do there.
private struct Owner {
    let user: uid_t
    let group: gid_t
    let mode: mode_t

    init(directoryOf path: String) throws(Failure) {
        let slash = path.utf8.lastIndex(of: UInt8(ascii: "/"))
        let directory = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        var status = stat()
        guard unsafe stat(directory, &status) == 0 else { throw Failure(systemCall: "look at", .file(directory), errno: errno) }
        (user, group, mode) = (status.st_uid, status.st_gid, status.st_mode & 0o777)
    }
}
