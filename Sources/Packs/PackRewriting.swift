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
    private(set) var recoded: [Int: (before: Int, now: Int)] = [:]
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
        if change.codec != .raw { try unsafe recode(pack, change) }
    }

    /// Has a codec store what is stored as a block, where it gains something. What is not what was hashed is left alone.
    @unsafe private mutating func recode(_ pack: PackView, _ change: PackRewrite) throws(Failure) {
        var slots: [Int] = []
        var blobs: [NewBlob] = []
        for slot in 0..<pack.slotCount where pack.codec(slot) == BlobCodec.raw.rawValue && !change.dropped.contains(slot) && healed[slot] == nil {
            guard let digest = pack.digest(slot), let range = pack.range(slot), range.upperBound <= pack.bytes.byteCount,
                let stored = unsafe LentBytes(pack.bytes.extracting(range)), PackFormat.check(stored.bytes, digest) == pack.check(slot)
            else { continue }
            slots.append(slot)
            blobs.append(NewBlob(digest: digest, check: pack.check(slot), source: stored))
        }
        for start in stride(from: 0, to: slots.count, by: CompressedBlocks.capacity) {
            let part = start..<min(start + CompressedBlocks.capacity, slots.count)
            let room = try CompressedBlocks(change.codec)
            try room.compress(blobs[part])
            rooms.append(room)
            for index in part {
                guard let (codec, check, stored) = room.result(index - start) else { continue }
                let before = builder.storedLength(slots[index])
                if builder.replace(slots[index], check: check, codec, stored) { recoded[slots[index]] = (before, stored.count) }
            }
        }
    }

    /// What came of it.
    func outcome(_ change: PackRewrite) -> RewrittenPack {
        RewrittenPack(from: change.from, new: builder.isEmpty ? nil : builder.version, dropped: dropped, healed: healed, recoded: recoded)
    }

    /// The pack was written.
    mutating func release() { rooms = [] }
}
