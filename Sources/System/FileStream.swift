internal import CLinux
internal import Glibc

/// Files that are read or written from where they stand: pipes, sockets, terminals, and whatever descriptors the process was
/// started with.
extension File {
    /// The descriptor that the process was started with as `number`: dup(2). It is the same opening: its position, its locks and its
    /// flags are those of whoever gave it.
    /// - Parameter name: what errors call it.
    public init(given number: Int32, as name: String) throws(Failure) {
        // What this process opened itself closes on exec, so that it can't have been given.
        let flags = fcntl(number, F_GETFD)
        let isOurs = number > 2 && flags & FD_CLOEXEC != 0
        let copy = flags < 0 || isOurs || clinux_only_names(number) != 0 ? -1 : fcntl(number, F_DUPFD_CLOEXEC, 3)
        guard copy >= 0 else { throw Failure(systemCall: "use", .file(name), errno: EBADF) }
        self.init(descriptor: copy, path: name)
    }

    /// The number of the process's own descriptor that `path` names, as /dev/stdin, /dev/fd/3 and /proc/self/fd/3 do, or a link to one
    /// of them; nil: another file.
    public static func descriptor(named path: String) -> Int32? {
        let standard: [String: Int32] = ["/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2]
        let (own, thread) = ("/proc/\(getpid())/", "/proc/\(getpid())/task/\(getpid())/")
        var path = path
        // As many links as the kernel would follow.
        for _ in 0..<40 {
            if let number = standard[path] { return number }
            let (directory, name) = split(path)
            let place = directory == "/dev/fd" ? own + "fd" : resolved(directory)
            if place == own + "fd" || place == thread + "fd" { return Int32(name) }
            guard let place, let target = link(place + "/" + name) else { return nil }
            path = target.utf8.first == UInt8(ascii: "/") ? target : place + "/" + target
        }
        return nil
    }

    /// Where the link at `path` points to: readlink(2). Nil: it is none.
    private static func link(_ path: String) -> String? {
        var text = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = unsafe readlink(path, &text, text.count)
        guard count > 0, count < text.count else { return nil }
        return PathText.text(text.prefix(count).map { UInt8(bitPattern: $0) })
    }

    /// Opens a pipe or a character device for one way only: open(2), O_RDONLY or O_WRONLY. Waits until a FIFO's other end is open.
    /// - Throws: `.interrupted` when a signal came that somebody handles.
    public init(streamAt path: String, writing: Bool) throws(Failure) {
        let descriptor = unsafe open(path, (writing ? O_WRONLY : O_RDONLY) | O_CLOEXEC | O_NOCTTY)
        let code = errno
        guard descriptor >= 0 else {
            if code == EINTR { throw Failure(.interrupted, "open", .file(path), "interrupted") }
            throw Failure(systemCall: "open", .file(path), errno: code)
        }
        self.init(descriptor: descriptor, path: path)
    }

    /// Another descriptor of the same opening: dup(2).
    public func duplicate() throws(Failure) -> File {
        try withDescriptor { (descriptor) throws(Failure) in
            let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 3)
            guard copy >= 0 else { throw Failure(systemCall: "duplicate", .file(path), errno: errno) }
            return File(descriptor: copy, path: path)
        }
    }

    /// Where the next `readNext` or `writeNext` begins: lseek(2). Nil: it has no offsets, as a pipe.
    public func position() throws(Failure) -> UInt64? {
        try withDescriptor { (descriptor) throws(Failure) in
            let offset = lseek(descriptor, 0, SEEK_CUR)
            if offset >= 0 { return UInt64(offset) }
            let code = errno
            guard code == ESPIPE else { throw Failure(systemCall: "seek in", .file(path), errno: code) }
            return nil
        }
    }

    /// Has the next `readNext` or `writeNext` begin at `offset`: lseek(2).
    public func seek(to offset: UInt64) throws(Failure) {
        let offset = try position("seek in", offset, 0)
        try withDescriptor { (descriptor) throws(Failure) in
            guard lseek(descriptor, offset, SEEK_SET) >= 0 else { throw Failure(systemCall: "seek in", .file(path), errno: errno) }
        }
    }

    /// Whether every write goes to its end, whatever the offset: O_APPEND of fcntl(2).
    public func isAppending() throws(Failure) -> Bool {
        try withDescriptor { (descriptor) throws(Failure) in
            let flags = fcntl(descriptor, F_GETFL)
            return flags >= 0 && flags & O_APPEND != 0
        }
    }

    /// read(2) until `buffer` is full or the stream ends; the number of bytes read. Waits where the descriptor does not.
    /// - Throws: `.interrupted` when a signal came that somebody handles.
    public func readNext(into buffer: inout MutableRawSpan) throws(Failure) -> Int {
        // As in `read(at:into:)`.
        unsafe try buffer.withUnsafeMutableBytes { (bytes) throws(Failure) -> Int in
            guard let base = bytes.baseAddress else { return 0 }
            var done = 0
            while done < bytes.count {
                let count = try withDescriptor { (descriptor) throws(Failure) in unsafe Glibc.read(descriptor, base + done, bytes.count - done) }
                if count == 0 { break }
                try advanceStream(&done, count, "read", waitingFor: POLLIN)
            }
            return done
        }
    }

    /// write(2) of all `bytes`. Waits where the descriptor does not.
    /// - Throws: `.interrupted` when a signal came that somebody handles.
    public func writeNext(_ bytes: RawSpan) throws(Failure) {
        unsafe try bytes.withUnsafeBytes { (bytes) throws(Failure) in
            guard let base = bytes.baseAddress else { return }
            var done = 0
            while done < bytes.count {
                let count = try withDescriptor { (descriptor) throws(Failure) in unsafe Glibc.write(descriptor, base + done, bytes.count - done) }
                try advanceStream(&done, count, "write", waitingFor: POLLOUT)
            }
        }
    }

    /// As `advance`, of a stream: a signal ends it, and what is not ready yet is waited for (poll(2)).
    private func advanceStream(_ done: inout Int, _ count: Int, _ operation: Failure.Operation, waitingFor event: Int32) throws(Failure) {
        guard count < 0 else { return try advance(&done, count, operation) }
        var code = errno
        if code == EAGAIN {
            code = 0
            try withDescriptor { (descriptor) throws(Failure) in
                var entry = pollfd(fd: descriptor, events: Int16(event), revents: 0)
                if unsafe poll(&entry, 1, -1) < 0 { code = errno }
            }
        }
        if code == EINTR { throw Failure(.interrupted, operation, .file(path), "interrupted") }
        if code != 0 { throw Failure(systemCall: operation, .file(path), errno: code) }
    }
}
