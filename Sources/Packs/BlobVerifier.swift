public import BlobModel
internal import BlockModel
internal import Hashing
public import System

/// Reads blobs to compare them with their digests. Belongs to one thread.
public struct BlobVerifier: ~Copyable {
    private let hasher: SHA256
    private let decoder = BlobDecoder()

    public init() throws(Failure) { hasher = try SHA256() }

    /// Whether a blob is there and does not hash to its digest.
    public func isDamaged(_ blob: BlobNumber, _ finder: inout PackFinder) throws(Failure) -> Bool {
        guard let pack = try finder.find(blob.pack), blob.slot < pack.slotCount, !pack.isCollected(blob.slot), let digest = pack.digest(blob.slot)
        else { return false }
        var block = InlineArray<4096, UInt8>(repeating: 0)
        var room = block.mutableSpan
        var bytes = unsafe room.mutableBytes
        guard try finder.copyBlock(blob, to: &bytes, at: 0, decoder) == .read else { return true }
        return try hasher.digest(bytes.bytes) != digest
    }
}
