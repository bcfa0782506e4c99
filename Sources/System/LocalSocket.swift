internal import CLinux
public import Glibc
internal import Synchronization

/// A UNIX socket that carries lines of text, listening or connected. One thread sends and receives; any other may end that with `shutdown`.
public final class LocalSocket: Sendable {
    private let descriptor: Int32
    /// What was received behind the last line.
    private let rest = Mutex<[UInt8]>([])

    /// Longest line, in bytes.
    public static let longestLine = 64 << 10

    private init(_ descriptor: Int32) { self.descriptor = descriptor }

    deinit { _ = close(descriptor) }

    private static func make(_ flags: UInt32 = 0) throws(Failure) -> Int32 {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | flags), 0)
        guard descriptor >= 0 else { throw Failure(systemCall: "make", "a socket", errno: errno) }
        return descriptor
    }

    /// Listens at `path`, where nothing may be. Whoever may write to the directory's files may connect.
    public static func listen(at path: String) throws(Failure) -> LocalSocket {
        let socket = LocalSocket(try make())
        // Linux gives the file the socket's own mode, and the umask's.
        guard fchmod(socket.descriptor, 0o600) == 0 else { throw Failure(systemCall: "protect", .file(path), errno: errno) }
        let code = unsafe try withAddress(path) { address, size in unsafe bind(socket.descriptor, address, size) == 0 ? 0 : errno }
        guard code == 0 else { throw Failure(systemCall: "listen on", .file(path), errno: code) }
        do throws(Failure) {
            try File.giveSocketToOwner(ofDirectoryOf: path)
            guard Glibc.listen(socket.descriptor, 64) == 0 else { throw Failure(systemCall: "listen on", .file(path), errno: errno) }
        } catch {
            unsafe unlink(path)
            throw error
        }
        return socket
    }

    /// Connects to who listens at `path`. Nil: nobody does.
    /// - Throws: `.busy` when whoever does has not taken in those who came before, for long.
    public static func connect(to path: String) throws(Failure) -> LocalSocket? {
        // connect(2) would wait for the place of another.
        let socket = LocalSocket(try make(SOCK_NONBLOCK.rawValue))
        let code = unsafe try withAddress(path) { address, size in
            var code: Int32
            repeat { code = unsafe Glibc.connect(socket.descriptor, address, size) == 0 ? 0 : errno } while code == EINTR
            return code
        }
        switch code {
        case 0: return socket
        case ENOENT, ECONNREFUSED: return nil
        case EAGAIN: throw Failure(.busy, "ask", "who listens on \(path)", "it does not answer", remedy: "see whether it is stopped")
        default: throw Failure(systemCall: "ask who listens on", .file(path), errno: code)
        }
    }

    /// The next who connects; waits for one. Nil: this was shut down, or nobody can be taken in.
    public func accept() -> LocalSocket? {
        while true {
            let connected = Glibc.accept(descriptor, nil, nil)
            if connected >= 0 {
                _ = fcntl(connected, F_SETFD, FD_CLOEXEC)
                return LocalSocket(connected)
            }
            switch errno {
            case EINTR, ECONNABORTED: continue
            // Whoever comes waits until there are some again.
            case EMFILE, ENFILE, ENOBUFS, ENOMEM: pause(milliseconds: 100)
            default: return nil
            }
        }
    }

    /// Nothing is sent or received any more, nobody is taken in: whoever waits for it wakes up.
    public func shutdown() { _ = Glibc.shutdown(descriptor, Int32(SHUT_RDWR)) }

    /// The process at the other end: its number here; 0 where it has none here.
    public var peer: Int32 { clinux_peer(descriptor) }

    /// Sends a line, and never waits. False: the other end is gone, or does not read.
    public func send(_ line: String) -> Bool {
        var bytes = Array(line.utf8)
        bytes.append(UInt8(ascii: "\n"))
        var done = 0
        while done < bytes.count {
            let count = unsafe bytes.withUnsafeBytes { bytes in
                unsafe Glibc.send(descriptor, bytes.baseAddress.map { unsafe $0 + done }, bytes.count - done, Int32(MSG_NOSIGNAL | MSG_DONTWAIT))
            }
            if count < 0, errno != EINTR { return false }
            done += max(0, count)
        }
        return true
    }

    /// What came of waiting for a line.
    public enum Received: Equatable, Sendable {
        case line(String)
        /// None within the time.
        case late
        /// The other end is gone, or sends what is no line.
        case closed
    }

    /// The next line, without its end.
    /// - Parameter seconds: how long to wait for all of it.
    public func receive(within seconds: Double) -> Received {
        let end = monotonicSeconds() + seconds
        while true {
            let line = rest.withLock { rest -> Received? in
                guard let length = rest.firstIndex(of: UInt8(ascii: "\n")) else { return rest.count > Self.longestLine ? .closed : nil }
                defer { rest.removeFirst(length + 1) }
                return String(validating: rest[..<length], as: UTF8.self).map { .line($0) } ?? .closed
            }
            if let line { return line }
            let left = end - monotonicSeconds()
            guard left > 0 else { return .late }
            var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            let ready = unsafe poll(&entry, 1, Int32(clamping: Int(min(left, 1e6) * 1000) + 1))
            if ready < 0, errno != EINTR { return .closed }
            guard ready > 0 else { continue }
            var bytes = [UInt8](repeating: 0, count: 4096)
            let count = unsafe bytes.withUnsafeMutableBytes { unsafe recv(descriptor, $0.baseAddress, $0.count, Int32(MSG_DONTWAIT)) }
            if count == 0 { return .closed }
            if count < 0 {
                guard errno == EAGAIN || errno == EINTR else { return .closed }
                continue
            }
            rest.withLock { $0 += bytes[..<count] }
        }
    }

    /// Bytes of a path that an address has room for.
    public static let longestPath = MemoryLayout.size(ofValue: sockaddr_un().sun_path) - 1

    /// Calls `body` with the address of `path`, which may be longer than an address has room for: then by its directory's descriptor.
    @unsafe public static func withAddress(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) throws(Failure) -> Int32 {
        let bytes = PathText.bytes(path)
        guard bytes.count > longestPath else { return unsafe try withShortAddress(bytes, path, body) }
        let parts = File.split(path)
        let directory = try File(path: parts.directory, options: [.directory])
        return try directory.withDescriptor { (descriptor) throws(Failure) in
            unsafe try withShortAddress(Array("/proc/self/fd/\(descriptor)/".utf8) + PathText.bytes(parts.name), path, body)
        }
    }

    @unsafe private static func withShortAddress(
        _ bytes: [UInt8], _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) throws(Failure) -> Int32 {
        guard bytes.count <= longestPath, !bytes.contains(0) else {
            throw Failure(.usage, "listen on", .file(path), "a socket's name has \(longestPath) bytes at most")
        }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: bytes) }
        return unsafe withUnsafePointer(to: address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe body($0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
    }
}
