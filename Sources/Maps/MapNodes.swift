public import System

/// Where the nodes of all maps are kept: each under a number of its own, which is never used again.
///
/// All changes of a transaction take effect together, or none; a read transaction shows one state, whatever is committed meanwhile. An
/// error that is not `.damage` says nothing of what is there: a node that can't be had now is not missing.
///
/// Where what was published is never written over, a node that an earlier transaction wrote can't be changed any more: `isOwn` says so. A new node takes
/// its place then, its parent is changed to refer to that, and so on up to the root; the old one is released.
///
/// Nodes and roots refer to nodes, and the number of references to each is kept here. A node that loses its last reference is gone. A node below a
/// shared one is shared with it, even if only one node refers to it.
///
/// The top of a tree that nothing refers to any more is detached: the list of detached nodes has its reference until it is freed, node by node.
///
/// An implementation names its transactions as associated types, so that a store is built with one and its calls are direct.
public protocol MapNodes: Sendable {
    /// What a transaction sees.
    associatedtype Reading: ~Escapable
    /// A transaction that changes something.
    associatedtype Writing: ~Copyable

    /// The bytes of a node, which stay where they are as long as the transaction. Nil: it is not there.
    @_lifetime(copy reading)
    func bytes(of number: UInt64, _ reading: Reading) throws(Failure) -> RawSpan?

    /// These nodes will be read soon, one after the other: what lies far away is fetched, all together. Some may not be there.
    func expect(_ numbers: [UInt64], _ reading: Reading)

    /// Nodes that there are, of all maps.
    func count(_ reading: Reading) throws(Failure) -> Int

    /// What a transaction sees of what it has done so far.
    @_lifetime(borrow writing)
    func reading(_ writing: borrowing Writing) -> Reading

    /// Whether a node may be written over, if nothing else refers to it.
    func isOwn(_ number: UInt64, _ writing: borrowing Writing) throws(Failure) -> Bool

    /// Makes a node, with one reference.
    /// - Parameters:
    ///   - number: one that was never used.
    ///   - fill: writes all of its `count` bytes.
    func add(_ number: UInt64, count: Int, _ writing: inout Writing, fill: (inout MutableRawSpan) -> Void) throws(Failure)

    /// Writes over a node that `isOwn`.
    func replace(_ number: UInt64, count: Int, _ writing: inout Writing, fill: (inout MutableRawSpan) -> Void) throws(Failure)

    // MARK: References

    /// Nodes that more than one refers to.
    func sharedCount(_ reading: Reading) throws(Failure) -> Int

    /// How many refer to a node that is there.
    /// - Throws: `.damage` when what says so is not what was written.
    func references(to number: UInt64, _ reading: Reading) throws(Failure) -> UInt32

    /// Adds a reference to a node.
    func retain(_ number: UInt64, _ writing: inout Writing) throws(Failure)

    /// Takes a reference from a node. Without any it is gone; whoever reads an older state still has it.
    func release(_ number: UInt64, _ writing: inout Writing) throws(Failure)

    /// Calls `body` with each node that more than one refers to, and how many do.
    func forEachShared(_ reading: Reading, _ body: (UInt64, UInt32) throws(Failure) -> Void) throws(Failure)

    /// Gives each node one reference again: all are about to be counted anew.
    func forgetShared(_ writing: inout Writing) throws(Failure)

    // MARK: Detached trees

    /// Enters a node in the list of detached ones, which takes over the one reference that it has.
    func detach(_ node: DetachedNode, _ writing: inout Writing) throws(Failure)

    /// A detached node that is not above another one of its tree. Nil: there is none.
    func lowestDetached(_ reading: Reading) throws(Failure) -> DetachedNode?

    /// A detached node is gone.
    func free(_ node: DetachedNode, _ writing: inout Writing) throws(Failure)

    /// Calls `body` with each detached node.
    func forEachDetached(_ reading: Reading, _ body: (DetachedNode) throws(Failure) -> Void) throws(Failure)
}

/// A node that is to be freed, with all below it that nothing else refers to.
public struct DetachedNode: Equatable, Sendable {
    public let level: Int
    public let number: UInt64
    public init(level: Int, number: UInt64) {
        self.level = level
        self.number = number
    }
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
