public import BlobModel
public import System

/// What would be freed if some roots were: nothing is changed. Nodes that others refer to as well stay, and nothing below them is looked at.
public struct MapRelease<Nodes: MapNodes>: ~Escapable {
    private let nodes: Nodes
    private let reading: Nodes.Reading
    /// References that are left to shared nodes that have lost some.
    private var left: [UInt64: UInt32] = [:]

    @_lifetime(copy reading)
    public init(_ maps: MapTrees<Nodes>, _ reading: Nodes.Reading) {
        nodes = maps.nodes
        self.reading = reading
    }

    /// Takes a root away.
    /// - Parameter body: gets the blobs that leaves refer to which go with it.
    @_lifetime(self: copy self)
    public mutating func release(_ map: MapRoot, _ body: (BlobNumber) -> Void) throws(Failure) {
        if map.node != 0 { try release(map.node, level: map.height, body) }
    }

    /// Takes all detached nodes away.
    @_lifetime(self: copy self)
    public mutating func releaseDetached(_ body: (BlobNumber) -> Void) throws(Failure) {
        var detached: [DetachedNode] = []
        try nodes.forEachDetached(reading) { detached.append($0) }
        for node in detached {
            do throws(Failure) {
                try release(node.number, level: node.level, body)
            } catch where error.kind == .damage {
                // What lies below a damaged one stays.
            }
        }
    }

    private static var nodesAhead: Int { 64 }

    @_lifetime(self: copy self)
    private mutating func release(_ node: UInt64, level: Int, _ body: (BlobNumber) -> Void) throws(Failure) {
        let references: UInt32
        if let known = left[node] { references = known } else { references = try nodes.references(to: node, reading) }
        if references > 1 {
            left[node] = references - 1
            return
        }
        let bytes = try nodes.node(node, level: level, reading)
        for index in 0..<MapNode.fanout {
            if level > 0, index % Self.nodesAhead == 0 {
                nodes.expect((index..<min(index + Self.nodesAhead, MapNode.fanout)).map { MapNode.entry(bytes, $0) }.filter { $0 != 0 }, reading)
            }
            let entry = MapNode.entry(bytes, index)
            guard entry != 0 else { continue }
            if level > 0 { try release(entry, level: level - 1, body) } else { body(BlobNumber(rawValue: entry)) }
        }
    }
}
