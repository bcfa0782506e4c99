internal import BlobModel
internal import BlockModel
internal import System

/// A pack that is written anew: its builder, and what that borrows.
@safe
struct PackRewriting {
    var builder: PackBuilder
    /// Slots that lose their bytes.
    let dropped: [Int]
    /// Stored bytes of the slots that were healed, before and now.
    private(set) var healed: [Int: (before: Int, now: Int)] = [:]
    /// What is lent until the pack is written.
    private var rooms: [CompressedBlocks] = []

    /// - Parameters:
    ///   - pack: all of it, which stays until the new one is written.
    ///   - version: what it becomes.
    /// - Returns: nil: a blob of it can't be had.
    @unsafe init?(_ change: PackRewrite, of pack: PackView, as version: UInt32) throws(Failure) {
        let dropped = change.dropped.filter { $0 >= 0 && $0 < pack.slotCount && !pack.isCollected($0) }
        let copy = unsafe PackBuilder(copying: pack, number: change.from.number, version: version, isDead: { dropped.contains($0) })
        guard let copy else { return nil }
        builder = copy
        self.dropped = dropped.sorted()
        // Each takes the form that it had, so that the pack keeps its size.
        for (codec, slots) in Dictionary(grouping: change.healed.keys.sorted(), by: { pack.codec($0) }) {
            for start in stride(from: 0, to: slots.count, by: CompressedBlocks.capacity) {
                let part = Array(slots[start..<min(start + CompressedBlocks.capacity, slots.count)])
                let blobs = part.compactMap { change.healed[$0] }
                let room = try CompressedBlocks(BlobCodec(rawValue: codec) ?? .raw)
                try room.compress(blobs[...])
                rooms.append(room)
                for (place, (slot, blob)) in zip(part, blobs).enumerated() {
                    let (codec, check, stored) = room.result(place) ?? (.raw, blob.check, blob.source)
                    let before = self.builder.storedLength(slot)
                    if self.builder.replace(slot, check: check, codec, stored) { healed[slot] = (before, stored.count) }
                }
            }
        }
    }

    /// What came of it.
    func outcome(_ change: PackRewrite) -> RewrittenPack {
        RewrittenPack(from: change.from, new: builder.isEmpty ? nil : builder.version, dropped: dropped, healed: healed)
    }

    /// The pack was written.
    mutating func release() { rooms = [] }
}
