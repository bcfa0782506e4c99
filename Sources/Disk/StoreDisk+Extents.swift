public import BlockModel
internal import Store
public import System

/// Where a disk has data.
extension StoreDisk {
    /// Whether there are blocks that are not in the map yet.
    public var hasStaged: Bool { staging.with { !$0.isEmpty } }

    /// The next run of blocks with data at `block` or after it, at most `limit` long: blocks that are mapped, or were staged when the
    /// disk was opened. Blocks that were staged since are left out.
    public func nextMapped(at block: UInt64, limit: UInt64) throws(Failure) -> Range<UInt64>? {
        let mapped = try readers.with { (reader) throws(Failure) in try reader.nextMapped(from: block, to: .max, limit: limit) }
        guard let staged = nextLeftover(at: block, limit: limit), staged.lowerBound < mapped?.lowerBound ?? .max else { return mapped }
        return staged
    }

    private func nextLeftover(at block: UInt64, limit: UInt64) -> Range<UInt64>? {
        var low = 0, high = leftoverBlocks.count
        while low < high {
            let middle = (low + high) / 2
            if leftoverBlocks[middle] < block { low = middle + 1 } else { high = middle }
        }
        guard low < leftoverBlocks.count else { return nil }
        let first = leftoverBlocks[low]
        var end = first
        while low < leftoverBlocks.count, leftoverBlocks[low] == end, end - first < limit {
            end += 1
            low += 1
        }
        return first..<end
    }

    /// Blocks that one look at holes goes through.
    private static let extentBlocks: UInt64 = 4096

    /// Blocks that are mapped or staged are in use.
    public func extent(at sector: UInt64, limit: UInt64) throws(Failure) -> Extent {
        _ = try checkedRange("look at", at: sector, byteCount: sectorSize)
        let perBlock = UInt64(sectorsPerBlock)
        let first = sector / perBlock
        let last = min(sectorCount, sector &+ max(1, min(limit, sectorCount)))
        let blocks = (last + perBlock - 1) / perBlock - first
        // Staged blocks are looked at before the map, as in a read.
        var staged = blocks
        var isData: Bool?
        staging.with { state in
            guard !state.isEmpty else { return }
            staged = min(blocks, Self.extentBlocks)
            let place = state.place(first)
            var count: UInt64 = 1
            // A run that is alike in what is staged; where nothing is, the map tells.
            while count < staged, Self.kind(state.place(first + count)) == Self.kind(place) { count += 1 }
            staged = count
            isData = Self.kind(place)
        }
        if isData == nil {
            let run = try readers.with { (reader) throws(Failure) in try reader.run(from: first, limit: staged) }
            staged = run.count
            isData = run.isMapped
        }
        let end = min(last, (first + staged) * perBlock)
        return Extent(isHole: isData == false, count: max(1, end - sector))
    }

    /// Data, a hole, or not staged.
    private static func kind(_ place: UInt64) -> Bool? {
        place == Generation.absent ? nil : place != Generation.discarded
    }
}
