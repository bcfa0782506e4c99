internal import BlobModel
internal import BlockModel
internal import Catalogue
internal import LMDB
internal import Maps
internal import Packs
public import System

/// A run of bytes that two disks differ in.
public struct Difference: Equatable, Sendable {
    public let offset: UInt64
    public internal(set) var length: UInt64
    /// The second one has nothing there.
    public let isHole: Bool
}

extension Store {
    /// Runs of bytes in which the second of two disks, or snapshots, differs from the first, as far as the second reaches: in order, as long as they
    /// can be. What they share is not looked at. Nobody may write to either.
    /// - Parameters:
    ///   - start: where to go on.
    ///   - limit: about how many.
    /// - Returns: them, and where to go on; nil: there are no more.
    public func differences(_ old: String, _ new: String, from start: UInt64, limit: Int) throws(Failure) -> (runs: [Difference], next: UInt64?) {
        let state = try state()
        let view = state.meta.view
        guard let before = try parts.catalogue.disk(old, view) else { throw noSuchDisk(old) }
        guard let after = try parts.catalogue.disk(new, view) else { throw noSuchDisk(new) }
        var runs: [Difference] = []
        var next: UInt64?
        try parts.maps.forEachDifference(before.map, after.map, from: start / UInt64(blockSize), view) { (block, one, other) throws(Failure) in
            // Two writers may have stored the same content at the same moment.
            if one != .none, other != .none, let digest = try state.packs.digest(of: one), try state.packs.digest(of: other) == digest { return true }
            let offset = block * UInt64(blockSize)
            guard offset < after.byteCount else { return false }
            let length = min(UInt64(blockSize), after.byteCount - offset)
            if let last = runs.last, last.offset + last.length == offset, last.isHole == (other == .none) {
                runs[runs.count - 1].length += length
                return true
            }
            guard runs.count < limit else {
                next = offset
                return false
            }
            runs.append(Difference(offset: offset, length: length, isHole: other == .none))
            return true
        }
        return (runs, next)
    }
}
