internal import BlobModel
internal import BlockModel
internal import System

/// A pack that is written anew: its builder, and what that borrows.
@safe
struct PackRewriting {
    var builder: PackBuilder
    /// Stored bytes of the slots that were healed, before and now.
    private(set) var healed: [Int: (before: Int, now: Int)] = [:]
    /// What is lent until the pack is written.
    private var rooms: [CompressedBlocks] = []

    /// - Parameter pack: all of it, which stays until the new one is written. Nil: a blob of it can't be had.
    @unsafe init?(_ change: PackRewrite, of pack: PackView) throws(Failure) {
        guard let builder = unsafe PackBuilder(copying: pack, number: change.number, isDead: { change.dropped.contains($0) }) else { return nil }
        self.builder = builder
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

    /// The pack was written.
    mutating func release() { rooms = [] }
}
