internal import BlockModel
internal import CLZ4
internal import System

/// A block in LZ4's block format, if that saves an eighth.
func compress(_ block: [UInt8]) -> [UInt8]? {
    var room = [UInt8](repeating: 0, count: blockSize - blockSize / 8)
    let count = unsafe block.withUnsafeBytes { block in
        unsafe room.withUnsafeMutableBytes { room in
            unsafe LZ4_compress_default(
                block.baseAddress?.assumingMemoryBound(to: CChar.self), room.baseAddress?.assumingMemoryBound(to: CChar.self), Int32(block.count),
                Int32(room.count))
        }
    }
    return count > 0 ? Array(room.prefix(Int(count))) : nil
}
