internal import Catalogue
public import Disk
public import Store
internal import Synchronization
public import System

/// A copy of a disk, as it was at one moment, that is this process's: it goes with it, unless it gets a name or is
/// kept.
public final class Copy: Sendable {
    private let store: Store
    /// Its name in the store, which nobody else uses.
    public let name: String
    private let lock: Mutex<DiskLock?>

    convenience init(_ store: Store, keptFor owner: String?) throws(Failure) {
        try self.init(store, store.beginCopy(keptFor: owner))
    }

    /// The one that is kept for somebody. Nil: there is none.
    public convenience init?(keptFor owner: String, in store: Store) throws(Failure) {
        guard let lock = try store.lockKeptCopy(of: owner) else { return nil }
        try self.init(store, lock)
    }

    private init(_ store: Store, _ lock: consuming DiskLock) throws(Failure) {
        self.store = store
        name = lock.record.name
        self.lock = Mutex(lock)
    }

    private func take() -> DiskLock? { lock.withLock { $0.take() } }

    /// Removes it, unless it has a name by now. What it was opened as is closed before.
    public func remove() {
        _ = take()
        // What can't be removed now is left to whoever removes such things.
        try? store.removeCopy(name)
    }

    /// Opens it, once, to read it or to write to it.
    public func open(readOnly: Bool) throws(Failure) -> StoreDisk {
        guard let lock = take() else { throw Failure(.busy, "open", .disk(name), "it is open") }
        return try StoreDisk(store, copy: store.refreshed(lock), readOnly: readOnly)
    }
}
