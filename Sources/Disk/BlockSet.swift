/// A set of block numbers: a bit each, in chunks that take memory only once a block of theirs is in the set.
struct BlockSet {
    /// Words of a chunk: 512 of 64 bits stand for 128 MiB of disk.
    private static let wordsPerChunk = 512
    private static let blocksPerChunk = UInt64(wordsPerChunk * 64)
    private var chunks: [[UInt64]]

    /// For blocks below `blockCount`.
    init(blockCount: UInt64) {
        chunks = Array(repeating: [], count: Self.chunkCount(blockCount))
    }

    private static func chunkCount(_ blockCount: UInt64) -> Int { Int((blockCount + blocksPerChunk - 1) / blocksPerChunk) }

    /// False for blocks from `blockCount` on.
    func contains(_ block: UInt64) -> Bool {
        let (chunk, word, bit) = Self.position(of: block)
        return chunk < chunks.count && !chunks[chunk].isEmpty && chunks[chunk][word] >> bit & 1 != 0
    }

    /// Makes it one for blocks below `blockCount`; others leave it.
    mutating func resize(blockCount: UInt64) {
        let (chunk, word, bit) = Self.position(of: blockCount)
        let wanted = Self.chunkCount(blockCount)
        chunks.removeLast(max(0, chunks.count - wanted))
        chunks += Array(repeating: [], count: wanted - chunks.count)
        guard chunk < chunks.count, !chunks[chunk].isEmpty else { return }
        chunks[chunk][word] &= (1 << bit) - 1
        for later in word + 1..<Self.wordsPerChunk { chunks[chunk][later] = 0 }
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
