import Glibc
public import System

/// A listening socket. A UNIX socket's file belongs to its owner alone, and goes with this.
public struct NBDListener: ~Copyable {
    /// Where it listens: with the port that was chosen for port 0, and with an absolute path.
    public private(set) var address: NBDAddress
    let descriptor: Int32
    /// The socket's file.
    private var file: SocketFile?

    /// Listens. The socket file of a server that is dead is replaced.
    /// - Throws: `.busy` when another server listens there; `.exists` when something else has the path; `.usage` for a path that is too long.
    public init(_ address: NBDAddress) throws(Failure) {
        let family =
            switch address {
            case .unix: AF_UNIX
            case .tcp(let host, _): host.contains(":") ? AF_INET6 : AF_INET
            }
        descriptor = socket(family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
        self.address = address
        guard descriptor >= 0 else { throw Failure(systemCall: "make", "a socket", errno: errno) }
        switch address {
        case .unix(let path): try listenUNIX(path)
        case .tcp(let host, let port): try listenTCP(host, port)
        }
    }

    deinit {
        if let file { file.remove() }
        if descriptor >= 0 { _ = close(descriptor) }
    }

    // MARK: UNIX

    private mutating func listenUNIX(_ path: String) throws(Failure) {
        // Of two servers that find a dead socket, only one may replace it.
        let turn = DirectoryLock(of: path)
        // Linux gives the file the socket's own mode.
        guard fchmod(descriptor, 0o600) == 0 else { throw Failure(systemCall: "protect", .file(path), errno: errno) }
        if try !bindUNIX(path) {
            try Self.removeDead(path)
            guard try bindUNIX(path) else { throw Self.inUse(path) }
        }
        file = SocketFile(path)
        try startListening(path)
        _ = consume turn
        if let real = unsafe realpath(path, nil) {
            address = .unix(path: unsafe PathText.text(real))
            unsafe free(real)
        }
    }

    /// bind(2). False: something has that path.
    private func bindUNIX(_ path: String) throws(Failure) -> Bool {
        let code = unsafe try Self.withAddress(path) { address, size in unsafe bind(descriptor, address, size) == 0 ? 0 : errno }
        if code == 0 { return true }
        guard code == EADDRINUSE else { throw Failure(systemCall: "listen on", .file(path), errno: code) }
        return false
    }

    /// Removes the socket file if nobody listens there: connect(2) tells.
    private static func removeDead(_ path: String) throws(Failure) {
        guard SocketFile(path) != nil else {
            throw Failure(.exists, .listen, .file(path), "there is something that is no socket", remedy: "remove it, or name another path")
        }
        let probe = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
        guard probe >= 0 else { throw Failure(systemCall: "make", "a socket", errno: errno) }
        defer { _ = close(probe) }
        let code = unsafe try withAddress(path) { address, size in unsafe connect(probe, address, size) == 0 ? 0 : errno }
        guard code == ECONNREFUSED || code == ENOENT else { throw inUse(path) }
        unsafe unlink(path)
    }

    private static func inUse(_ path: String) -> Failure {
        Failure(.busy, .listen, .file(path), "another server listens there", remedy: "stop it, or name another path")
    }

    private static func withAddress(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) throws(Failure) -> Int32 {
        // Clients could not connect to a longer one.
        let bytes = PathText.bytes(path), room = LocalSocket.longestPath
        guard !bytes.isEmpty, bytes.count <= room, !bytes.contains(0) else {
            throw Failure(.usage, .listen, .file(path), "a socket's path has 1 to \(room) bytes", remedy: "name a shorter one")
        }
        return unsafe try LocalSocket.withAddress(path, body)
    }

    // MARK: TCP

    private mutating func listenTCP(_ host: String, _ port: UInt16) throws(Failure) {
        // The port may have connections of an earlier server that the kernel has not forgotten yet.
        Self.set(SOL_SOCKET, SO_REUSEADDR, 1, of: descriptor)
        var six = sockaddr_in6(), four = sockaddr_in()
        let isSix = host.contains(":")
        let code: Int32
        if isSix {
            six.sin6_family = sa_family_t(AF_INET6)
            six.sin6_port = port.bigEndian
            _ = unsafe inet_pton(AF_INET6, host, &six.sin6_addr)
            code = Self.bound(descriptor, &six)
        } else {
            four.sin_family = sa_family_t(AF_INET)
            four.sin_port = port.bigEndian
            _ = unsafe inet_pton(AF_INET, host, &four.sin_addr)
            code = Self.bound(descriptor, &four)
        }
        let name = "\(host):\(port)"
        if code == EADDRINUSE {
            throw Failure(.busy, .listen, .address(name), "another server listens there", remedy: "stop it, or choose another port")
        }
        guard code == 0 else { throw Failure(systemCall: .listen, .address(name), errno: code) }
        try startListening(name)
        // `bound` has put the port there.
        address = .tcp(host: host, port: UInt16(bigEndian: isSix ? six.sin6_port : four.sin_port))
    }

    /// bind(2), then getsockname(2), which fills in the port.
    /// - Returns: the error number; 0: none.
    private static func bound<Address>(_ descriptor: Int32, _ address: inout Address) -> Int32 {
        var size = socklen_t(MemoryLayout<Address>.size)
        return unsafe withUnsafeMutablePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                guard unsafe bind(descriptor, pointer, size) == 0, unsafe getsockname(descriptor, pointer, &size) == 0 else { return errno }
                return 0
            }
        }
    }

    // MARK: Connections

    private func startListening(_ name: String) throws(Failure) {
        guard listen(descriptor, SOMAXCONN) == 0 else { throw Failure(systemCall: .listen, .address(name), errno: errno) }
    }

    /// The next connection that waits; nil: none does.
    /// - Throws: when there are no descriptors or no memory for it.
    func accept() throws(Failure) -> Socket? {
        let connected = Glibc.accept(descriptor, nil, nil)
        guard connected >= 0 else {
            let code = errno
            switch code {
            case EAGAIN, EINTR, ECONNABORTED, EPROTO: return nil
            default: throw Failure(systemCall: "accept a connection to", "the disk", errno: code)
            }
        }
        _ = fcntl(connected, F_SETFD, FD_CLOEXEC)
        switch address {
        case .tcp:
            // Replies are collected already: the kernel is not to wait for more of them.
            Self.set(Int32(IPPROTO_TCP), TCP_NODELAY, 1, of: connected)
        case .unix:
            // Room for replies while the client takes those before. TCP's grows by itself.
            Self.set(SOL_SOCKET, SO_SNDBUF, Int32(2 * enoughToSend), of: connected)
        }
        return Socket(connected)
    }

    /// setsockopt(2). An option that can't be set makes it slower, no more.
    private static func set(_ level: Int32, _ option: Int32, _ value: Int32, of descriptor: Int32) {
        _ = unsafe withUnsafePointer(to: value) { unsafe setsockopt(descriptor, level, option, $0, socklen_t(MemoryLayout<Int32>.size)) }
    }
}

/// The file of a UNIX socket, known by more than its path.
private struct SocketFile {
    private let path: String
    private let device: dev_t
    private let inode: ino_t

    /// Nil: nothing is there, or no socket.
    init?(_ path: String) {
        var status = stat()
        guard unsafe lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFSOCK else { return nil }
        self.path = path
        device = status.st_dev
        inode = status.st_ino
    }

    /// Unless another server has put its own there.
    func remove() {
        if let now = SocketFile(path), now.device == device, now.inode == inode { unsafe unlink(path) }
    }
}

/// The lock of the directory that `path` is in (flock(2)), which servers that start take in turn. Where the
/// directory can't be opened, or somebody keeps the lock for more than a second, it is gone on with without it.
private struct DirectoryLock: ~Copyable {
    private let descriptor: Int32

    init(of path: String) {
        // By scalars: a slash with a combining accent behind it is another Character.
        let slash = path.unicodeScalars.lastIndex(of: "/")
        let directory = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        descriptor = unsafe open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        var attempts = 100
        while descriptor >= 0, attempts > 0, flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
            usleep(10_000)
            attempts -= 1
        }
    }

    deinit {
        // With the descriptor goes the lock.
        if descriptor >= 0 { _ = close(descriptor) }
    }
}
