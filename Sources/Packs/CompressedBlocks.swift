internal import BlobModel
public import BlockModel
internal import Hashing
public import System

/// A block that is to be stored: its digest, the check word of its bytes, and where they are.
public struct NewBlob {
    public let digest: Digest
    /// `PackFormat.check`.
    public let check: UInt64
    public let source: LentBytes
    public init(digest: Digest, check: UInt64, source: LentBytes) {
        self.digest = digest
        self.check = check
        self.source = source
    }
}

/// Room for the compressed forms of some blocks, made on several threads.
@safe
final class CompressedBlocks: @unchecked Sendable {
    /// Blocks that it has room for.
    static let capacity = 1024
    private static let pieceLength = 32
    private let codec: BlobCodec
    private let room: UnsafeMutableRawPointer
    /// Of each block: its compressed length, 0 when it is better stored raw, and its check word.
    private let lengths: UnsafeMutablePointer<(length: Int, check: UInt64)>
    private let hasher: SHA256

    init(_ codec: BlobCodec) throws(Failure) {
        self.codec = codec
        hasher = try SHA256()
        unsafe room = .allocate(byteCount: Self.capacity * longestCompressed, alignment: 64)
        unsafe lengths = .allocate(capacity: Self.capacity)
    }

    deinit {
        unsafe room.deallocate()
        unsafe lengths.deallocate()
    }

    /// Compresses blocks, at most `capacity`, which are lent until this returns.
    /// - Throws: `.damage` when a block is not what was hashed.
    func compress(_ blobs: ArraySlice<NewBlob>) throws(Failure) {
        let first = blobs.startIndex, count = blobs.count
        let work = Work(blobs)
        try HashPool.shared.forEach((count + Self.pieceLength - 1) / Self.pieceLength, hasher) { (piece, _) throws(Failure) in
            let coder = self.codec.coder()
            let start = piece * Self.pieceLength
            for index in start..<min(count, start + Self.pieceLength) {
                try self.compress(work.blobs[first + index], index, coder)
            }
        }
    }

    /// Each thread reads what is its own.
    private struct Work: @unchecked Sendable {
        let blobs: ArraySlice<NewBlob>
        init(_ blobs: ArraySlice<NewBlob>) { self.blobs = blobs }
    }

    private func compress(_ blob: NewBlob, _ index: Int, _ coder: (any BlobCoder)?) throws(Failure) {
        unsafe lengths[index] = (0, 0)
        guard PackFormat.check(blob.source.bytes, blob.digest) == blob.check else {
            throw Failure(.damage, "compress", "a block", "it changed after it was hashed", remedy: "check the memory and the disk of this machine")
        }
        let target = unsafe UnsafeMutableRawBufferPointer(start: room + index * longestCompressed, count: longestCompressed)
        let length = unsafe blob.source.bytes.withUnsafeBytes { unsafe coder?.compress($0, into: target) }
        guard let length else { return }
        let stored = unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(rebasing: target[..<length]))
        unsafe lengths[index] = (length, PackFormat.check(stored, blob.digest))
    }

    /// The compressed form of a block, or nil when it has none. It is lent until the next `compress`.
    func result(_ index: Int) -> (codec: BlobCodec, check: UInt64, stored: LentBytes)? {
        let (length, check) = unsafe lengths[index]
        guard length > 0 else { return nil }
        return (codec, check, unsafe LentBytes(room + index * longestCompressed, count: length))
    }
}
