public import BlobModel
internal import BlockModel
internal import Hashing
public import LMDB
public import System

/// From block to blob: a radix tree of nodes under the disk's root, table `nodes`.
///
///      0  checksum  u64   XXH3-64 of the rest, seeded with the node's number
///      8  level     u32   0: a leaf
///     12  used      u32   entries that are not 0
///     16  508 × u64       leaf: blob numbers; above: node numbers; 0: nothing mapped
///
/// 508 entries fill one page of LMDB. A leaf maps 2 MiB of disk, a tree of two levels 1 GiB, of three 500 GiB.
/// Nothing in a node says whose it is: several roots can share it.
public struct BlockMaps: Sendable {
    public static let fanout = 508
    static let headerSize = 16
    static let nodeBytes = headerSize + fanout * 8
    public static let maximumHeight = 4
    /// Largest disk, in blocks: 128 TiB.
    public static let maximumBlocks: UInt64 = 1 << 35

    let nodes: Environment.Table

    public init(_ opening: inout TableOpening) throws(Failure) { nodes = try opening.table("nodes") }

    /// Nodes that there are, of all maps.
    public func nodeCount(_ view: View) throws(Failure) -> Int { try view.count(nodes) }

    /// Blocks that one entry of a node at `level` covers.
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

    /// The node's value after its checks.
    /// - Throws: `.damage` when it is missing or not what was written.
    @_lifetime(copy view)
    fileprivate func node(_ number: UInt64, level: Int, _ view: View) throws(Failure) -> RawSpan {
        guard let bytes = try view.value(nodes, number), bytes.byteCount == Self.nodeBytes,
            bytes.load(at: 0, as: UInt64.self) == checksum(bytes.extracting(8..<Self.nodeBytes), seed: number),
            bytes.load(at: 8, as: UInt32.self) == UInt32(level)
        else { throw Failure(.damage, "map node \(number)", "missing or damaged", remedy: "restore the store from a copy") }
        return bytes
    }

    /// Has the disk begin to read these nodes.
    fileprivate func expect(_ node: UInt64, _ view: View) {
        // What can't be found is told when it is looked at.
        (try? view.value(nodes, node))?.expect(limit: Self.nodeBytes)
    }

    @inlinable @inline(__always)
    static func entry(_ node: RawSpan, _ index: Int) -> UInt64 { node.load(at: 16 + index * 8) }

    /// The blocks of one map, as a transaction sees them.
    /// - Parameters:
    ///   - blockCount: blocks of the disk.
    ///   - cache: where nodes were found before, some of them in `state`, which is the one of `view`: they are not looked for, nor are
    ///     their checksums computed again.
    @_lifetime(copy view)
    public func reader(_ map: MapRoot, blockCount: UInt64, _ view: View, _ cache: CachePlaces? = nil, _ state: Int = 0) -> MapReader {
        MapReader(self, map, blockCount, view, cache, state)
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
    public init(forBlocks count: UInt64) { self.init(node: 0, height: BlockMaps.height(forBlocks: count), mappedBlocks: 0) }
}

/// The leaves of one map, as one transaction sees them.
public struct MapReader: ~Escapable {
    private let view: View
    private let maps: BlockMaps
    private let map: MapRoot
    private let cache: CachePlaces?
    private let state: Int
    /// Blocks in the disk, rounded up.
    public let blockCount: UInt64

    @_lifetime(copy view)
    fileprivate init(_ maps: BlockMaps, _ map: MapRoot, _ blockCount: UInt64, _ view: View, _ cache: CachePlaces?, _ state: Int) {
        self.cache = cache
        self.state = state
        self.view = view
        self.maps = maps
        self.map = map
        self.blockCount = blockCount
    }

    /// The leaf over `block`, empty when nothing is mapped around it.
    @_lifetime(copy self)
    public func leaf(over block: UInt64) throws(Failure) -> Leaf { try leaf(leafPlace(over: block)) }

    /// Where the leaf over `block` is.
    public func leafPlace(over block: UInt64) throws(Failure) -> LeafPlace {
        var node = map.node
        var level = map.height
        var base: UInt64 = 0
        while true {
            let span = BlockMaps.entrySpan(level: level)
            guard node != 0, level > 0 else { return LeafPlace(node: node, first: base, end: base &+ span &* UInt64(BlockMaps.fanout)) }
            let index = min(Int((block &- base) / span), BlockMaps.fanout - 1)
            node = BlockMaps.entry(try bytes(of: node, level: level), index)
            base &+= UInt64(index) &* span
            level -= 1
        }
    }

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
        for _ in 0..<count {
            guard next < blockCount else { return }
            let place = try leafPlace(over: next)
            if place.node != 0 { maps.expect(place.node, view) }
            next = place.end
        }
    }

    /// Has the processor fetch what tells where that leaf is.
    public func prefetch(_ place: LeafPlace) { cache?.prefetch(place.node) }

    @inline(__always)
    @_lifetime(copy self)
    private func bytes(of node: UInt64, level: Int) throws(Failure) -> RawSpan {
        if let found = cache?.value(node, in: state, view) { return found }
        let bytes = try maps.node(node, level: level, view)
        cache?.insert(node, in: state, bytes)
        return bytes
    }
}

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
    public func prefetch(_ block: UInt64) { bytes?.prefetch(at: BlockMaps.headerSize + Int(block &- first) * 8, count: 8) }

    @inlinable
    public func covers(_ block: UInt64) -> Bool { block >= first && block < end }
    @inlinable
    public var isEmpty: Bool { bytes == nil }
    /// The blob of `block`, which the leaf covers.
    @inlinable
    public func blob(_ block: UInt64) -> BlobNumber {
        guard let bytes else { return .none }
        return BlobNumber(rawValue: BlockMaps.entry(bytes, Int(block &- first)))
    }
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

extension BlockMaps {
    /// Enters changes, sorted by block, each block once.
    public func change(
        _ map: inout MapRoot, _ changes: [MapChange], _ edit: inout MapEdit, _ lmdb: inout WriteTransaction
    ) throws(Failure) {
        guard !changes.isEmpty else { return }
        var mapped: Int64 = 0
        map.node = try change(map.node, level: map.height, base: 0, changes[...], &mapped, &edit, &lmdb)
        map.mappedBlocks &+= UInt64(bitPattern: mapped)
    }

    /// Sees to it that the tree is high enough for so many blocks: what there is becomes the first part of a higher one.
    public func grow(_ map: inout MapRoot, toBlocks blockCount: UInt64, _ edit: inout MapEdit, _ lmdb: inout WriteTransaction) throws(Failure) {
        let needed = Self.height(forBlocks: blockCount)
        while map.height < needed {
            map.height += 1
            guard map.node != 0 else { continue }
            var entries = [UInt64](repeating: 0, count: Self.fanout)
            entries[0] = map.node
            map.node = try put(0, level: map.height, entries, &edit, &lmdb)
        }
    }

    private func entries(_ node: UInt64, level: Int, _ view: View) throws(Failure) -> [UInt64] {
        guard node != 0 else { return [UInt64](repeating: 0, count: Self.fanout) }
        let bytes = try self.node(node, level: level, view)
        return (0..<Self.fanout).map { Self.entry(bytes, $0) }
    }

    /// Stores the node, under a new number when it had none; an empty one is removed. Returns its number, or 0.
    private func put(
        _ old: UInt64, level: Int, _ entries: [UInt64], _ edit: inout MapEdit, _ lmdb: inout WriteTransaction
    ) throws(Failure) -> UInt64 {
        let used = entries.count { $0 != 0 }
        guard used > 0 else {
            if old != 0 { try lmdb.remove(nodes, old) }
            return 0
        }
        var number = old
        if number == 0 {
            number = edit.nextNode
            edit.nextNode += 1
        }
        try lmdb.put(nodes, number, count: Self.nodeBytes) { value in
            value.store(UInt32(level), at: 8)
            value.store(UInt32(used), at: 12)
            value.copy(entries.rawBytes, to: Self.headerSize)
            value.store(checksum(value.bytes.extracting(8..<Self.nodeBytes), seed: number), at: 0)
        }
        return number
    }

    private func change(
        _ node: UInt64, level: Int, base: UInt64, _ changes: ArraySlice<MapChange>, _ mapped: inout Int64,
        _ edit: inout MapEdit, _ lmdb: inout WriteTransaction
    ) throws(Failure) -> UInt64 {
        var entries = try entries(node, level: level, lmdb.view)
        let span = Self.entrySpan(level: level)
        var next = changes.startIndex
        while next < changes.endIndex {
            let index = Int((changes[next].block - base) / span)
            if level == 0 {
                replace(&entries[index], with: changes[next].blob.rawValue, &mapped, &edit)
                next += 1
            } else {
                let childBase = base + UInt64(index) * span
                var end = next
                while end < changes.endIndex, changes[end].block - childBase < span { end += 1 }
                entries[index] = try change(entries[index], level: level - 1, base: childBase, changes[next..<end], &mapped, &edit, &lmdb)
                next = end
            }
        }
        return try put(node, level: level, entries, &edit, &lmdb)
    }

    private func replace(_ entry: inout UInt64, with new: UInt64, _ mapped: inout Int64, _ edit: inout MapEdit) {
        guard entry != new else { return }
        if entry != 0 {
            edit.references.refer(to: BlobNumber(rawValue: entry), -1)
            mapped -= 1
        }
        if new != 0 {
            edit.references.refer(to: BlobNumber(rawValue: new), 1)
            mapped += 1
        }
        entry = new
    }

    /// Unmaps the blocks `first..<end`, in bounded pieces: at most `leaves` leaves a call.
    /// - Returns: the first block that is left to do, or `end`.
    public func unmap(
        _ map: inout MapRoot, from first: UInt64, to end: UInt64, leaves: Int, _ edit: inout MapEdit, _ lmdb: inout WriteTransaction
    ) throws(Failure) -> UInt64 {
        // Beyond what the tree covers, nothing is mapped.
        let last = min(end, Self.entrySpan(level: map.height + 1))
        guard first < last else { return end }
        var piece = Unmapping(done: first, end: last, budget: leaves)
        map.node = try unmap(map.node, level: map.height, base: 0, &piece, &edit, &lmdb)
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
        _ node: UInt64, level: Int, base: UInt64, _ piece: inout Unmapping, _ edit: inout MapEdit, _ lmdb: inout WriteTransaction
    ) throws(Failure) -> UInt64 {
        let span = Self.entrySpan(level: level)
        guard node != 0 else {
            piece.done = min(piece.end, base + span * UInt64(Self.fanout))
            return 0
        }
        var entries = try entries(node, level: level, lmdb.view)
        if level == 0 { piece.budget -= 1 }
        while piece.done < piece.end, (piece.done - base) / span < UInt64(Self.fanout) {
            let index = Int((piece.done - base) / span)
            if level == 0 {
                replace(&entries[index], with: 0, &piece.mapped, &edit)
                piece.done += 1
            } else if entries[index] == 0 {
                piece.done = min(piece.end, base + UInt64(index + 1) * span)
            } else {
                guard piece.budget > 0 else { break }
                entries[index] = try unmap(entries[index], level: level - 1, base: base + UInt64(index) * span, &piece, &edit, &lmdb)
            }
        }
        return try put(node, level: level, entries, &edit, &lmdb)
    }
}

// MARK: Checking

/// Walks maps to see whether they are what they should be.
public struct MapWalk: ~Escapable {
    private let maps: BlockMaps
    private let view: View
    /// Nodes that were met.
    private var seen: Set<UInt64> = []

    @_lifetime(copy view)
    public init(_ maps: BlockMaps, _ view: View) {
        self.maps = maps
        self.view = view
    }

    /// Nodes that no map has which was walked.
    public func strangers() throws(Failure) -> Int { max(0, try maps.nodeCount(view) - seen.count) }

    /// Walks one map.
    /// - Parameters:
    ///   - entry: told each mapped block and its blob, in order.
    ///   - problem: told what is wrong.
    @_lifetime(self: copy self)
    public mutating func walk(_ map: MapRoot, entry: (UInt64, BlobNumber) -> Void, problem: (String) -> Void) {
        walk(map.node, level: map.height, base: 0, entry, problem)
    }

    /// Nodes whose pages are asked for together.
    private static var nodesAhead: Int { 64 }

    @_lifetime(self: copy self)
    private mutating func walk(
        _ node: UInt64, level: Int, base: UInt64, _ found: (UInt64, BlobNumber) -> Void, _ problem: (String) -> Void
    ) {
        guard node != 0 else { return }
        guard seen.insert(node).inserted else { return problem("map node \(node) appears twice") }
        let bytes: RawSpan
        do {
            bytes = try maps.node(node, level: level, view)
        } catch {
            return problem("\(error)")
        }
        let span = BlockMaps.entrySpan(level: level)
        for index in 0..<BlockMaps.fanout {
            if level > 0, index % Self.nodesAhead == 0 {
                for next in index..<min(index + Self.nodesAhead, BlockMaps.fanout) where BlockMaps.entry(bytes, next) != 0 {
                    maps.expect(BlockMaps.entry(bytes, next), view)
                }
            }
            let entry = BlockMaps.entry(bytes, index)
            guard entry != 0 else { continue }
            let first = base &+ UInt64(index) &* span
            if level > 0 {
                walk(entry, level: level - 1, base: first, found, problem)
            } else {
                found(first, BlobNumber(rawValue: entry))
            }
        }
    }
}
