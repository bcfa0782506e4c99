internal import Hashing
public import System

/// A node of a block map, as it is kept:
///
///      0  checksum  u64   XXH3-64 of the rest, seeded with the node's number
///      8  level     u32   0: a leaf
///     12  used      u32   entries that are not 0
///     16  508 × u64       leaf: blob numbers; above: node numbers; 0: nothing mapped
///
/// 508 entries fill one page of LMDB. A leaf maps 2 MiB of disk, a tree of two levels 1 GiB, of three 500 GiB.
/// Nothing in a node says whose it is: several roots can share it.
public enum MapNode {
    /// Entries of a node.
    @inlinable
    public static var fanout: Int { 508 }
    static let headerSize = 16
    /// Bytes of a node.
    static let byteCount = headerSize + fanout * 8
    /// Levels less one that a tree may have.
    public static let maximumHeight = 4

    /// Blocks that one entry of a node at `level` covers.
    @inlinable
    static func entrySpan(level: Int) -> UInt64 {
        var span: UInt64 = 1
        for _ in 0..<level { span *= UInt64(fanout) }
        return span
    }

    /// Height of the least tree for that many blocks.
    static func height(forBlocks blocks: UInt64) -> Int {
        var height = 0
        while height < maximumHeight, entrySpan(level: height + 1) < blocks { height += 1 }
        return height
    }

    @inlinable @inline(__always)
    static func entry(_ node: RawSpan, _ index: Int) -> UInt64 { node.load(at: 16 + index * 8) }

    /// Whether that is the node of that number and level, as it was written.
    @usableFromInline
    static func isIntact(_ bytes: RawSpan, _ number: UInt64, level: Int) -> Bool {
        bytes.byteCount == byteCount && bytes.load(at: 0, as: UInt64.self) == checksum(bytes.extracting(8..<byteCount), seed: number)
            && bytes.load(at: 8, as: UInt32.self) == UInt32(level)
    }

    /// Writes the node of that number to `node`, `byteCount` bytes.
    static func encode(_ number: UInt64, level: Int, _ entries: [UInt64], into node: inout MutableRawSpan) {
        node.store(UInt32(level), at: 8)
        node.store(UInt32(entries.count { $0 != 0 }), at: 12)
        node.copy(entries.rawBytes, to: headerSize)
        node.store(checksum(node.bytes.extracting(8..<byteCount), seed: number), at: 0)
    }
}
