public import BlobModel
public import System

/// Walks maps to see whether they are what they should be. A node that several refer to is looked at once.
public struct MapWalk<Nodes: MapNodes>: ~Escapable {
    private let nodes: Nodes
    private let reading: Nodes.Reading
    /// Nodes that were met.
    private var seen: [UInt64: Met] = [:]

    private struct Met {
        let level: Int
        var references: UInt32 = 1
        var below = MappedBlocks()
    }

    @_lifetime(copy reading)
    public init(_ maps: MapTrees<Nodes>, _ reading: Nodes.Reading) {
        nodes = maps.nodes
        self.reading = reading
    }

    /// How many nodes there are that no walk has met.
    public func strangers() throws(Failure) -> Int { max(0, try nodes.count(reading) - seen.count) }

    /// Walks one map.
    /// - Parameters:
    ///   - entry: told each mapped block and its blob, but of what was walked before.
    ///   - problem: told what is wrong.
    /// - Throws: when a node can't be read, which is no problem of the node.
    /// - Returns: all blocks that are mapped, also by what was walked before.
    @_lifetime(self: copy self)
    public mutating func walk(_ map: MapRoot, entry: (UInt64, BlobNumber) -> Void, problem: (String) -> Void) throws(Failure) -> MappedBlocks {
        try walk(map.node, level: map.height, base: 0, entry, problem)
    }

    /// Walks what is detached.
    @_lifetime(self: copy self)
    public mutating func walkDetached(entry: (BlobNumber) -> Void, problem: (String) -> Void) throws(Failure) {
        var detached: [DetachedNode] = []
        do throws(Failure) {
            try nodes.forEachDetached(reading) { detached.append($0) }
        } catch where error.kind == .damage {
            problem("\(error)")
        }
        for node in detached { _ = try walk(node.number, level: node.level, base: 0, { entry($1) }, problem) }
    }

    /// Nodes whose pages are asked for together.
    private static var nodesAhead: Int { 64 }

    @_lifetime(self: copy self)
    private mutating func walk(
        _ node: UInt64, level: Int, base: UInt64, _ found: (UInt64, BlobNumber) -> Void, _ problem: (String) -> Void
    ) throws(Failure) -> MappedBlocks {
        guard node != 0 else { return MappedBlocks() }
        if let met = seen[node] {
            if met.level != level { problem("map node \(node) is of level \(met.level), and another refers to it as one of level \(level)") }
            seen[node]?.references &+= 1
            return met.below.moved(by: base)
        }
        seen[node] = Met(level: level)
        let bytes: RawSpan
        do throws(Failure) {
            bytes = try nodes.node(node, level: level, reading)
        } catch where error.kind == .damage {
            problem("\(error)")
            return MappedBlocks()
        }
        let span = MapNode.entrySpan(level: level)
        var below = MappedBlocks()
        for index in 0..<MapNode.fanout {
            if level > 0, index % Self.nodesAhead == 0 {
                let next = (index..<min(index + Self.nodesAhead, MapNode.fanout)).map { MapNode.entry(bytes, $0) }
                nodes.expect(next.filter { $0 != 0 && seen[$0] == nil }, reading)
            }
            let entry = MapNode.entry(bytes, index)
            guard entry != 0 else { continue }
            let first = UInt64(index) &* span
            if level > 0 {
                try below.add(walk(entry, level: level - 1, base: base &+ first, found, problem).moved(by: 0 &- base))
            } else {
                found(base &+ first, BlobNumber(rawValue: entry))
                below.add(MappedBlocks(count: 1, end: first + 1))
            }
        }
        seen[node]?.below = below
        return below.moved(by: base)
    }

    // MARK: References

    /// Compares the references that were met with those that are recorded, once all maps are walked.
    public func checkReferences(problem: (String) -> Void) throws(Failure) {
        var shared = 0
        do throws(Failure) {
            try nodes.forEachShared(reading) { number, references in
                shared += 1
                guard let met = seen[number] else { return problem("map node \(number): \(references) refer to it, and it is missing") }
                if met.references != references { problem("map node \(number): \(met.references) refer to it, \(references) are recorded") }
            }
        } catch where error.kind == .damage {
            return problem("\(error)")
        }
        let met = seen.values.count { $0.references > 1 }
        if met > shared { problem("\(met) map nodes are shared, \(shared) are recorded") }
    }

    /// Nodes that more than one of those that were walked refers to, and how many times more than once.
    public func shared() -> [(node: UInt64, more: UInt32)] {
        seen.filter { $0.value.references > 1 }.map { ($0.key, $0.value.references - 1) }.sorted { $0.node < $1.node }
    }
}

/// How many blocks are mapped, and the block behind the last of them.
public struct MappedBlocks: Equatable, Sendable {
    public private(set) var count: UInt64 = 0
    public private(set) var end: UInt64 = 0

    init(count: UInt64 = 0, end: UInt64 = 0) {
        self.count = count
        self.end = end
    }

    mutating func add(_ other: MappedBlocks) {
        count += other.count
        end = max(end, other.end)
    }

    func moved(by blocks: UInt64) -> MappedBlocks { count == 0 ? self : MappedBlocks(count: count, end: end &+ blocks) }
}

extension MapTrees {
    /// Counts the references to all nodes anew.
    /// - Parameter shared: nodes that several refer to, and how many times more than once.
    public func recount(_ shared: [(node: UInt64, more: UInt32)], _ writing: inout Nodes.Writing) throws(Failure) {
        try nodes.forgetShared(&writing)
        for (node, more) in shared { for _ in 0..<more { try nodes.retain(node, &writing) } }
    }
}
