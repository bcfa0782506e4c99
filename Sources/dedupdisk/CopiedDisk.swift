import Control
import Disk
import Store
import System

/// A disk as it is at this moment, also one that others write to: then a copy of it is read, which has no name and is removed afterwards.
enum CopiedDisk {
    /// Calls `body` with the name under which the store has all that was written to a disk so far: a copy's, or that of the disk or snapshot itself.
    static func with(_ name: String, of store: Store, _ body: (String) throws(Failure) -> Void) throws(Failure) {
        guard let copy = try copyToRead(of: name, in: store) else {
            try refuseStaged(name, in: store)
            return try body(name)
        }
        defer { copy.remove() }
        try body(copy.name)
    }

    /// Where there is no copy, only the map is looked at, which lacks what waits in the journal.
    private static func refuseStaged(_ name: String, in store: Store) throws(Failure) {
        guard try StoreDisk(store, name, readOnly: true).hasStaged else { return }
        throw Failure(
            .readOnly, "map", .disk(name), "its last writes are in its journal, and the store can't be written to",
            remedy: "copy the store to where it can be; export and serve --read-only read them where they are")
    }

    /// The same with the copy, disk or snapshot, open to be read.
    static func open(_ name: String, of store: Store, _ body: (StoreDisk) throws(Failure) -> Void) throws(Failure) {
        guard let copy = try copyToRead(of: name, in: store) else { return try body(StoreDisk(store, name, readOnly: true)) }
        defer { copy.remove() }
        let disk = try copy.open(readOnly: true)
        // It was only read: nothing is lost when it can't be closed.
        defer { try? disk.close() }
        try body(disk)
    }

    /// Nil: it is read where it is.
    private static func copyToRead(of name: String, in store: Store) throws(Failure) -> Copy? {
        guard let disk = try store.disk(name) else { throw store.noSuchDisk(name) }
        // It stays as it is.
        if disk.isSnapshot { return nil }
        return try copy(of: name, in: store)
    }

    /// A copy of a disk, or of a snapshot, to read it or to write to it. Nil: there can be none now, and nobody writes to the disk, which may
    /// be read where it is.
    static func copy(of name: String, in store: Store) throws(Failure) -> Copy? {
        if store.isReadOnly { return nil }
        do throws(Failure) {
            return try Copier(store).copy(of: name)
        } catch where error.kind == .noSpace || error.kind == .busy {
            // The store is full, or whoever has its lock, or the disk, does not answer.
            guard try isFree(name, in: store) else { throw error }
            return nil
        }
    }

    private static func isFree(_ name: String, in store: Store) throws(Failure) -> Bool {
        do throws(Failure) {
            _ = try store.lock(name, exclusive: false)
            return true
        } catch where error.kind == .busy {
            return false
        }
    }
}
