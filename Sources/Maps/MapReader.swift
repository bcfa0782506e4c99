public import LMDB
public import System

/// The leaves of one map, as one transaction sees them.
///
/// Inlinable: a read goes through it, in a module that knows what the nodes are kept in.
public struct MapReader<Nodes: MapNodes>: ~Escapable {
    @usableFromInline let reading: Nodes.Reading
    @usableFromInline let nodes: Nodes
    @usableFromInline let map: MapRoot
    @usableFromInline let cache: CachePlaces?
    @usableFromInline let state: Int
    /// Blocks in the disk, rounded up.
    public let blockCount: UInt64

    @inlinable
    @_lifetime(copy reading)
    init(_ nodes: Nodes, _ map: MapRoot, _ blockCount: UInt64, _ reading: Nodes.Reading, _ cache: CachePlaces?, _ state: Int) {
        self.cache = cache
        self.state = state
        self.reading = reading
        self.nodes = nodes
        self.map = map
        self.blockCount = blockCount
    }

    /// The leaf over `block`, empty when nothing is mapped around it.
    @inlinable
    @_lifetime(copy self)
    public func leaf(over block: UInt64) throws(Failure) -> Leaf { try leaf(leafPlace(over: block)) }

    /// Where the leaf over `block` is.
    @inlinable
    public func leafPlace(over block: UInt64) throws(Failure) -> LeafPlace {
        var node = map.node
        var level = map.height
        var base: UInt64 = 0
        while true {
            let span = MapNode.entrySpan(level: level)
            guard node != 0, level > 0 else { return LeafPlace(node: node, first: base, end: base &+ span &* UInt64(MapNode.fanout)) }
            let index = min(Int((block &- base) / span), MapNode.fanout - 1)
            node = MapNode.entry(try bytes(of: node, level: level), index)
            base &+= UInt64(index) &* span
            level -= 1
        }
    }

    @inlinable
    @_lifetime(copy self)
    public func leaf(_ place: LeafPlace) throws(Failure) -> Leaf {
        Leaf(first: place.first, end: place.end, bytes: place.node == 0 ? nil : try bytes(of: place.node, level: 0))
    }

    /// Calls `body` with each leaf of the disk, in order, an empty one for a run of blocks that has none. The disk is asked for them ahead.
    public func forEachLeaf(_ body: (Leaf) throws(Failure) -> Void) throws(Failure) {
        var block: UInt64 = 0
        var leaves = 0
        while block < blockCount {
            if leaves % Self.leavesAhead == 0 { try expectLeaves(from: block, count: Self.leavesAhead) }
            leaves += 1
            let leaf = try leaf(over: block)
            try body(leaf)
            block = leaf.end
        }
    }

    private static var leavesAhead: Int { 64 }

    /// Has the disk begin to read the next leaves from `block` on.
    private func expectLeaves(from block: UInt64, count: Int) throws(Failure) {
        var next = block
        var expected: [UInt64] = []
        for _ in 0..<count where next < blockCount {
            let place = try leafPlace(over: next)
            if place.node != 0 { expected.append(place.node) }
            next = place.end
        }
        nodes.expect(expected, reading)
    }

    /// Has the processor fetch what tells where that leaf is.
    @inlinable
    public func prefetch(_ place: LeafPlace) { cache?.prefetch(place.node) }

    @inlinable @inline(__always)
    @_lifetime(copy self)
    func bytes(of node: UInt64, level: Int) throws(Failure) -> RawSpan {
        if let found = cache?.value(node, in: state, reading) { return found }
        let bytes = try nodes.node(node, level: level, reading)
        cache?.insert(node, in: state, bytes)
        return bytes
    }
}
