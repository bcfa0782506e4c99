public import BlobModel
internal import System

/// A leaf's number, and the blocks it covers.
public struct LeafPlace: Sendable {
    /// 0: nothing is mapped there.
    public let node: UInt64
    public let first, end: UInt64
    public init(node: UInt64, first: UInt64, end: UInt64) {
        self.node = node
        self.first = first
        self.end = end
    }
}

/// A leaf of a map, or a run of blocks that has none.
public struct Leaf: ~Escapable {
    /// The blocks it covers.
    public let first, end: UInt64
    @usableFromInline let bytes: RawSpan?

    @usableFromInline
    @_lifetime(copy bytes)
    init(first: UInt64, end: UInt64, bytes: RawSpan?) {
        self.first = first
        self.end = end
        self.bytes = bytes
    }

    /// Covers nothing.
    @_lifetime(immortal)
    public init() {
        first = 0
        end = 0
        bytes = nil
    }

    /// Has the processor fetch the entry of `block`, which the leaf covers.
    public func prefetch(_ block: UInt64) { bytes?.prefetch(at: MapNode.headerSize + Int(block &- first) * 8, count: 8) }

    @inlinable
    public func covers(_ block: UInt64) -> Bool { block >= first && block < end }
    @inlinable
    public var isEmpty: Bool { bytes == nil }
    /// The blob of `block`, which the leaf covers.
    @inlinable
    public func blob(_ block: UInt64) -> BlobNumber {
        guard let bytes else { return .none }
        return BlobNumber(rawValue: MapNode.entry(bytes, Int(block &- first)))
    }
}
