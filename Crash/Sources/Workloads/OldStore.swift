internal import OldStores
public import System
internal import TestSupport

/// A store as a program of format 3 left it: disks whose sectors have numbers, one of them with writes in its journal; blobs that nothing refers to; a
/// collection that was interrupted; a pack whose number is what another pack's key becomes in the upgrade.
public enum OldStore {
    public static let disks = [(name: "d1", sectors: 1600), (name: "d2", sectors: 1600)]

    /// Makes the store in a directory that is not there yet, below one that is.
    /// - Parameter locks: a file for locks, which is no part of the store.
    /// - Returns: what its disks hold: a number for each sector.
    public static func make(_ path: String, locks: String) throws(Failure) -> [String: [UInt64]] {
        var store = StoreOfFormat3()
        var blobs: [UInt64: [UInt64]] = [:]
        let packs: [UInt64] = [1, 2, 3, 1 << 24, 1 << 24 + 1]
        for pack in packs {
            for place in 0..<40 as Range<UInt64> {
                let block = SectorValues.bytes((0..<8).map { pack << 32 | (place * 8 + $0 + 1) })
                blobs[pack, default: []].append(try store.store(block, inPack: pack))
            }
        }
        // Of the second pack some blobs were collected, of the third all; the index still has them.
        let collected = (blobs[2] ?? []).suffix(10) + (blobs[3] ?? [])
        for blob in collected { store.collect(blob) }
        store.collecting = (2, 3)
        store.indexedAnyhow = Set(collected)
        store.counted = (1 << 24 + 1, 20)
        store.indexed = (1 << 24, 30)
        store.disks = disks.enumerated().map { index, disk in
            var old = StoreOfFormat3.Disk(name: disk.name, number: UInt64(index + 1), byteCount: UInt64(disk.sectors * 512))
            for (first, pack) in [(0, 1), (60, 2), (120, 1 << 24)] as [(UInt64, UInt64)] {
                for (place, blob) in zip(first..., (blobs[pack] ?? []).prefix(25 + index)) { old.blocks[place] = blob }
            }
            return old
        }
        let blocks = (0..<3 as Range<UInt64>).map { number in SectorValues.bytes((0..<8).map { number << 48 | ($0 + 1) }) }
        store.disks[1].journal = [(3, blocks[0]), (150, blocks[1] + blocks[2]), (3, blocks[1])]
        store.deferred = [(blobs[1]?[3] ?? 0, 1), (blobs[1]?[5] ?? 0, -1)]
        try store.write(to: path, locks: locks)
        var found: [String: [UInt64]] = [:]
        for disk in disks { found[disk.name] = SectorValues.values(store.contents(disk.name)) }
        return found
    }
}
