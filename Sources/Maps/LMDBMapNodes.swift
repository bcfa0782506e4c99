public import LMDB
public import System

/// Nodes in LMDB: table `nodes`, key the number, a page each. They are read where they lie. LMDB writes what a transaction changes beside what
/// it was, so that each node may be written over.
public struct LMDBMapNodes: MapNodes {
    let table: Environment.Table

    public init(_ opening: inout TableOpening) throws(Failure) { table = try opening.table("nodes") }

    @_lifetime(copy reading)
    public func bytes(of number: UInt64, _ reading: View) throws(Failure) -> RawSpan? { try reading.value(table, number) }

    public func expect(_ numbers: [UInt64], _ reading: View) {
        // What can't be found is told when it is looked at.
        for number in numbers { (try? reading.value(table, number))?.expect(limit: MapNode.byteCount) }
    }

    public func count(_ reading: View) throws(Failure) -> Int { try reading.count(table) }

    @_lifetime(borrow writing)
    public func reading(_ writing: borrowing WriteTransaction) -> View { writing.view }

    public func isOwn(_ number: UInt64, _ writing: borrowing WriteTransaction) throws(Failure) -> Bool { true }

    public func add(_ number: UInt64, count: Int, _ writing: inout WriteTransaction, fill: (inout MutableRawSpan) -> Void) throws(Failure) {
        try writing.put(table, number, count: count, fill: fill)
    }

    public func replace(_ number: UInt64, count: Int, _ writing: inout WriteTransaction, fill: (inout MutableRawSpan) -> Void) throws(Failure) {
        try writing.put(table, number, count: count, fill: fill)
    }

    public func release(_ number: UInt64, _ writing: inout WriteTransaction) throws(Failure) { try writing.remove(table, number) }
}

/// The maps of a store.
public typealias BlockMaps = MapTrees<LMDBMapNodes>

extension BlockMaps {
    public init(_ opening: inout TableOpening) throws(Failure) { self.init(try LMDBMapNodes(&opening)) }
}
