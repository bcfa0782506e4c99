public import System

/// Where the nodes of all maps are kept: each under a number of its own, which is never used again.
///
/// What changes does so with all else of a transaction, or not at all; a reading one shows one state, whatever is committed meanwhile. An
/// error that is not `.damage` says nothing of what is there: a node that can't be had now is not one that is missing.
///
/// A node that a transaction before wrote may be one for good, as what was published is never written over: `isOwn` says so. Then another takes
/// its place, up to the root, and it is released.
///
/// Nodes and roots refer to nodes; how many refer to each is kept here. With the last of these a node is gone. What is below a node that several
/// refer to is theirs, too, however few refer to it.
///
/// A tree that nothing refers to any more is detached, and then freed node by node: until then, the list of detached trees is what refers
/// to its top.
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

    /// Whether a node may be written over, if nothing else refers to it.
    func isOwn(_ number: UInt64, _ writing: borrowing Writing) throws(Failure) -> Bool

    /// Makes a node, to which one will refer.
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

    /// One more refers to a node.
    func retain(_ number: UInt64, _ writing: inout Writing) throws(Failure)

    /// One that did refers to a node no more. With the last one it is gone; whoever reads an older state still has it.
    func release(_ number: UInt64, _ writing: inout Writing) throws(Failure)

    /// Calls `body` with each node that more than one refers to, and how many do.
    func forEachShared(_ reading: Reading, _ body: (UInt64, UInt32) throws(Failure) -> Void) throws(Failure)

    /// All references are about to be counted anew: each node has one again.
    func forgetShared(_ writing: inout Writing) throws(Failure)

    // MARK: Detached trees

    /// The one that refers to a node is the list of detached trees from now on.
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
