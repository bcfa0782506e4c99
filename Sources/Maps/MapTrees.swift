public import BlobModel
public import LMDB
public import System

/// From block to blob: radix trees of nodes, one under each disk's root. What the nodes are kept in is behind `MapNodes`.
///
/// What changes maps is specialised here for LMDB's nodes: in a commit each call to them would be dynamic else.
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
    /// Some nodes are referred to by several, so that each is to be looked at.
    var looksForShared = false
    public init(nextNode: UInt64) { self.nextNode = nextNode }
}

extension MapTrees {
    /// Enters changes, sorted by block, each block once.
    @_specialize(where Nodes == LMDBMapNodes)
    public func change(
        _ map: inout MapRoot, _ changes: ArraySlice<MapChange>, _ edit: inout MapEdit, _ writing: inout Nodes.Writing
    ) throws(Failure) {
        guard !changes.isEmpty else { return }
        edit.looksForShared = try nodes.sharedCount(nodes.reading(writing)) > 0
        var mapped: Int64 = 0
        map.node = try change(map.node, level: map.height, base: 0, below: nil, changes, &mapped, &edit, &writing)
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

    /// Stores the new entries of a node that has one reference, in its place or in a new node; a node without entries is released. Returns the number, or 0.
    private func put(
        _ old: UInt64, level: Int, _ entries: [UInt64], _ edit: inout MapEdit, _ writing: inout Nodes.Writing
    ) throws(Failure) -> UInt64 {
        if old != 0, entries.contains(where: { $0 != 0 }), try nodes.isOwn(old, writing) {
            try nodes.replace(old, count: MapNode.byteCount, &writing) { MapNode.encode(old, level: level, entries, into: &$0) }
            return old
        }
        let number = try add(level: level, entries, &edit, &writing)
        if old != 0 { try nodes.release(old, &writing) }
        return number
    }

    /// Makes a node, unless it is empty. Returns its number, or 0.
    private func add(level: Int, _ entries: [UInt64], _ edit: inout MapEdit, _ writing: inout Nodes.Writing) throws(Failure) -> UInt64 {
        guard entries.contains(where: { $0 != 0 }) else { return 0 }
        let number = edit.nextNode
        edit.nextNode += 1
        try nodes.add(number, count: MapNode.byteCount, &writing) { MapNode.encode(number, level: level, entries, into: &$0) }
        return number
    }

    /// Whether a node may be changed, or is to be copied.
    private struct Sharing {
        /// Several refer to it, or to a node above it: it stays as it is, and a copy takes its place.
        let isShared: Bool
        /// The node above is shared, too, and keeps its reference to this one.
        let isParentShared: Bool
        static var none: Sharing { Sharing(isShared: false, isParentShared: false) }
    }

    /// - Parameter above: the same of the node above it; nil: it is the root.
    private func sharing(of node: UInt64, below above: Sharing?, _ edit: MapEdit, _ writing: borrowing Nodes.Writing) throws(Failure) -> Sharing {
        guard edit.looksForShared, node != 0 else { return .none }
        let isParentShared = above?.isShared ?? false
        if isParentShared { return Sharing(isShared: true, isParentShared: true) }
        return try Sharing(isShared: nodes.references(to: node, nodes.reading(writing)) > 1, isParentShared: false)
    }

    /// Stores the new entries of a node. If it is shared, a copy has them, which adds a reference to each child that has stayed the same.
    private func put(
        _ old: UInt64, level: Int, _ sharing: Sharing, _ before: [UInt64], _ entries: [UInt64], _ edit: inout MapEdit, _ writing: inout Nodes.Writing
    ) throws(Failure) -> UInt64 {
        guard sharing.isShared else { return try put(old, level: level, entries, &edit, &writing) }
        for (index, entry) in entries.enumerated() where entry != 0 && entry == before[index] {
            if level == 0 { edit.references.refer(to: BlobNumber(rawValue: entry), 1) } else { try nodes.retain(entry, &writing) }
        }
        let number = try add(level: level, entries, &edit, &writing)
        if !sharing.isParentShared { try nodes.release(old, &writing) }
        return number
    }

    private func change(
        _ node: UInt64, level: Int, base: UInt64, below above: Sharing?, _ changes: ArraySlice<MapChange>, _ mapped: inout Int64,
        _ edit: inout MapEdit, _ writing: inout Nodes.Writing
    ) throws(Failure) -> UInt64 {
        var entries = try entries(node, level: level, writing)
        let sharing = try sharing(of: node, below: above, edit, writing)
        let before = sharing.isShared ? entries : []
        let span = MapNode.entrySpan(level: level)
        var next = changes.startIndex
        var isChanged = false
        while next < changes.endIndex {
            let index = Int((changes[next].block - base) / span)
            if level == 0 {
                if replace(&entries[index], with: changes[next].blob.rawValue, sharing, &mapped, &edit) { isChanged = true }
                next += 1
            } else {
                let childBase = base + UInt64(index) * span
                var end = next
                while end < changes.endIndex, changes[end].block - childBase < span { end += 1 }
                let child = try change(
                    entries[index], level: level - 1, base: childBase, below: sharing, changes[next..<end], &mapped, &edit, &writing)
                if child != entries[index] { isChanged = true }
                entries[index] = child
                next = end
            }
        }
        return try !isChanged ? node : put(node, level: level, sharing, before, entries, &edit, &writing)
    }

    /// - Returns: whether it is another.
    private func replace(_ entry: inout UInt64, with new: UInt64, _ sharing: Sharing, _ mapped: inout Int64, _ edit: inout MapEdit) -> Bool {
        guard entry != new else { return false }
        if entry != 0 {
            // A leaf that stays goes on to refer to it.
            if !sharing.isShared { edit.references.refer(to: BlobNumber(rawValue: entry), -1) }
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
        edit.looksForShared = try nodes.sharedCount(nodes.reading(writing)) > 0
        var piece = Unmapping(done: first, end: last, budget: leaves)
        map.node = try unmap(map.node, level: map.height, base: 0, below: nil, &piece, &edit, &writing)
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
        _ node: UInt64, level: Int, base: UInt64, below above: Sharing?, _ piece: inout Unmapping, _ edit: inout MapEdit, _ writing: inout Nodes.Writing
    ) throws(Failure) -> UInt64 {
        let span = MapNode.entrySpan(level: level)
        guard node != 0 else {
            piece.done = min(piece.end, base + span * UInt64(MapNode.fanout))
            return 0
        }
        var entries = try entries(node, level: level, writing)
        let sharing = try sharing(of: node, below: above, edit, writing)
        let before = sharing.isShared ? entries : []
        if level == 0 { piece.budget -= 1 }
        var isChanged = false
        while piece.done < piece.end, (piece.done - base) / span < UInt64(MapNode.fanout) {
            let index = Int((piece.done - base) / span)
            if level == 0 {
                if replace(&entries[index], with: 0, sharing, &piece.mapped, &edit) { isChanged = true }
                piece.done += 1
            } else if entries[index] == 0 {
                piece.done = min(piece.end, base + UInt64(index + 1) * span)
            } else {
                guard piece.budget > 0 else { break }
                let child = try unmap(
                    entries[index], level: level - 1, base: base + UInt64(index) * span, below: sharing, &piece, &edit, &writing)
                if child != entries[index] { isChanged = true }
                entries[index] = child
            }
        }
        // What stays as it is is not written.
        return try !isChanged ? node : put(node, level: level, sharing, before, entries, &edit, &writing)
    }
}

// MARK: Several roots

extension MapTrees {
    /// Another root refers to all of a map from now on: both have the same blocks, and what becomes of one is nothing to the other.
    @_specialize(where Nodes == LMDBMapNodes)
    public func share(_ map: MapRoot, _ writing: inout Nodes.Writing) throws(Failure) {
        if map.node != 0 { try nodes.retain(map.node, &writing) }
    }

    /// A root is gone. What nothing else refers to is freed by `free`.
    @_specialize(where Nodes == LMDBMapNodes)
    public func detach(_ map: MapRoot, _ writing: inout Nodes.Writing) throws(Failure) {
        if map.node != 0 { try drop(map.node, level: map.height, &writing) }
    }

    private func drop(_ node: UInt64, level: Int, _ writing: inout Nodes.Writing) throws(Failure) {
        if try nodes.references(to: node, nodes.reading(writing)) > 1 {
            try nodes.release(node, &writing)
        } else {
            try nodes.detach(DetachedNode(level: level, number: node), &writing)
        }
    }

    /// Whether something is detached that is not freed yet.
    public func hasDetached(_ reading: Nodes.Reading) throws(Failure) -> Bool { try nodes.lowestDetached(reading) != nil }

    /// Frees what is detached, in bounded pieces.
    /// - Parameter leaves: how many leaves a call frees at most. What other nodes refer to counts as a leaf for each 32.
    /// - Returns: whether something is left to do.
    @_specialize(where Nodes == LMDBMapNodes)
    public func free(leaves: Int, _ edit: inout MapEdit, _ writing: inout Nodes.Writing) throws(Failure) -> Bool {
        var budget = leaves
        while let node = try nodes.lowestDetached(nodes.reading(writing)) {
            guard budget > 0 else { return true }
            do throws(Failure) {
                budget -= try node.level == 0 ? freeLeaf(node, &edit, &writing) : freePart(node, budget, &edit, &writing)
            } catch where error.kind == .damage {
                // What it referred to stays counted, which a check tells; all else goes on.
                try nodes.free(node, &writing)
                budget -= 1
            }
        }
        return false
    }

    private func freeLeaf(_ node: DetachedNode, _ edit: inout MapEdit, _ writing: inout Nodes.Writing) throws(Failure) -> Int {
        for entry in try entries(node.number, level: 0, writing) where entry != 0 { edit.references.refer(to: BlobNumber(rawValue: entry), -1) }
        try nodes.free(node, &writing)
        return 1
    }

    /// Releases as many children of an inner node as the budget allows; the others stay in the node.
    private func freePart(_ node: DetachedNode, _ budget: Int, _ edit: inout MapEdit, _ writing: inout Nodes.Writing) throws(Failure) -> Int {
        var entries = try entries(node.number, level: node.level, writing)
        let used = entries.indices.filter { entries[$0] != 0 }
        let part = used.prefix(min(budget, used.count) * 32)
        for index in part {
            try drop(entries[index], level: node.level - 1, &writing)
            entries[index] = 0
        }
        if part.count == used.count {
            try nodes.free(node, &writing)
        } else if try nodes.isOwn(node.number, writing) {
            try nodes.replace(node.number, count: MapNode.byteCount, &writing) { MapNode.encode(node.number, level: node.level, entries, into: &$0) }
        } else {
            try nodes.free(node, &writing)
            try nodes.detach(DetachedNode(level: node.level, number: add(level: node.level, entries, &edit, &writing)), &writing)
        }
        return part.count / 32 + 1
    }
}
