internal import LMDB
internal import Packs
internal import System

/// One moment of the store, in both environments.
///
/// A writer holds `meta`, commits `packs`, then `meta`. Seen here is the newest state of `meta`, and a state of `packs` that no other
/// commit of `meta` lies in front of: it has every blob that `meta` refers to, and may be ahead by what the writer at work, or one
/// that was killed in between, has done there. That is:
///
/// - blobs from the superblock's `counted` on, which nothing refers to and nobody has counted yet;
/// - slots that were collected in the packs of its note `collecting`, and are still in the index and among the dead blobs of the
///   totals (`Superblock.beingCollected`);
/// - blobs that were healed and are still in table `damaged`;
/// - packs all of whose slots were collected, whose counts are gone.
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
            let packs = try self.packs.snapshot()
            // No commit of `meta` came in between: what `packs` has beyond it belongs to the next one.
            if try ReadTransaction(self.meta).id == meta.id { return StoreState(meta: meta, packs: packs) }
        }
        throw Failure(.busy, .read, .store(path), "other processes change it all the time", remedy: "try again")
    }
}
