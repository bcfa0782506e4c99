internal import Glibc

/// Files and directories below one directory, by their paths from there.
public struct Tree: Sendable, Equatable {
    public internal(set) var directories: Set<String> = []
    public var files: [String: [UInt8]] = [:] { didSet { hashes = [:] } }
    /// Hashes of files, as far as they are known already.
    private var hashes: [String: UInt64] = [:]

    public init() {}

    init(_ directories: Set<String>, _ files: [String: [UInt8]], _ hashes: [String: UInt64]) {
        (self.directories, self.files, self.hashes) = (directories, files, hashes)
    }

    public static func == (a: Tree, b: Tree) -> Bool { a.directories == b.directories && a.files == b.files }

    /// What is below a directory.
    public init(at root: String) throws(TraceFailure) {
        try Self.forEach(below: root) { (path, kind) throws(TraceFailure) in
            switch kind {
            case S_IFDIR: directories.insert(path)
            case S_IFREG: files[path] = try Bytes.read(root + "/" + path)
            // A server's socket means nothing after a loss of power.
            default: break
            }
        }
    }

    /// The inode numbers of what is below a directory, by paths from there, and its own.
    public static func numbers(below root: String) throws(TraceFailure) -> [String: UInt64] {
        var numbers: [String: UInt64] = [:]
        func note(_ path: String) {
            var status = stat()
            if lstat(path.isEmpty ? root : root + "/" + path, &status) == 0 { numbers[path] = UInt64(status.st_ino) }
        }
        note("")
        try forEach(below: root) { (path, _) throws(TraceFailure) in note(path) }
        return numbers
    }

    /// Writes all of it to a directory, which may be there and empty.
    public func write(to root: String) throws(TraceFailure) {
        for directory in [""] + directories.sorted() {
            let path = root + "/" + directory
            guard mkdir(path, 0o700) == 0 || errno == EEXIST else { throw TraceFailure(systemCall: "make", path) }
        }
        for (path, bytes) in files { try Bytes.write(bytes, to: root + "/" + path) }
    }

    /// Removes a directory and all in it; does nothing when there is none.
    public static func remove(_ root: String) throws(TraceFailure) {
        guard access(root, F_OK) == 0 else { return }
        var directories = [root]
        try forEach(below: root) { (path, kind) throws(TraceFailure) in
            if kind == S_IFDIR { directories.append(root + "/" + path) } else { unlink(root + "/" + path) }
        }
        for directory in directories.reversed() where rmdir(directory) != 0 { throw TraceFailure(systemCall: "remove", directory) }
    }

    /// What is below a directory, each directory before what is in it, with the kind (`st_mode`).
    private static func forEach(below root: String, _ body: (String, mode_t) throws(TraceFailure) -> Void) throws(TraceFailure) {
        var waiting = [""]
        while let prefix = waiting.popLast() {
            guard let directory = opendir(root + "/" + prefix) else { throw TraceFailure(systemCall: "read", root + "/" + prefix) }
            defer { closedir(directory) }
            var names: [String] = []
            while let entry = readdir(directory) {
                let name = withUnsafeBytes(of: entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
                if name != ".", name != ".." { names.append(name) }
            }
            for name in names {
                let path = prefix.isEmpty ? name : prefix + "/" + name
                var status = stat()
                guard lstat(root + "/" + path, &status) == 0 else { continue }
                try body(path, status.st_mode & S_IFMT)
                if status.st_mode & S_IFMT == S_IFDIR { waiting.append(path) }
            }
        }
    }

    /// Puts other bytes in a file's place, or nothing.
    public mutating func replace(_ path: String, with bytes: [UInt8]?) {
        var known = hashes
        known[path] = nil
        files[path] = bytes
        hashes = known
    }

    /// 64 bits that depend on all paths and bytes, to tell trees apart.
    public var fingerprint: UInt64 {
        var sum: UInt64 = 0
        for directory in directories { sum &+= Bytes.mix(1, Bytes.hash(Array(directory.utf8))) }
        for (path, bytes) in files { sum &+= Bytes.mix(Bytes.hash(Array(path.utf8)), hashes[path] ?? Bytes.hash(bytes)) }
        return sum
    }
}
