import Glibc
public import System

/// What toolstack, backends and frontends tell each other by (xenstore.h): a small tree of nodes that hold bytes.
///
/// A guest writes part of the tree, so nothing read from it is to be trusted: a value is any bytes of any length.
/// Paths are absolute (`/local/domain/3/name`), relative to the caller's own domain (`domid`), or special
/// (`@releaseDomain`: a domain went; `@introduceDomain`: a domain came).
public protocol Xenstore: AnyObject {
    /// The value of a node; nil when there is none.
    func read(_ path: String, in transaction: XenstoreTransaction) throws(Failure) -> [UInt8]?
    /// Sets a node's value, making the node and its parents where they are missing.
    func write(_ path: String, _ value: [UInt8], in transaction: XenstoreTransaction) throws(Failure)
    /// Makes a node without a value. That it exists is no error.
    func makeDirectory(_ path: String, in transaction: XenstoreTransaction) throws(Failure)
    /// Removes a node and all below. That there is none is no error.
    func remove(_ path: String, in transaction: XenstoreTransaction) throws(Failure)
    /// The names below a node, in no order; nil when there is no node.
    func list(_ path: String, in transaction: XenstoreTransaction) throws(Failure) -> [String]?
    /// Makes `owner` the owner of a node, who may do all; `readers` may read it, others nothing. A node that is made
    /// later inherits this from its parent.
    func setPermissions(_ path: String, owner: DomainID, readers: [DomainID], in transaction: XenstoreTransaction) throws(Failure)

    /// Asks for an event whenever the node or one below it changes. One event comes at once.
    func watch(_ path: String, token: String) throws(Failure)
    /// Ends a watch. Events of it that are under way may still come.
    func unwatch(_ path: String, token: String) throws(Failure)
    /// The next watch event; nil when none is waiting. Call until nil after `storeDescriptor` became readable: it
    /// need not become readable again for the events that are left.
    func nextWatchEvent() throws(Failure) -> WatchEvent?
    /// Readable when a watch event waits.
    var storeDescriptor: Int32 { get }

    /// Whether the hypervisor still has this domain: false from the moment that it dies.
    func isIntroduced(_ domain: DomainID) -> Bool

    /// Begins a transaction. Use `transaction(_:_:)`, which ends it and tries again.
    func beginTransaction() throws(Failure) -> XenstoreTransaction
    /// Ends a transaction. False: somebody else changed what it has read or written, and nothing was done.
    func endTransaction(_ transaction: XenstoreTransaction, commit: Bool) throws(Failure) -> Bool
}

/// A transaction's number; `.none` is no transaction: each operation by itself.
public struct XenstoreTransaction: Equatable, Sendable {
    public let number: UInt32
    public init(number: UInt32) { self.number = number }
    public static let none = XenstoreTransaction(number: 0)
}

/// Something at or below a watched path changed.
public struct WatchEvent: Equatable, Sendable {
    /// The node that changed, not the one that is watched.
    public let path: String
    /// The token of the watch.
    public let token: String

    public init(path: String, token: String) {
        self.path = path
        self.token = token
    }
}

extension Xenstore {
    /// How often a transaction is tried before it fails as `.busy`.
    private var transactionAttempts: Int { 100 }

    /// Runs `body` until the transaction commits: others see all that it did, or nothing. `body` may run several times.
    /// - Parameter what: names it in the failure.
    /// - Throws: `.busy` after a hundred attempts; what `body` throws; what the xenstore refuses.
    public func transaction<Result>(
        _ what: @autoclosure () -> String, _ body: (XenstoreTransaction) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        for _ in 0..<transactionAttempts {
            let transaction = try beginTransaction()
            let result: Result
            do {
                result = try body(transaction)
            } catch {
                // If it can't be ended, it ends with the connection; the failure of `body` is the one to tell.
                _ = try? endTransaction(transaction, commit: false)
                throw error
            }
            if try endTransaction(transaction, commit: true) { return result }
        }
        throw Failure(
            .busy, .named(what()), "the xenstore changed under each of \(transactionAttempts) attempts",
            remedy: "try again; see what writes to the xenstore all the time")
    }

    /// The value of a node outside of transactions; nil when there is none.
    public func read(_ path: String) throws(Failure) -> [UInt8]? { try read(path, in: .none) }

    /// The value of a node as text; nil when there is none. Bytes that are not UTF-8 are as `PathText` has them, so that
    /// two values are never the same text.
    public func text(_ path: String, in transaction: XenstoreTransaction = .none) throws(Failure) -> String? {
        try read(path, in: transaction).map { PathText.text($0) }
    }

    /// The value of a node as an unsigned decimal number; nil when there is none or it is anything else.
    public func number(_ path: String, in transaction: XenstoreTransaction = .none) throws(Failure) -> UInt64? {
        guard let value = try read(path, in: transaction), !value.isEmpty, value.count <= 20 else { return nil }
        var number: UInt64 = 0
        for digit in value {
            guard digit >= UInt8(ascii: "0"), digit <= UInt8(ascii: "9") else { return nil }
            let (tens, overflow) = number.multipliedReportingOverflow(by: 10)
            let (sum, carry) = tens.addingReportingOverflow(UInt64(digit &- UInt8(ascii: "0")))
            if overflow || carry { return nil }
            number = sum
        }
        return number
    }

    /// Sets a node's value to a text.
    public func write(_ path: String, _ value: String, in transaction: XenstoreTransaction = .none) throws(Failure) {
        try write(path, Array(value.utf8), in: transaction)
    }

    /// Removes a node and all below, outside of transactions.
    public func remove(_ path: String) throws(Failure) { try remove(path, in: .none) }

    /// The names below a node, outside of transactions.
    public func list(_ path: String) throws(Failure) -> [String]? { try list(path, in: .none) }
}

/// The error for what the xenstore refused with this `errno`.
package func storeFailure(_ operation: Failure.Operation, _ path: String, _ code: Int32) -> Failure {
    let remedy =
        switch code {
        case EACCES, EPERM: "run as root, in the domain that owns the node"
        case ENOSPC: "the domain has as many nodes in the xenstore as it may have; remove some"
        default: "see that xenstored runs"
        }
    return Failure(.system, operation, .node(path), systemError(code), remedy: remedy)
}
