public import BlobModel
public import LMDB
public import System

/// From block to blob: radix trees of nodes, one under each disk's root. What the nodes are kept in is behind `MapNodes`.
///
/// What changes maps is compiled here for LMDB's nodes, too: a commit would otherwise ask for each call to them.
public struct MapTrees<Nodes: MapNodes>: Sendable {
    @usableFromInline let nodes: Nodes

    public init(_ nodes: Nodes) { self.nodes = nodes }

    /// Largest disk, in blocks: 128 TiB.
    public static var maximumBlocks: UInt64 { 1 << 35 }

    /// Nodes that there are, of all maps.
    public func nodeCount(_ reading: Nodes.Reading) throws(Failure) -> Int { try nodes.count(reading) }

    /// The blocks of one map, as a transaction sees them.
    /// - Parameters:
    ///   - blockCount: blocks of the disk.
    ///   - cache: where nodes were found before, some of them in `state`, which is the one of `reading`: they are not looked for, nor are
    ///     their checksums computed again. The cache outlives the reader.
    @inlinable
    @_lifetime(copy reading)
    public func reader(
        _ map: MapRoot, blockCount: UInt64, _ reading: Nodes.Reading, _ cache: CachePlaces? = nil, _ state: Int = 0
    ) -> MapReader<Nodes> {
        MapReader(nodes, map, blockCount, reading, cache, state)
    }
}

/// The top of one map.
public struct MapRoot: Sendable, Equatable {
    /// Number of the node at the top; 0 when nothing is mapped.
    public var node: UInt64
    /// Levels of the tree less one.
    public internal(set) var height: Int
    /// Blocks that are mapped.
    public var mappedBlocks: UInt64

    public init(node: UInt64, height: Int, mappedBlocks: UInt64) {
        self.node = node
        self.height = height
        self.mappedBlocks = mappedBlocks
    }

    /// Of a disk of that many blocks, with nothing in it.
    public init(forBlocks count: UInt64) { self.init(node: 0, height: MapNode.height(forBlocks: count), mappedBlocks: 0) }
}

/// A new entry for one block of a map.
public struct MapChange: Sendable {
    public let block: UInt64
    /// `.none` unmaps.
    public let blob: BlobNumber
    public init(block: UInt64, blob: BlobNumber) {
        self.block = block
        self.blob = blob
    }
}

/// What changes of maps bring with them: numbers for new nodes, and references won and lost.
public struct MapEdit: Sendable {
    public var nextNode: UInt64
    public var references: [ReferenceChange] = []
    public init(nextNode: UInt64) { self.nextNode = nextNode }
}

extension MapTrees {
    /// Enters changes, sorted by block, each block once.
    @_specialize(where Nodes == LMDBMapNodes)
    public func change(
        _ map: inout MapRoot, _ changes: [MapChange], _ edit: inout MapEdit, _ writing: inout Nodes.Writing
    ) throws(Failure) {
        guard !changes.isEmpty else { return }
        var mapped: Int64 = 0
        map.node = try change(map.node, level: map.height, base: 0, changes[...], &mapped, &edit, &writing)
        map.mappedBlocks &+= UInt64(bitPattern: mapped)
    }

    /// Sees to it that the tree is high enough for so many blocks: what there is becomes the first part of a higher one.
    @_specialize(where Nodes == LMDBMapNodes)
    public func grow(_ map: inout MapRoot, toBlocks blockCount: UInt64, _ edit: inout MapEdit, _ writing: inout Nodes.Writing) throws(Failure) {
        let needed = MapNode.height(forBlocks: blockCount)
        while map.height < needed {
            map.height += 1
            guard map.node != 0 else { continue }
            var entries = [UInt64](repeating: 0, count: MapNode.fanout)
            entries[0] = map.node
            map.node = try put(0, level: map.height, entries, &edit, &writing)
        }
    }

    private func entries(_ node: UInt64, level: Int, _ writing: borrowing Nodes.Writing) throws(Failure) -> [UInt64] {
        guard node != 0 else { return [UInt64](repeating: 0, count: MapNode.fanout) }
        let bytes = try nodes.node(node, level: level, nodes.reading(writing))
        return (0..<MapNode.fanout).map { MapNode.entry(bytes, $0) }
    }

    /// Stores what a node has now, in its place or in that of a new one; an empty one is gone. Returns its number, or 0.
    private func put(
        _ old: UInt64, level: Int, _ entries: [UInt64], _ edit: inout MapEdit, _ writing: inout Nodes.Writing
    ) throws(Failure) -> UInt64 {
        var number: UInt64 = 0
        if entries.contains(where: { $0 != 0 }) {
            if old != 0, try nodes.isOwn(old, writing) {
                try nodes.replace(old, count: MapNode.byteCount, &writing) { MapNode.encode(old, level: level, entries, into: &$0) }
                return old
            }
            number = edit.nextNode
            edit.nextNode += 1
            try nodes.add(number, count: MapNode.byteCount, &writing) { MapNode.encode(number, level: level, entries, into: &$0) }
        }
        if old != 0 { try nodes.release(old, &writing) }
        return number
    }

    private func change(
        _ node: UInt64, level: Int, base: UInt64, _ changes: ArraySlice<MapChange>, _ mapped: inout Int64,
        _ edit: inout MapEdit, _ writing: inout Nodes.Writing
    ) throws(Failure) -> UInt64 {
        var entries = try entries(node, level: level, writing)
        let span = MapNode.entrySpan(level: level)
        var next = changes.startIndex
        var isChanged = false
        while next < changes.endIndex {
            let index = Int((changes[next].block - base) / span)
            if level == 0 {
                if replace(&entries[index], with: changes[next].blob.rawValue, &mapped, &edit) { isChanged = true }
                next += 1
            } else {
                let childBase = base + UInt64(index) * span
                var end = next
                while end < changes.endIndex, changes[end].block - childBase < span { end += 1 }
                let child = try change(entries[index], level: level - 1, base: childBase, changes[next..<end], &mapped, &edit, &writing)
                if child != entries[index] { isChanged = true }
                entries[index] = child
                next = end
            }
        }
        return try !isChanged ? node : put(node, level: level, entries, &edit, &writing)
    }

    /// - Returns: whether it is another.
    private func replace(_ entry: inout UInt64, with new: UInt64, _ mapped: inout Int64, _ edit: inout MapEdit) -> Bool {
        guard entry != new else { return false }
        if entry != 0 {
            edit.references.refer(to: BlobNumber(rawValue: entry), -1)
            mapped -= 1
        }
        if new != 0 {
            edit.references.refer(to: BlobNumber(rawValue: new), 1)
            mapped += 1
        }
        entry = new
        return true
    }

    /// Unmaps the blocks `first..<end`, in bounded pieces: at most `leaves` leaves a call.
    /// - Returns: the first block that is left to do, or `end`.
    @_specialize(where Nodes == LMDBMapNodes)
    public func unmap(
        _ map: inout MapRoot, from first: UInt64, to end: UInt64, leaves: Int, _ edit: inout MapEdit, _ writing: inout Nodes.Writing
    ) throws(Failure) -> UInt64 {
        // Beyond what the tree covers, nothing is mapped.
        let last = min(end, MapNode.entrySpan(level: map.height + 1))
        guard first < last else { return end }
        var piece = Unmapping(done: first, end: last, budget: leaves)
        map.node = try unmap(map.node, level: map.height, base: 0, &piece, &edit, &writing)
        map.mappedBlocks &+= UInt64(bitPattern: piece.mapped)
        return piece.done < last ? piece.done : end
    }

    private struct Unmapping {
        var done: UInt64
        let end: UInt64
        /// Leaves that may be changed.
        var budget: Int
        var mapped: Int64 = 0
    }

    private func unmap(
        _ node: UInt64, level: Int, base: UInt64, _ piece: inout Unmapping, _ edit: inout MapEdit, _ writing: inout Nodes.Writing
    ) throws(Failure) -> UInt64 {
        let span = MapNode.entrySpan(level: level)
        guard node != 0 else {
            piece.done = min(piece.end, base + span * UInt64(MapNode.fanout))
            return 0
        }
        var entries = try entries(node, level: level, writing)
        if level == 0 { piece.budget -= 1 }
        var isChanged = false
        while piece.done < piece.end, (piece.done - base) / span < UInt64(MapNode.fanout) {
            let index = Int((piece.done - base) / span)
            if level == 0 {
                if replace(&entries[index], with: 0, &piece.mapped, &edit) { isChanged = true }
                piece.done += 1
            } else if entries[index] == 0 {
                piece.done = min(piece.end, base + UInt64(index + 1) * span)
            } else {
                guard piece.budget > 0 else { break }
                let child = try unmap(entries[index], level: level - 1, base: base + UInt64(index) * span, &piece, &edit, &writing)
                if child != entries[index] { isChanged = true }
                entries[index] = child
            }
        }
        // What stays as it is is not written.
        return try !isChanged ? node : put(node, level: level, entries, &edit, &writing)
    }
}
