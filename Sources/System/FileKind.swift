internal import CLinux
internal import Glibc

extension File {
    /// What a path or a descriptor may lead to (inode(7)).
    public enum Kind: Sendable { case regular, blockDevice, characterDevice, pipe, socket, directory, other }

    /// What is known of a file without reading it: fstat(2), stat(2).
    public struct Status: Sendable, Equatable {
        public let kind: Kind
        /// Permissions, with the bits for set-user-id, set-group-id and sticky.
        public let mode: UInt32
        public let owner, group: UInt32
        /// Names that it has.
        public let linkCount: UInt64
        /// The filesystem that it is in, and its number there.
        public let filesystem, inode: UInt64
        /// Of a device: which one it is, whatever its name; else 0. `name` says it as the kernel's files do, `8:1`.
        public let device: UInt64

        public var deviceName: String { "\(clinux_major(dev_t(device))):\(clinux_minor(dev_t(device)))" }

        /// Whether the other one is of the same file, or of the same device by another name.
        public func isSame(as other: Status) -> Bool {
            if kind == .blockDevice || kind == .characterDevice { return kind == other.kind && device == other.device }
            return filesystem == other.filesystem && inode == other.inode
        }

        /// Of a directory: whether this process may not replace a file of that status there, as it is sticky (unlink(2)).
        public func keepsFiles(of file: Status) -> Bool {
            mode & UInt32(S_ISVTX) != 0 && geteuid() != 0 && geteuid() != file.owner && geteuid() != owner
        }

        init(_ status: stat) {
            kind =
                switch status.st_mode & S_IFMT {
                case S_IFREG: .regular
                case S_IFBLK: .blockDevice
                case S_IFCHR: .characterDevice
                case S_IFIFO: .pipe
                case S_IFSOCK: .socket
                case S_IFDIR: .directory
                default: .other
                }
            mode = status.st_mode & 0o7777
            (owner, group) = (status.st_uid, status.st_gid)
            linkCount = UInt64(status.st_nlink)
            (filesystem, inode) = (UInt64(status.st_dev), UInt64(status.st_ino))
            device = UInt64(status.st_rdev)
        }
    }

    /// fstat(2).
    public func status() throws(Failure) -> Status {
        try withDescriptor { (descriptor) throws(Failure) in
            var status = stat()
            guard unsafe fstat(descriptor, &status) == 0 else { throw Failure(systemCall: "look at", .file(path), errno: errno) }
            return Status(status)
        }
    }

    /// stat(2), which follows links. Nil: nothing has that name, or a link leads nowhere.
    public static func status(of path: String) throws(Failure) -> Status? {
        var status = stat()
        guard unsafe stat(path, &status) == 0 else {
            let code = errno
            guard code == ENOENT else { throw Failure(systemCall: "look at", .file(path), errno: code) }
            return nil
        }
        return Status(status)
    }

    /// Whether `path` itself is a link, wherever it leads: lstat(2).
    public static func isLink(_ path: String) throws(Failure) -> Bool {
        var status = stat()
        guard unsafe lstat(path, &status) == 0 else {
            let code = errno
            guard code == ENOENT else { throw Failure(systemCall: "look at", .file(path), errno: code) }
            return false
        }
        return status.st_mode & S_IFMT == S_IFLNK
    }

    /// `st_mode` of fstat(2).
    public func kind() throws(Failure) -> Kind { try status().kind }

    /// Whether it is a terminal: isatty(3).
    public func isTerminal() throws(Failure) -> Bool {
        try withDescriptor { (descriptor) throws(Failure) in isatty(descriptor) == 1 }
    }

    /// Where `path` is, with no link left in it: realpath(3). Nil: nothing is there, or it may not be looked at.
    public static func resolved(_ path: String) -> String? {
        guard let real = unsafe realpath(path, nil) else { return nil }
        defer { unsafe free(real) }
        return unsafe PathText.text(real)
    }

    /// The directory that `path` is in, and its name there.
    public static func split(_ path: String) -> (directory: String, name: String) {
        guard let slash = path.utf8.lastIndex(of: UInt8(ascii: "/")) else { return (".", path) }
        let name = String(path[path.utf8.index(after: slash)...])
        return (slash == path.startIndex ? "/" : String(path[..<slash]), name)
    }

    /// Names in a directory, in no order: readdir(3). Empty where it can't be read.
    public static func names(in directory: String) -> [String] {
        guard let stream = unsafe opendir(directory) else { return [] }
        defer { unsafe closedir(stream) }
        var names: [String] = []
        while let entry = unsafe readdir(stream) {
            let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { unsafe PathText.text($0.prefix { $0 != 0 }) }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }

    /// What a file of the kernel's says (proc(5), sysfs(5)), up to 16 MiB. Nil: there is none, or it may not be read.
    public static func text(ofKernelFile path: String) -> String? {
        // Whatever the reason, what it would tell is not known.
        guard let file = try? File(path: path) else { return nil }
        var text: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        while text.count < 16 << 20 {
            // Half of it would be taken for all.
            guard let count = try? chunk.withMutableBytes({ (bytes) throws(Failure) in try file.readNext(into: &bytes) }) else { return nil }
            text += chunk.prefix(count)
            if count < chunk.count { break }
        }
        // There are paths in it.
        return PathText.text(text)
    }
}
