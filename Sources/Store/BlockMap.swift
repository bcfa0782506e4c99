internal import BlockModel
internal import Hashing
internal import LMDB

/// From block to blob: a radix tree of nodes under the disk's root, table `nodes`.
///
///      0  checksum  u64   XXH3-64 of the rest, seeded with the node's number
///      8  level     u32   0: a leaf
///     12  used      u32   entries that are not 0
///     16  508 × u64       leaf: blob numbers; above: node numbers; 0: nothing mapped
///
/// 508 entries fill one page of LMDB. A leaf maps 2 MiB of disk, a tree of two levels 1 GiB, of three 500 GiB.
/// Nothing in a node says whose it is: several roots can share it.
enum BlockMap {
    static let fanout = 508
    static let headerSize = 16
    static let nodeBytes = headerSize + fanout * 8
    static let maximumHeight = 4
    /// Largest disk, in blocks: 128 TiB.
    static let maximumBlocks: UInt64 = 1 << 35

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
    static func node(_ number: UInt64, level: Int, _ view: View, _ tables: Store.Tables) throws(Failure) -> RawSpan {
        guard let bytes = try view.value(tables.nodes, number), bytes.byteCount == nodeBytes,
            bytes.load(at: 0, as: UInt64.self) == checksum(bytes.extracting(8..<nodeBytes), seed: number),
            bytes.load(at: 8, as: UInt32.self) == UInt32(level)
        else { throw Failure(.damage, "map node \(number)", "missing or damaged", remedy: "restore the store from a copy") }
        return bytes
    }

    /// Has the disk begin to read the nodes that these entries of a node above the leaves name.
    static func expect(_ node: RawSpan, _ entries: Range<Int>, _ view: View, _ tables: Store.Tables) {
        for index in entries {
            let child = entry(node, index)
            // What can't be found is told when it is looked at.
            if child != 0 { (try? view.value(tables.nodes, child))?.expect(limit: nodeBytes) }
        }
    }

    @inline(__always)
    static func entry(_ node: RawSpan, _ index: Int) -> UInt64 { node.load(at: headerSize + index * 8) }
}

/// The leaves of one disk's map, as one transaction sees them.
struct MapReader: ~Escapable {
    private let view: View
    private let tables: Store.Tables
    private let disk: DiskRecord
    private let known: KnownValues?
    private let state: Int
    /// Blocks in the disk, rounded up.
    let blockCount: UInt64

    /// - Parameter known: nodes that were found before, some of them in `state`, which is the one of `view`: they are not looked
    ///   for, nor are their checksums computed again.
    @_lifetime(copy view)
    init(_ disk: DiskRecord, _ view: View, _ tables: Store.Tables, _ known: KnownValues? = nil, _ state: Int = 0) {
        self.known = known
        self.state = state
        self.view = view
        self.tables = tables
        self.disk = disk
        blockCount = (disk.byteCount + UInt64(blockSize) - 1) / UInt64(blockSize)
    }

    /// The leaf over `block`, empty when nothing is mapped around it.
    @_lifetime(copy self)
    func leaf(over block: UInt64) throws(Failure) -> Leaf { try leaf(leafPlace(over: block)) }

    /// Where the leaf over `block` is.
    func leafPlace(over block: UInt64) throws(Failure) -> LeafPlace {
        var node = disk.root
        var level = disk.height
        var base: UInt64 = 0
        while true {
            let span = BlockMap.entrySpan(level: level)
            guard node != 0, level > 0 else { return LeafPlace(node: node, first: base, end: base &+ span &* UInt64(BlockMap.fanout)) }
            let index = min(Int((block &- base) / span), BlockMap.fanout - 1)
            node = BlockMap.entry(try bytes(of: node, level: level), index)
            base &+= UInt64(index) &* span
            level -= 1
        }
    }

    @_lifetime(copy self)
    func leaf(_ place: LeafPlace) throws(Failure) -> Leaf {
        Leaf(first: place.first, end: place.end, bytes: place.node == 0 ? nil : try bytes(of: place.node, level: 0))
    }

    /// Has the disk begin to read the next leaves from `block` on.
    func expectLeaves(from block: UInt64, count: Int) throws(Failure) {
        var next = block
        for _ in 0..<count {
            guard next < blockCount else { return }
            let place = try leafPlace(over: next)
            if place.node != 0 { try view.value(tables.nodes, place.node)?.expect(limit: BlockMap.nodeBytes) }
            next = place.end
        }
    }

    /// Has the processor fetch what tells where that leaf is.
    func prefetch(_ place: LeafPlace) { known?.prefetch(place.node) }

    @_lifetime(copy self)
    private func bytes(of node: UInt64, level: Int) throws(Failure) -> RawSpan {
        if let found = known?.value(node, in: state, view) { return found.bytes }
        let bytes = try BlockMap.node(node, level: level, view, tables)
        known?.insert(node, in: state, bytes)
        return bytes
    }
}

/// A leaf's number, and the blocks it covers.
struct LeafPlace {
    /// 0: nothing is mapped there.
    let node: UInt64
    let first, end: UInt64
}

/// A leaf of a map, or a run of blocks that has none.
struct Leaf: ~Escapable {
    /// The blocks it covers.
    let first, end: UInt64
    private let bytes: RawSpan?

    @_lifetime(copy bytes)
    init(first: UInt64, end: UInt64, bytes: RawSpan?) {
        self.first = first
        self.end = end
        self.bytes = bytes
    }

    /// Has the processor fetch the entry of `block`, which the leaf covers.
    func prefetch(_ block: UInt64) { bytes?.prefetch(at: BlockMap.headerSize + Int(block &- first) * 8, count: 8) }

    func covers(_ block: UInt64) -> Bool { block >= first && block < end }
    var isEmpty: Bool { bytes == nil }
    /// The blob of `block`, which the leaf covers.
    func blob(_ block: UInt64) -> BlobNumber {
        guard let bytes else { return .none }
        return BlobNumber(rawValue: BlockMap.entry(bytes, Int(block &- first)))
    }
}

/// A new entry for one block of a map.
struct MapChange {
    let block: UInt64
    /// `.none` unmaps.
    let blob: BlobNumber
}

extension StoreTransaction {
    /// Enters changes, sorted by block, each block once.
    mutating func changeMap(of disk: inout DiskRecord, _ changes: [MapChange]) throws(Failure) {
        guard !changes.isEmpty else { return }
        var mapped: Int64 = 0
        disk.root = try change(disk.root, level: disk.height, base: 0, changes[...], &mapped)
        disk.mappedBlocks &+= UInt64(bitPattern: mapped)
    }

    /// Sets the size, with a tree that is high enough for it: what there is becomes the first part of a higher one.
    mutating func resize(_ disk: inout DiskRecord, to byteCount: UInt64) throws(Failure) {
        let needed = BlockMap.height(forBlocks: (byteCount + UInt64(blockSize) - 1) / UInt64(blockSize))
        while disk.height < needed {
            disk.height += 1
            guard disk.root != 0 else { continue }
            var entries = [UInt64](repeating: 0, count: BlockMap.fanout)
            entries[0] = disk.root
            disk.root = try putNode(0, level: disk.height, entries)
        }
        disk.byteCount = byteCount
    }

    private func entries(_ node: UInt64, level: Int) throws(Failure) -> [UInt64] {
        guard node != 0 else { return [UInt64](repeating: 0, count: BlockMap.fanout) }
        let bytes = try BlockMap.node(node, level: level, lmdb.view, store.tables)
        return (0..<BlockMap.fanout).map { BlockMap.entry(bytes, $0) }
    }

    /// Stores the node, under a new number when it had none; an empty one is removed. Returns its number, or 0.
    private mutating func putNode(_ old: UInt64, level: Int, _ entries: [UInt64]) throws(Failure) -> UInt64 {
        let used = entries.count { $0 != 0 }
        guard used > 0 else {
            if old != 0 { try lmdb.remove(store.tables.nodes, old) }
            return 0
        }
        var number = old
        if number == 0 {
            number = superblock.nextNode
            superblock.nextNode += 1
        }
        try lmdb.put(store.tables.nodes, number, count: BlockMap.nodeBytes) { value in
            value.store(UInt32(level), at: 8)
            value.store(UInt32(used), at: 12)
            value.copy(entries.rawBytes, to: BlockMap.headerSize)
            value.store(checksum(value.bytes.extracting(8..<BlockMap.nodeBytes), seed: number), at: 0)
        }
        return number
    }

    private mutating func change(
        _ node: UInt64, level: Int, base: UInt64, _ changes: ArraySlice<MapChange>, _ mapped: inout Int64
    ) throws(Failure) -> UInt64 {
        var entries = try entries(node, level: level)
        let span = BlockMap.entrySpan(level: level)
        var next = changes.startIndex
        while next < changes.endIndex {
            let index = Int((changes[next].block - base) / span)
            if level == 0 {
                replace(&entries[index], with: changes[next].blob.rawValue, &mapped)
                next += 1
            } else {
                let childBase = base + UInt64(index) * span
                var end = next
                while end < changes.endIndex, changes[end].block - childBase < span { end += 1 }
                entries[index] = try change(entries[index], level: level - 1, base: childBase, changes[next..<end], &mapped)
                next = end
            }
        }
        return try putNode(node, level: level, entries)
    }

    private mutating func replace(_ entry: inout UInt64, with new: UInt64, _ mapped: inout Int64) {
        guard entry != new else { return }
        if entry != 0 {
            refer(to: BlobNumber(rawValue: entry), -1)
            mapped -= 1
        }
        if new != 0 {
            refer(to: BlobNumber(rawValue: new), 1)
            mapped += 1
        }
        entry = new
    }

    /// Unmaps the blocks `first..<end`, in bounded pieces: at most `leaves` leaves a call.
    /// - Returns: the first block that is left to do, or `end`.
    mutating func unmap(_ disk: inout DiskRecord, from first: UInt64, to end: UInt64, leaves: Int) throws(Failure) -> UInt64 {
        isUnmapping = true
        // Beyond what the tree covers, nothing is mapped.
        let last = min(end, BlockMap.entrySpan(level: disk.height + 1))
        guard first < last else { return end }
        var mapped: Int64 = 0
        var budget = leaves
        var done = first
        disk.root = try unmap(disk.root, level: disk.height, base: 0, &done, last, &budget, &mapped)
        disk.mappedBlocks &+= UInt64(bitPattern: mapped)
        return done < last ? done : end
    }

    private mutating func unmap(
        _ node: UInt64, level: Int, base: UInt64, _ done: inout UInt64, _ end: UInt64, _ budget: inout Int, _ mapped: inout Int64
    ) throws(Failure) -> UInt64 {
        let span = BlockMap.entrySpan(level: level)
        guard node != 0 else {
            done = min(end, base + span * UInt64(BlockMap.fanout))
            return 0
        }
        var entries = try entries(node, level: level)
        if level == 0 { budget -= 1 }
        while done < end, (done - base) / span < UInt64(BlockMap.fanout) {
            let index = Int((done - base) / span)
            if level == 0 {
                replace(&entries[index], with: 0, &mapped)
                done += 1
            } else if entries[index] == 0 {
                done = min(end, base + UInt64(index + 1) * span)
            } else {
                guard budget > 0 else { break }
                entries[index] = try unmap(entries[index], level: level - 1, base: base + UInt64(index) * span, &done, end, &budget, &mapped)
            }
        }
        return try putNode(node, level: level, entries)
    }
}
