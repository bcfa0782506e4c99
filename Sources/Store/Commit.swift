internal import BlobModel
internal import BlockModel
public import Catalogue
internal import Hashing
internal import LMDB
internal import Maps
internal import Packs
public import System

// A write, on its way from a batch into a disk's map:
//
// 1. staged: blocks in the order of the disk, their data lent (`Batch`)
// 2. hashed: zeros are unmapped, all else has its digest (`HashedBatch`)
// 3. placed: each has its blob; new ones are compressed and sealed in packs, durably (`EarlyPlacement`, of a `Placement`)
// 4. committed: map, counts and index refer to the blobs (`StoreTransaction`), under the store's lock
//
// Nobody has to wait for the first three.

extension Store {
    /// Enters the batch in the disk's map, storing each distinct block that the store does not have yet. When it
    /// returns, all of it is durable; when it throws, none of it happened.
    /// - Parameters:
    ///   - journal: what the map holds of the disk's journal afterwards; nil leaves that as it is.
    ///   - copies: those that were begun, and have what the disk has then.
    ///   - patience: how long to wait for other writers; as long as others of the process when not given.
    public func commit(
        _ batch: Batch, to name: String, journal: JournalPosition? = nil, copies: [String] = [], _ patience: Patience? = nil
    ) throws(Failure) {
        let hashed = try batch.finishHashing()
        if SHA256.hashesSingly {
            hashing.met("the library that hashes many blocks at once failed, which may be the processor's fault: they are hashed one by one")
        }
        let suspects: Set<BlobNumber>
        if hashed.hasData {
            let early = try place(hashed, patience)
            suspects = try commit(hashed, early, to: name, journal, copies, patience, .beyondReserve)
        } else {
            // What only unmaps makes room.
            suspects = try wayOut(patience) { (room) throws(Failure) in try commit(hashed, nil, to: name, journal, copies, patience, room) }
        }
        parts.damage.forget(suspects)
    }

    /// - Returns: damaged blobs that are written down, or healed.
    func commit(
        _ batch: HashedBatch, _ early: consuming EarlyPlacement?, to name: String, _ journal: JournalPosition? = nil, _ copies: [String] = [],
        _ patience: Patience? = nil, _ room: Room = .beyondReserve
    ) throws(Failure) -> Set<BlobNumber> {
        var transaction = try StoreTransaction.begin(self, patience, room: room)
        transaction.isUnmapping = room != .beyondReserve
        var disk = try transaction.disk(name)
        // What only unmaps looks nothing up.
        let blobs = try batch.hasData ? transaction.confirm(early, batch) : Placement.unmapping(batch).resolved()
        try transaction.changeMap(of: &disk, zip(0..., blobs).map { MapChange(block: batch[$0].block, blob: $1) })
        if let journal { disk.journal = journal }
        try transaction.put(disk)
        try transaction.fill(copies, with: disk)
        let suspects = try transaction.recordSuspects()
        try transaction.commit()
        return suspects
    }

    /// Writes down the blobs that readers of this process found damaged, so that the next write of the same content
    /// heals them, whichever process it comes from.
    public func recordDamage(_ patience: Patience? = nil) throws(Failure) {
        guard !isReadOnly, !parts.damage.found.isEmpty else { return }
        var transaction = try StoreTransaction.begin(self, patience)
        let suspects = try transaction.recordSuspects()
        try transaction.commit()
        parts.damage.forget(suspects)
    }
}

extension StoreTransaction {
    /// Writes down the blobs that readers of this process found damaged.
    /// - Returns: them, and those that are healed: they are to be forgotten once this is committed.
    mutating func recordSuspects() throws(Failure) -> Set<BlobNumber> {
        let suspects = store.parts.damage.found
        try store.parts.damage.record(suspects.subtracting(healed), &lmdb)
        return suspects
    }
}
