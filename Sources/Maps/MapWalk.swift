public import BlobModel
public import System

/// Walks maps to see whether they are what they should be.
public struct MapWalk<Nodes: MapNodes>: ~Escapable {
    private let nodes: Nodes
    private let reading: Nodes.Reading
    /// Nodes that were met.
    private var seen: Set<UInt64> = []

    @_lifetime(copy reading)
    public init(_ maps: MapTrees<Nodes>, _ reading: Nodes.Reading) {
        nodes = maps.nodes
        self.reading = reading
    }

    /// Nodes that no map has which was walked.
    public func strangers() throws(Failure) -> Int { max(0, try nodes.count(reading) - seen.count) }

    /// Walks one map.
    /// - Parameters:
    ///   - entry: told each mapped block and its blob, in order.
    ///   - problem: told what is wrong.
    /// - Throws: when a node can't be had, which says nothing of it.
    @_lifetime(self: copy self)
    public mutating func walk(_ map: MapRoot, entry: (UInt64, BlobNumber) -> Void, problem: (String) -> Void) throws(Failure) {
        try walk(map.node, level: map.height, base: 0, entry, problem)
    }

    /// Nodes whose pages are asked for together.
    private static var nodesAhead: Int { 64 }

    @_lifetime(self: copy self)
    private mutating func walk(
        _ node: UInt64, level: Int, base: UInt64, _ found: (UInt64, BlobNumber) -> Void, _ problem: (String) -> Void
    ) throws(Failure) {
        guard node != 0 else { return }
        guard seen.insert(node).inserted else { return problem("map node \(node) appears twice") }
        let bytes: RawSpan
        do throws(Failure) {
            bytes = try nodes.node(node, level: level, reading)
        } catch where error.kind == .damage {
            return problem("\(error)")
        }
        let span = MapNode.entrySpan(level: level)
        for index in 0..<MapNode.fanout {
            if level > 0, index % Self.nodesAhead == 0 {
                let next = (index..<min(index + Self.nodesAhead, MapNode.fanout)).map { MapNode.entry(bytes, $0) }
                nodes.expect(next.filter { $0 != 0 }, reading)
            }
            let entry = MapNode.entry(bytes, index)
            guard entry != 0 else { continue }
            let first = base &+ UInt64(index) &* span
            if level > 0 {
                try walk(entry, level: level - 1, base: first, found, problem)
            } else {
                found(first, BlobNumber(rawValue: entry))
            }
        }
    }
}
