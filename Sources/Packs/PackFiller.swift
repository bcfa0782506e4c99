internal import BlobModel
internal import BlockModel
internal import System

/// Fills packs with blobs, in their order.
struct PackFiller: ~Copyable {
    private var builder: PackBuilder
    /// Slots that the pack had before.
    private var known: Int
    private var next: UInt64
    private var sealed: [SealedPack] = []

    /// - Parameters:
    ///   - open: a pack that is not full, for the first of them; nil: there is none.
    ///   - next: the number of the next new pack.
    init(_ open: PackBuilder?, next: UInt64) {
        builder = open ?? PackBuilder(number: next)
        known = builder.slotCount
        self.next = max(next, builder.number + 1)
    }

    /// - Parameter put: stores a pack, with what it has new from a slot on compared with its check words; false: something differs.
    mutating func fill(
        _ blobs: [NewBlob], _ codec: BlobCodec, put: (PackBuilder, Int) throws(Failure) -> Bool
    ) throws(Failure) -> [SealedPack] {
        let room = codec == .raw ? nil : try CompressedBlocks(codec)
        // What the packs at work borrow.
        defer { withExtendedLifetime(room) {} }
        var start = 0
        while start < blobs.count {
            let end = room == nil ? blobs.count : min(blobs.count, start + CompressedBlocks.capacity)
            try room?.compress(blobs[start..<end])
            for place in start..<end {
                let blob = blobs[place]
                let (codec, check, stored) = room?.result(place - start) ?? (.raw, blob.check, blob.source)
                if !builder.hasRoom(for: stored.count) { try finish(put) }
                builder.append(blob.digest, check: check, codec, stored)
            }
            // The compressed blocks make room for the next.
            if room != nil, end < blobs.count { try finish(put) }
            start = end
        }
        try finish(put)
        return sealed
    }

    /// Stores the pack, when there is something new in it, and begins another.
    private mutating func finish(_ put: (PackBuilder, Int) throws(Failure) -> Bool) throws(Failure) {
        guard builder.slotCount > known else { return }
        guard try put(builder, known) else {
            throw Failure(
                .damage, "store a block in", .pack(builder.number), "it changed after it was hashed", remedy: "check the memory and the disk of this machine")
        }
        sealed.append(SealedPack(number: builder.number, first: known, lengths: (known..<builder.slotCount).map { UInt16(builder.storedLength($0)) }))
        builder = PackBuilder(number: next)
        known = 0
        next += 1
    }
}
