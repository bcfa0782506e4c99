internal import CLinux
internal import Glibc

/// Locks on ranges of a file's bytes, for this opening of it, until it is closed: fcntl(2), `F_OFD_SETLK`. The kernel keeps
/// them, so they end with their holder and mean the same in every container. The bytes need not exist.
extension File {
    /// An exclusive lock needs a file opened with `.write`. False: another opening, of this process or another, is in the way.
    public func tryLock(_ range: Range<UInt64>, exclusive: Bool) throws(Failure) -> Bool {
        let (start, count) = try Self.offsets(range)
        let result = try withDescriptor { (descriptor) throws(Failure) in
            clinux_lock_range(descriptor, exclusive ? 1 : 0, start, count) == 0 ? 0 : errno
        }
        if result == 0 { return true }
        guard result == EAGAIN || result == EACCES else { throw Failure(systemCall: "lock", .file(path), errno: result) }
        return false
    }

    /// Lets go of the range.
    public func unlock(_ range: Range<UInt64>) throws(Failure) {
        let (start, count) = try Self.offsets(range)
        let result = try withDescriptor { (descriptor) throws(Failure) in clinux_unlock_range(descriptor, start, count) == 0 ? 0 : errno }
        guard result == 0 else { throw Failure(systemCall: "unlock", .file(path), errno: result) }
    }

    /// Whether another opening holds a lock on any of these bytes, of either kind or an exclusive one: `F_OFD_GETLK`. Takes no
    /// lock itself.
    public func isLockedElsewhere(_ range: Range<UInt64>, exclusively: Bool = false) throws(Failure) -> Bool {
        let (start, count) = try Self.offsets(range)
        let (answer, code) = try withDescriptor { (descriptor) throws(Failure) in (clinux_is_range_locked(descriptor, exclusively ? 0 : 1, start, count), errno)
        }
        guard answer >= 0 else { throw Failure(systemCall: "look for a lock on", .file(path), errno: code) }
        return answer == 1
    }

    private static func offsets(_ range: Range<UInt64>) throws(Failure) -> (off_t, off_t) {
        guard !range.isEmpty, let start = off_t(exactly: range.lowerBound), let end = off_t(exactly: range.upperBound) else {
            throw Failure(.invalidRequest, "lock a range of a file", "\(range) is none that a file can have")
        }
        return (start, end - start)
    }
}
