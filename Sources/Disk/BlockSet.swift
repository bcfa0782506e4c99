/// A set of block numbers: a bit each, in chunks that take memory only once a block of theirs is in the set.
struct BlockSet {
    /// Words of a chunk: 512 of 64 bits stand for 128 MiB of disk.
    private static let wordsPerChunk = 512
    private static let blocksPerChunk = UInt64(wordsPerChunk * 64)
    private var chunks: [[UInt64]]

    /// For blocks below `blockCount`.
    init(blockCount: UInt64) {
        chunks = Array(repeating: [], count: Int((blockCount + Self.blocksPerChunk - 1) / Self.blocksPerChunk))
    }

    func contains(_ block: UInt64) -> Bool {
        let (chunk, word, bit) = Self.position(of: block)
        return !chunks[chunk].isEmpty && chunks[chunk][word] >> bit & 1 != 0
    }

    mutating func insert(_ blocks: ClosedRange<UInt64>) {
        var block = blocks.lowerBound
        while block <= blocks.upperBound {
            let (chunk, word, bit) = Self.position(of: block)
            if chunks[chunk].isEmpty { chunks[chunk] = Array(repeating: 0, count: Self.wordsPerChunk) }
            // As many of the word's bits as the range has.
            let count = min(64 - bit, blocks.upperBound - block + 1)
            chunks[chunk][word] |= (UInt64.max >> (64 - count)) << bit
            block += count
        }
    }

    private static func position(of block: UInt64) -> (chunk: Int, word: Int, bit: UInt64) {
        (Int(block / blocksPerChunk), Int(block % blocksPerChunk / 64), block % 64)
    }
}
