public import BlockModel
public import System

/// What packs say of their blobs without their data: what the other parts of a store know of packs.
public protocol BlobDirectory: ~Copyable {
    /// Calls `body` with each blob that has its bytes, in the order of their numbers, from a place on, until it says false.
    /// - Parameter skippingDamaged: leaves out packs that are none; what the others say is not compared with its checksum.
    /// - Throws: `.damage` when it is to skip nothing, and the directory of a pack is not what was written.
    func forEachBlob(from place: PackPlace, skippingDamaged: Bool, _ body: (BlobNumber, Digest) throws(Failure) -> Bool) throws(Failure)
    /// How many blobs there were ever from a place on.
    func blobCount(from place: PackPlace) throws(Failure) -> UInt64
    /// The name of a blob, which may have lost its bytes. Nil: there was none of that number.
    func digest(of blob: BlobNumber) throws(Failure) -> Digest?
    /// Whether a blob has its bytes, and is the block of that digest.
    func holds(_ digest: Digest, _ blob: BlobNumber) throws(Failure) -> Bool
    /// Bytes that each blob of a pack takes, or took. Nil: there is no such pack.
    func storedLengths(ofPack pack: UInt64) throws(Failure) -> StoredLengths?
}

/// Bytes that each slot of a pack takes.
public typealias StoredLengths = [UInt16]

/// What a blob's reference count gains, or loses.
public struct ReferenceChange: Sendable {
    public let blob: BlobNumber
    public var change: Int64
    @inlinable
    public init(blob: BlobNumber, change: Int64) {
        self.blob = blob
        self.change = change
    }
}

extension [ReferenceChange] {
    /// Notes that `blob` is referred to `change` times more.
    @inlinable
    public mutating func refer(to blob: BlobNumber, _ change: Int64) {
        // Neighbours on a disk are neighbours in a pack or the same blob, more often than not.
        if let last, last.blob == blob {
            self[count - 1].change += change
        } else {
            append(ReferenceChange(blob: blob, change: change))
        }
    }
}
