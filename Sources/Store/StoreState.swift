internal import LMDB
internal import Packs
internal import System

/// One moment of the store, in both environments.
///
/// A writer commits `packs`, then `meta`. Seen here is a state of `meta` and one of `packs` that it was the newest for: that has every blob
/// that `meta` refers to, in the version that is current. What it has beyond that nothing refers to, and nobody has counted: blobs
/// from the superblock's `counted` on.
struct StoreState: ~Copyable {
    let meta: ReadTransaction
    let packs: PackSnapshot
}

extension Store {
    /// Tries to have both; a commit takes a hundred times as long as one.
    private static let mostTries = 1000

    /// The store as it is now. Pages that it sees cannot be used again meanwhile.
    /// - Throws: `.busy` when others commit all the time.
    func state() throws(Failure) -> StoreState {
        for _ in 0..<Self.mostTries {
            let meta = try ReadTransaction(self.meta)
            let versions = self.versions
            let packs = try self.packs.snapshot(versions)
            // No commit of `meta` came in between: what `packs` has beyond it belongs to the next one.
            if try versions.moment() == meta.id { return StoreState(meta: meta, packs: packs) }
        }
        throw Failure(.busy, .read, .store(path), "other processes change it all the time", remedy: "try again")
    }
}
