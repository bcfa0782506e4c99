internal import BlobModel
public import BlockModel
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
    /// Calls `body` with each run of bytes in which the second of two disks, or snapshots, differs from the first, as far as the second reaches:
    /// in order, as long as they can be. What they share is not looked at.
    public func forEachDifference(_ old: String, _ new: String, _ body: (Difference) throws(Failure) -> Void) throws(Failure) {
        let state = try state()
        let view = state.meta.view
        guard let before = try parts.catalogue.disk(old, view) else { throw noSuchDisk(old) }
        guard let after = try parts.catalogue.disk(new, view) else { throw noSuchDisk(new) }
        var run: Difference?
        try parts.maps.forEachDifference(before.map, after.map, view) { (block, one, other) throws(Failure) in
            // Two writers may have stored the same content at the same moment.
            if one != .none, other != .none, let digest = try state.packs.digest(of: one), try state.packs.digest(of: other) == digest { return }
            let offset = block * UInt64(blockSize)
            guard offset < after.byteCount else { return }
            let length = min(UInt64(blockSize), after.byteCount - offset)
            if let last = run, last.offset + last.length == offset, last.isHole == (other == .none) {
                run?.length += length
            } else {
                if let run { try body(run) }
                run = Difference(offset: offset, length: length, isHole: other == .none)
            }
        }
        // What lies in a last block beyond the end of a shorter disk is not its own.
        if let run { try body(run) }
    }
}
