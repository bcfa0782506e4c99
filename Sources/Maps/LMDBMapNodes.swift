internal import Hashing
public import LMDB
public import System

/// Nodes in LMDB: table `nodes`, key the number, a page each. They are read where they lie. LMDB writes what a transaction changes beside what
/// it was, so that each node may be written over.
///
/// Table `shared`, key the number of a node that more than one refers to:
///
///      0  references  u32   how many do, 2 at least
///      4  checksum    u32   the lower half of XXH3-64 of bytes 0–3, seeded with the number
///
/// Table `detached`, a record for each node that is detached. Its key is the level, in the highest byte, and the number, so that what lies low
/// comes first.
///
///      0  checksum    u64   XXH3-64 of no bytes, seeded with the key
public struct LMDBMapNodes: MapNodes {
    let nodes, shared, detached: Environment.Table

    public init(_ opening: inout TableOpening) throws(Failure) {
        nodes = try opening.table("nodes")
        shared = try opening.table("shared")
        detached = try opening.table("detached")
    }

    @_lifetime(copy reading)
    public func bytes(of number: UInt64, _ reading: View) throws(Failure) -> RawSpan? { try reading.value(nodes, number) }

    public func expect(_ numbers: [UInt64], _ reading: View) {
        // What can't be found is told when it is looked at.
        for number in numbers { (try? reading.value(nodes, number))?.expect(limit: MapNode.byteCount) }
    }

    public func count(_ reading: View) throws(Failure) -> Int { try reading.count(nodes) }

    @_lifetime(borrow writing)
    public func reading(_ writing: borrowing WriteTransaction) -> View { writing.view }

    public func isOwn(_ number: UInt64, _ writing: borrowing WriteTransaction) throws(Failure) -> Bool { true }

    public func add(_ number: UInt64, count: Int, _ writing: inout WriteTransaction, fill: (inout MutableRawSpan) -> Void) throws(Failure) {
        try writing.put(nodes, number, count: count, fill: fill)
    }

    public func replace(_ number: UInt64, count: Int, _ writing: inout WriteTransaction, fill: (inout MutableRawSpan) -> Void) throws(Failure) {
        try writing.put(nodes, number, count: count, fill: fill)
    }

    // MARK: References

    private static let sharedByteCount = 8

    private static func checksum(of references: UInt32, _ number: UInt64) -> UInt32 {
        let word = InlineArray<1, UInt32>(repeating: references)
        // The bytes of an initialised integer.
        return UInt32(truncatingIfNeeded: unsafe Hashing.checksum(word.span.bytes, seed: number))
    }

    private static func references(_ record: RawSpan, _ number: UInt64) throws(Failure) -> UInt32 {
        guard record.byteCount == sharedByteCount, record.load(at: 0, as: UInt32.self) > 1,
            record.load(at: 4, as: UInt32.self) == checksum(of: record.load(at: 0), number)
        else { throw Failure(.damage, .mapNode(number), "what says how many refer to it is damaged") }
        return record.load(at: 0)
    }

    public func sharedCount(_ reading: View) throws(Failure) -> Int { try reading.count(shared) }

    public func references(to number: UInt64, _ reading: View) throws(Failure) -> UInt32 {
        guard let record = try reading.value(shared, number) else { return 1 }
        return try Self.references(record, number)
    }

    private func put(_ references: UInt32, to number: UInt64, _ writing: inout WriteTransaction) throws(Failure) {
        try writing.put(shared, number, count: Self.sharedByteCount) { value in
            value.store(references, at: 0)
            value.store(Self.checksum(of: references, number), at: 4)
        }
    }

    public func retain(_ number: UInt64, _ writing: inout WriteTransaction) throws(Failure) {
        let references = try references(to: number, writing.view)
        guard references < .max else { throw Failure(.noSpace, .mapNode(number), "2^32 references, the most there can be") }
        try put(references + 1, to: number, &writing)
    }

    public func release(_ number: UInt64, _ writing: inout WriteTransaction) throws(Failure) {
        switch try references(to: number, writing.view) {
        case 1: try writing.remove(nodes, number)
        case 2: try writing.remove(shared, number)
        case let references: try put(references - 1, to: number, &writing)
        }
    }

    public func forEachShared(_ reading: View, _ body: (UInt64, UInt32) throws(Failure) -> Void) throws(Failure) {
        var cursor = try reading.cursor(shared)
        var more = try cursor.first()
        while more, let number = cursor.integerKey {
            try body(number, Self.references(cursor.value, number))
            more = try cursor.next()
        }
    }

    public func forgetShared(_ writing: inout WriteTransaction) throws(Failure) { try writing.clear(shared) }

    // MARK: Detached trees

    private static func key(_ node: DetachedNode) -> UInt64 { UInt64(node.level) << 56 | node.number }

    private static func node(_ key: UInt64, _ record: RawSpan) throws(Failure) -> DetachedNode {
        let node = DetachedNode(level: Int(key >> 56), number: key & (1 << 56 - 1))
        guard record.byteCount == 8, record.load(at: 0, as: UInt64.self) == Hashing.checksum(RawSpan(), seed: key), node.level <= MapNode.maximumHeight else {
            throw Failure(.damage, .mapNode(node.number), "what says that nothing refers to it is damaged")
        }
        return node
    }

    public func detach(_ node: DetachedNode, _ writing: inout WriteTransaction) throws(Failure) {
        let key = Self.key(node)
        try writing.put(detached, key, count: 8) { $0.store(Hashing.checksum(RawSpan(), seed: key), at: 0) }
    }

    public func lowestDetached(_ reading: View) throws(Failure) -> DetachedNode? {
        var cursor = try reading.cursor(detached)
        guard try cursor.first(), let key = cursor.integerKey else { return nil }
        return try Self.node(key, cursor.value)
    }

    public func free(_ node: DetachedNode, _ writing: inout WriteTransaction) throws(Failure) {
        try writing.remove(detached, Self.key(node))
        try writing.remove(nodes, node.number)
    }

    public func forEachDetached(_ reading: View, _ body: (DetachedNode) throws(Failure) -> Void) throws(Failure) {
        var cursor = try reading.cursor(detached)
        var more = try cursor.first()
        while more, let key = cursor.integerKey {
            try body(Self.node(key, cursor.value))
            more = try cursor.next()
        }
    }
}

/// The maps of a store, and what would be freed with some of them.
public typealias BlockMaps = MapTrees<LMDBMapNodes>
public typealias BlockMapRelease = MapRelease<LMDBMapNodes>

extension BlockMaps {
    public init(_ opening: inout TableOpening) throws(Failure) { self.init(try LMDBMapNodes(&opening)) }
}
