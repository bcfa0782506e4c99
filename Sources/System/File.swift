internal import CLinux
internal import Glibc

/// An open file or block device, closed when it goes out of scope. Every transfer names its offset, so several
/// threads may share one; reads and writes go on after a signal or a short transfer.
///
/// Each member says which system call it is. All throw a `Failure` that names the call, the path and the cause:
/// `.notFound` (ENOENT), `.exists` (EEXIST), `.noSpace` (ENOSPC, EDQUOT), `.busy` (EBUSY, ETXTBSY), else `.system`.
public struct File: ~Copyable, Sendable {
    /// How to open. Nothing given: an existing file, to be read.
    public struct Options: OptionSet, Sendable {
        public let rawValue: Int32
        public init(rawValue: Int32) { self.rawValue = rawValue }
        /// Read and write (`O_RDWR`).
        public static let write = Options(rawValue: O_RDWR)
        /// Create the file when it is missing (`O_CREAT`).
        public static let create = Options(rawValue: O_CREAT)
        /// With `create`: it must not exist yet (`O_EXCL`). On a block device: nobody else may have it mounted.
        public static let exclusive = Options(rawValue: O_EXCL)
        /// Empty the file (`O_TRUNC`).
        public static let truncate = Options(rawValue: O_TRUNC)
        /// A directory, so that its entries can be made durable with `synchronize` (`O_DIRECTORY`).
        public static let directory = Options(rawValue: O_DIRECTORY)
        /// Fail when the path's last part is a link (`O_NOFOLLOW`).
        public static let notFollowing = Options(rawValue: O_NOFOLLOW)
    }

    /// Where the file was opened; what errors name.
    public let path: String
    private var descriptor: Int32

    /// open(2), closed on exec. `mode`: permissions of a file that this call creates.
    public init(path: String, options: Options = [], mode: UInt32 = 0o600) throws(Failure) {
        self.descriptor = -1
        self.path = path
        descriptor = try Self.open(path, options.rawValue, mode)
    }

    /// A file in `directory` that no path leads to, gone with its last descriptor: open(2) with `O_TMPFILE`, or,
    /// where the filesystem can't, mkostemp(3) and unlink(2).
    public init(temporaryIn directory: String) throws(Failure) {
        self.descriptor = -1
        self.path = directory + "/(temporary)"
        let opened = unsafe clinux_open_temporary(directory)
        guard opened >= 0 else { throw Failure(systemCall: "create a temporary file in", .file(directory), errno: errno) }
        descriptor = opened
    }

    /// Takes `descriptor`, to be closed with this.
    init(descriptor: Int32, path: String) {
        self.descriptor = descriptor
        self.path = path
    }

    deinit {
        if descriptor >= 0 { _ = Glibc.close(descriptor) }
    }

    /// close(2). A second call does nothing; any other call fails from now on.
    public mutating func close() throws(Failure) {
        guard descriptor >= 0 else { return }
        let result = Glibc.close(descriptor)
        let code = errno
        descriptor = -1
        // Linux has released the descriptor even when close(2) was interrupted.
        guard result == 0 || code == EINTR else { throw Failure(systemCall: "close", .file(path), errno: code) }
    }

    // MARK: Transfers

    /// pread(2) until `buffer` is full or the file ends; the number of bytes read.
    public func read(at offset: UInt64, into buffer: inout MutableRawSpan) throws(Failure) -> Int {
        let start = try position("read", offset, buffer.byteCount)
        // The span is the buffer's only access for the length of the call; the loop stays within its bounds.
        return unsafe try buffer.withUnsafeMutableBytes { (bytes) throws(Failure) -> Int in
            guard let base = bytes.baseAddress else { return 0 }
            var done = 0
            while done < bytes.count {
                let count = unsafe pread(descriptor, base + done, bytes.count - done, start + off_t(done))
                if count == 0 { break }
                try advance(&done, count, "read")
            }
            return done
        }
    }

    /// pwrite(2) of all `bytes`.
    public func write(at offset: UInt64, _ bytes: RawSpan) throws(Failure) {
        let start = try position("write", offset, bytes.byteCount)
        // As in `read`.
        unsafe try bytes.withUnsafeBytes { (bytes) throws(Failure) in
            guard let base = bytes.baseAddress else { return }
            var done = 0
            while done < bytes.count {
                try advance(&done, unsafe pwrite(descriptor, base + done, bytes.count - done, start + off_t(done)), "write")
            }
        }
    }

    /// pwritev(2) of all parts, one behind the other. What was written is taken out of `parts`: in the end, all.
    public func write(at offset: UInt64, _ parts: inout Gather) throws(Failure) {
        let start = try position("write", offset, parts.byteCount)
        var done = 0
        while parts.byteCount > 0 {
            let before = done
            try advance(&done, parts.pwritev(to: descriptor, at: start + off_t(done)), "write")
            // Less than all is rare (a full disk, a signal).
            parts.removeFirst(done - before)
        }
    }

    // MARK: Durability

    /// fdatasync(2): data, and what is needed to find it, survive the loss of power.
    public func synchronizeData() throws(Failure) { try check(fdatasync(descriptor), "sync") }

    /// fsync(2): the same, and times and permissions; of a directory, its entries.
    public func synchronize() throws(Failure) { try check(fsync(descriptor), "sync") }

    // MARK: Size and space

    /// ftruncate(2) to `byteCount`, shorter or longer (then with a hole).
    public func truncate(to byteCount: UInt64) throws(Failure) {
        try check(ftruncate(descriptor, try position("resize", byteCount, 0)), "resize")
    }

    /// Size in bytes, of a block device too: lseek(2) to the end. Nothing here depends on the file's position.
    public func size() throws(Failure) -> UInt64 {
        let end = lseek(descriptor, 0, SEEK_END)
        guard end >= 0 else { throw Failure(systemCall: "find the size of", .file(path), errno: errno) }
        return UInt64(end)
    }

    /// Bytes that the file occupies on its filesystem, as du(1) counts them: `st_blocks` of fstat(2), 512 bytes each.
    public func allocatedBytes() throws(Failure) -> UInt64 {
        var status = stat()
        try check(unsafe fstat(descriptor, &status), "find the space taken by")
        return UInt64(max(0, status.st_blocks)) * 512
    }

    /// Whether there is a regular file at `path`, not a link to one: lstat(2).
    public static func isRegular(_ path: String) -> Bool {
        var status = stat()
        return unsafe lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFREG
    }

    /// The names in a directory, but for `.` and `..`, in no order: readdir(3).
    public static func names(inDirectory path: String) throws(Failure) -> [String] {
        guard let directory = unsafe opendir(path) else { throw Failure(systemCall: "list", .file(path), errno: errno) }
        defer { unsafe closedir(directory) }
        var names: [String] = []
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { bytes in
                unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }

    /// The next run of data at `offset` or after it, as the filesystem keeps it: lseek(2), `SEEK_DATA` and
    /// `SEEK_HOLE`. Nil: none up to the end.
    public func nextData(at offset: UInt64) throws(Failure) -> Range<UInt64>? {
        guard let start = try nextDataStart(at: offset) else { return nil }
        let end = lseek(descriptor, off_t(start), clinux_seek_hole)
        // What can't tell holes from data: a block device.
        if end < 0, errno == EINVAL || errno == EOPNOTSUPP { return start..<(try size()) }
        guard end > start else { throw Failure(systemCall: "look for holes in", .file(path), errno: errno) }
        return start..<UInt64(end)
    }

    /// Where that begins. It is found at once where data is: the end of a long run of it is not, in a filesystem in memory.
    public func nextDataStart(at offset: UInt64) throws(Failure) -> UInt64? {
        let start = lseek(descriptor, try position("look for data in", offset, 0), clinux_seek_data)
        if start >= 0 { return UInt64(start) }
        let code = errno
        if code == ENXIO { return nil }
        if code == EINVAL || code == EOPNOTSUPP { return offset < (try size()) ? offset : nil }
        throw Failure(systemCall: "look for data in", .file(path), errno: code)
    }

    /// Bytes that what is at `path` occupies, without opening it, and so without the loss of record locks that closing it
    /// would bring (fcntl(2)): lstat(2). Nil: it is a directory.
    public static func allocatedBytes(ofFile path: String) throws(Failure) -> UInt64? {
        var status = stat()
        guard unsafe lstat(path, &status) == 0 else { throw Failure(systemCall: "look at", .file(path), errno: errno) }
        return status.st_mode & S_IFMT == S_IFDIR ? nil : UInt64(max(0, status.st_blocks)) * 512
    }

    /// fallocate(2), PUNCH_HOLE | KEEP_SIZE: the range reads as zeros and gives its whole filesystem blocks back.
    /// False: the filesystem or the device can't, or not at such an offset, and nothing has changed.
    public func punchHole(at offset: UInt64, count: UInt64) throws(Failure) -> Bool {
        guard count > 0 else { return true }
        guard let length = Int(exactly: count) else {
            throw Failure(.invalidRequest, "punch a hole in", .file(path), "\(count) bytes are more than a file can have")
        }
        let start = try position("punch a hole in", offset, length)
        while clinux_punch_hole(descriptor, start, off_t(length)) != 0 {
            let code = errno
            // EINVAL: `position` has checked the range, so it is the alignment that a block device wants.
            if code == EOPNOTSUPP || code == ENOSYS || code == ENODEV || code == EINVAL { return false }
            guard code == EINTR else { throw Failure(systemCall: "punch a hole in", .file(path), errno: code) }
        }
        return true
    }

    /// Makes the range read as zeros: by `punchHole`; where that can't be, by fallocate(2), ZERO_RANGE, or by writing them, 256 KiB
    /// at a time.
    public func zero(at offset: UInt64, count: UInt64) throws(Failure) {
        guard try !punchHole(at: offset, count: count) else { return }
        if clinux_zero_range(descriptor, try position("zero", offset, 0), off_t(clamping: count)) == 0 { return }
        let zeros = [UInt8](repeating: 0, count: Int(min(count, 256 << 10)))
        var done: UInt64 = 0
        while done < count {
            let part = min(count - done, UInt64(zeros.count))
            try write(at: offset + done, zeros.rawBytes.extracting(first: Int(part)))
            done += part
        }
    }

    /// Whether `path` still leads to this file: fstat(2), stat(2). Somebody may have put another in its place.
    public func isInPlace() throws(Failure) -> Bool {
        var this = stat(), there = stat()
        try check(unsafe fstat(descriptor, &this), "look at")
        guard unsafe stat(path, &there) == 0 else { return false }
        return this.st_dev == there.st_dev && this.st_ino == there.st_ino
    }

    // MARK: Locks

    /// Locks the whole file, for this opening of it, until it is closed: fcntl(2), `F_OFD_SETLK`. An exclusive lock
    /// needs `.write`. False: another opening, of this process or another (QEMU locks its images alike), is in the way.
    ///
    /// Tries again for a third of a second: a process that was killed keeps its locks until the kernel has closed its
    /// files, and one that a lock's holder is starting has them until it runs its own program.
    public func tryLock(exclusive: Bool) throws(Failure) -> Bool {
        for attempt in 0... {
            guard clinux_lock(descriptor, exclusive ? 1 : 0) != 0 else { return true }
            let code = errno
            guard code == EAGAIN || code == EACCES else { throw Failure(systemCall: "lock", .file(path), errno: code) }
            if attempt == 32 { break }
            usleep(10_000)
        }
        return false
    }

    /// Lets go of the lock.
    public func unlock() throws(Failure) {
        if clinux_unlock(descriptor) != 0 { throw Failure(systemCall: "unlock", .file(path), errno: errno) }
    }

    /// Whether another opening of the file says by its locks that it writes to it; QEMU's locks are understood: fcntl(2), `F_OFD_GETLK`.
    public func isWrittenElsewhere() throws(Failure) -> Bool {
        let answer = clinux_is_written(descriptor)
        guard answer >= 0 else { throw Failure(systemCall: "look for a lock on", .file(path), errno: errno) }
        return answer == 1
    }

    /// Whether another opening of the file holds a lock of either kind: fcntl(2), `F_OFD_GETLK`. Takes no lock itself,
    /// so that a look is never in a writer's way.
    public func isLockedElsewhere() throws(Failure) -> Bool {
        let answer = clinux_is_locked(descriptor)
        guard answer >= 0 else { throw Failure(systemCall: "look for a lock on", .file(path), errno: errno) }
        return answer == 1
    }

    // MARK: Helpers

    /// Lends the descriptor's number to a system call that is not here.
    public func withNumber<Result>(_ body: (Int32) -> Result) -> Result { body(descriptor) }

    func withDescriptor<Result: ~Copyable>(_ body: (CInt) throws(Failure) -> Result) throws(Failure) -> Result { try body(descriptor) }

    private static func open(_ path: String, _ flags: Int32, _ mode: mode_t) throws(Failure) -> Int32 {
        while true {
            let descriptor = unsafe System.open(path, flags | O_CLOEXEC, mode)
            if descriptor >= 0 { return descriptor }
            let code = errno
            guard code == EINTR else { throw Failure(systemCall: "open", .file(path), errno: code) }
        }
    }

    /// `offset` as the system calls take it; refused when it or the transfer's end is past what a file can have.
    func position(_ operation: Failure.Operation, _ offset: UInt64, _ byteCount: Int) throws(Failure) -> off_t {
        guard let start = off_t(exactly: offset), !start.addingReportingOverflow(off_t(byteCount)).overflow else {
            throw Failure(.invalidRequest, operation, .file(path), "offset \(offset) is more than a file can have")
        }
        return start
    }

    /// Accounts for a transfer's result: `count` bytes more, or nothing when a signal came first, or a failure.
    func advance(_ done: inout Int, _ count: Int, _ operation: Failure.Operation) throws(Failure) {
        let code = errno
        if count > 0 {
            done += count
        } else if count == 0 {
            throw Failure(.system, operation, .file(path), "the system transferred nothing")
        } else if code != EINTR {
            throw Failure(systemCall: operation, .file(path), errno: code)
        }
    }

    func check(_ result: Int32, _ operation: Failure.Operation) throws(Failure) {
        guard result == 0 else { throw Failure(systemCall: operation, .file(path), errno: errno) }
    }
}

extension Failure {
    /// What a system call's `errno` means, with a way out where one is known. `operation`: a verb that `path` follows.
    public init(systemCall operation: Operation, _ subject: Subject, errno code: Int32) {
        let (kind, remedy): (Kind, String?) =
            switch code {
            case ENOENT: (.notFound, "check the path")
            case ENOTDIR: (.system, "check the path")
            case EEXIST: (.exists, nil)
            case ENOTDIR: (.system, "check the path")
            case ENOSPC: (.noSpace, "free some space on its filesystem")
            case EDQUOT: (.noSpace, "raise the quota or delete something")
            case EBUSY, ETXTBSY: (.busy, "something else is using it")
            case ENOMEM: (.noMemory, "see ulimit -v, and how much memory is free")
            case EFBIG: (.system, "raise the limit of a file's size: ulimit -f")
            case EACCES, EPERM: (.notPermitted, "check its permissions, or run as root")
            case EROFS: (.readOnly, "its filesystem is read-only")
            default: (.system, nil)
            }
        self.init(kind, operation, subject, unsafe String(cString: strerror(code)), remedy: remedy)
    }
}
