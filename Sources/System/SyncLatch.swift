internal import Synchronization

/// Remembers that something could not be made durable, so that nobody believes in a later success.
///
/// The system tells of data that it could not write once (fsync(2)), and may have dropped it: another fdatasync would succeed, and
/// say nothing about it. A latch is set by the first failure and never let go of.
public struct SyncLatch: ~Copyable, Sendable {
    private let isSet = Atomic(false)
    private let first = Mutex<Failure?>(nil)

    public init() {}

    /// The failure that set it.
    public var failure: Failure? {
        // Asked with every write: no lock while all is well.
        guard isSet.load(ordering: .acquiring) else { return nil }
        return first.withLock { $0 }
    }

    /// Throws the failure that set it.
    public func check() throws(Failure) {
        if let failure { throw failure }
    }

    /// Only the first failure counts.
    public func set(_ failure: Failure) {
        first.withLock { $0 = $0 ?? failure }
        isSet.store(true, ordering: .releasing)
    }

    /// Does `sync`, unless one failed before; when it fails, it is the last.
    public func run(_ sync: () throws(Failure) -> Void) throws(Failure) {
        try check()
        do throws(Failure) {
            try sync()
        } catch {
            set(error)
            throw error
        }
        // One that was at work at the same time may have been told of what this one should have written.
        try check()
    }
}
