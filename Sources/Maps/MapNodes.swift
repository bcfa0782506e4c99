public import System

/// Where the nodes of all maps are kept: each under a number of its own, which is never used again.
///
/// What changes does so with all else of a transaction, or not at all; a reading one shows one state, whatever is committed meanwhile. An
/// error that is not `.damage` says nothing of what is there: a node that can't be had now is not one that is missing.
///
/// A node that a transaction before wrote may be one for good, as what was published is never written over: `isOwn` says so. Then another takes
/// its place, up to the root, and it is released.
///
/// No node has two parents yet. For roots to share some, references are to be counted here, each node's by its number: added to the children of
/// a node that is copied, and taken by `release`, which then says whether the node is gone. Whether a node is shared is to be asked on the way
/// down, before anything below it changes: what lies under a shared node is shared, however few refer to it.
///
/// An implementation says what its transactions are, and who composes a store chooses one: no call is made through a box.
public protocol MapNodes: Sendable {
    /// What a transaction sees.
    associatedtype Reading: ~Escapable
    /// A transaction that changes something.
    associatedtype Writing: ~Copyable

    /// The bytes of a node, which stay where they are as long as what is read. Nil: it is not there.
    @_lifetime(copy reading)
    func bytes(of number: UInt64, _ reading: Reading) throws(Failure) -> RawSpan?

    /// These nodes will be read soon, one after the other: what lies far away is fetched, all together. Some may not be there.
    func expect(_ numbers: [UInt64], _ reading: Reading)

    /// Nodes that there are, of all maps.
    func count(_ reading: Reading) throws(Failure) -> Int

    /// What a transaction sees of what it has done so far.
    @_lifetime(borrow writing)
    func reading(_ writing: borrowing Writing) -> Reading

    /// Whether a node may be written over.
    func isOwn(_ number: UInt64, _ writing: borrowing Writing) throws(Failure) -> Bool

    /// Makes a node.
    /// - Parameters:
    ///   - number: one that was never used.
    ///   - fill: writes all of its `count` bytes.
    func add(_ number: UInt64, count: Int, _ writing: inout Writing, fill: (inout MutableRawSpan) -> Void) throws(Failure)

    /// Writes over a node that `isOwn`.
    func replace(_ number: UInt64, count: Int, _ writing: inout Writing, fill: (inout MutableRawSpan) -> Void) throws(Failure)

    /// The one parent that a node had, or the disk, refers to it no more: it is gone. Whoever reads an older state still has it.
    func release(_ number: UInt64, _ writing: inout Writing) throws(Failure)
}

extension MapNodes {
    /// A node after its checks.
    /// - Throws: `.damage` when it is missing or not what was written.
    @inlinable
    @_lifetime(copy reading)
    func node(_ number: UInt64, level: Int, _ reading: Reading) throws(Failure) -> RawSpan {
        guard let bytes = try bytes(of: number, reading), MapNode.isIntact(bytes, number, level: level) else {
            throw Failure(.damage, .mapNode(number), "missing or damaged", remedy: "restore the store from a copy")
        }
        return bytes
    }
}
