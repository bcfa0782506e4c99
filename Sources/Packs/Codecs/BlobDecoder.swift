internal import BlockModel
internal import System

/// Gives blocks back from what is stored, of any codec. Belongs to one thread.
public final class BlobDecoder {
    /// By their codecs' numbers, which have four bits in a pack.
    private var coders: [(any BlobCoder)?] = Array(repeating: nil, count: 16)

    public init() {}

    /// Writes the block that `stored` stands for to `destination` at `offset`. Whatever the stored bytes are, it writes no more than
    /// a block.
    /// - Returns: false when it stands for none: malformed bytes, another length than a block's.
    func decode(_ stored: RawSpan, _ codec: BlobCodec, to destination: inout MutableRawSpan, at offset: Int) -> Bool {
        if codec == .raw {
            guard stored.byteCount == blockSize else { return false }
            destination.copy(stored, to: offset)
            return true
        }
        precondition(offset >= 0 && offset <= destination.byteCount - blockSize, "a block outside its buffer")
        guard let coder = coder(of: codec) else { return false }
        return unsafe destination.withUnsafeMutableBytes { to in
            unsafe stored.withUnsafeBytes { from in
                unsafe coder.decompress(from, into: UnsafeMutableRawBufferPointer(rebasing: to[offset..<offset + blockSize]))
            }
        }
    }

    private func coder(of codec: BlobCodec) -> (any BlobCoder)? {
        let place = Int(codec.rawValue)
        guard place < coders.count else { return codec.coder() }
        if coders[place] == nil { coders[place] = codec.coder() }
        return coders[place]
    }
}
