internal import Catalogue
public import Disk
internal import Store
internal import Synchronization
public import System

/// A copy of a disk, as it was at one moment, that is this process's: it goes with it, unless it gets a name.
public final class Copy: Sendable {
    private let store: Store
    /// Its name in the store, which nobody else uses.
    public let name: String
    private let lock: Mutex<DiskLock?>

    init(_ store: Store) throws(Failure) {
        let lock = try store.beginCopy()
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
