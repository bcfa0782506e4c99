internal import BlockModel
public import Store
public import System

/// Disks of another size.
extension StoreDisk {
    /// Gives a disk another size. It may be in use while it grows, and whoever serves it is told by `refresh`.
    /// - Parameter discardingData: data beyond a smaller one's end is thrown away.
    /// - Throws: `.busy` when a disk that is in use should shrink; `.invalidRequest` when there is data beyond its new end.
    public static func resize(_ name: String, of store: Store, to byteCount: UInt64, discardingData: Bool = false) throws(Failure) {
        guard let record = try store.disk(name) else { throw store.noSuchDisk(name) }
        guard byteCount < record.byteCount else { return try store.resize(name, to: byteCount) }
        try Store.checkSize(byteCount, of: name)
        let disk = try StoreDisk(store, name)
        // All changes are in the map by then, or their failure is thrown: closing only gives back room.
        defer { try? disk.close() }
        let end = byteCount / UInt64(sectorSize)
        if let gone = SectorRange(start: end, count: disk.sectorCount - end) {
            if !discardingData, let (first, bytes) = try disk.data(in: gone) {
                throw Failure(
                    .invalidRequest, .resize, .disk(name),
                    "\(bytes) bytes of data lie beyond that end, the first of them at byte \(first)",
                    remedy: "leave the disk larger, or throw them away")
            }
            // What is cut off reads as zeros when the disk grows again.
            try disk.discard(gone)
        }
        try disk.committer.drain { $0.isEmpty }
        try store.resize(name, to: byteCount, isSmaller: true)
    }

    /// How many bytes of a range, by blocks, are not holes, and where they begin; nil: all is a hole.
    private func data(in range: SectorRange) throws(Failure) -> (first: UInt64, bytes: UInt64)? {
        var first: UInt64?
        var sectors: UInt64 = 0
        var next = range.start
        while next < range.end {
            let extent = try extent(at: next, limit: range.end - next)
            // Of a block that the range begins within, the rest may be all that is not zero.
            let blockEnd = min(range.end, (next / UInt64(sectorsPerBlock) + 1) * UInt64(sectorsPerBlock))
            let isPart = next % UInt64(sectorsPerBlock) != 0
            let count = isPart ? min(extent.count, blockEnd - next) : extent.count
            var isHole = extent.isHole
            if isPart, !isHole { isHole = try isZero(next, to: next + count) }
            if !isHole {
                first = first ?? next * UInt64(sectorSize)
                sectors += count
            }
            next += count
        }
        return first.map { ($0, sectors * UInt64(sectorSize)) }
    }
}
