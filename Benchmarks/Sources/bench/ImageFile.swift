import BlockModel
import System

/// Raw images as input for others.
enum ImageFile {
    /// Writes `blocks` distinct blocks, and a hole up to `size` bytes.
    /// - Parameter isHalfDuplicate: the second half of the blocks is the first half again, run by run in another order.
    static func write(_ path: String, blocks: Int, size: Int? = nil, isHalfDuplicate: Bool = false) throws {
        let file = try File(path: path, options: [.write, .create, .truncate], mode: 0o644)
        var source = BlockSource()
        let span = BlockSource.span
        let runs = (blocks + span - 1) / span
        for run in 0..<runs {
            let isDuplicate = isHalfDuplicate && run >= runs / 2
            // An odd stride over a power of two comes to each once; over others, near enough.
            let origin = isDuplicate ? (run * 5 + 1) % max(1, runs / 2) : run
            let range = source.prepare(UInt64(origin * span), count: min(span, blocks - run * span))
            try file.write(at: UInt64(run * span * blockSize), source.bytes.rawBytes.extracting(range))
        }
        if let size { try file.truncate(to: UInt64(size)) }
        try file.synchronize()
    }
}
