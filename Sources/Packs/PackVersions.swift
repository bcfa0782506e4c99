internal import Hashing
public import LMDB
public import System

/// Which version of each pack is current: table `versions` of the environment that refers to the packs.
///
/// A record, key the pack's number, of each pack that was written anew or is gone; the others are `VersionState.sealed`.
///
///      0  checksum  u64   XXH3-64 of the rest, seeded with the pack's number
///      8  current   u32   the version that is read; 2³² − 1: none, the pack is gone
///     12  next      u32   no version before this one becomes current any more
///
/// The record of a pack that is gone is removed when none of its versions is left among the packs.
public struct PackVersions: Sendable {
    private static let byteCount = 16
    let table: Environment.Table

    public init(_ opening: inout TableOpening) throws(Failure) { table = try opening.table("versions") }

    public func state(of pack: UInt64, _ view: View) throws(Failure) -> VersionState {
        guard let record = try view.value(table, pack) else { return .sealed }
        return try Self.decode(record, pack)
    }

    /// - Throws: `.damage` when the record is not what was written.
    private static func decode(_ record: RawSpan, _ pack: UInt64) throws(Failure) -> VersionState {
        guard record.byteCount == byteCount, record.load(at: 0, as: UInt64.self) == checksum(record.extracting(8..<byteCount), seed: pack) else {
            throw Failure(.damage, .pack(pack), "its versions are damaged", remedy: "restore the store from a copy")
        }
        let current: UInt32 = record.load(at: 8)
        return VersionState(current: current == .max ? nil : current, next: record.load(at: 12))
    }

    public func put(_ state: VersionState, of pack: UInt64, _ lmdb: inout WriteTransaction) throws(Failure) {
        try lmdb.put(table, pack, count: Self.byteCount) { value in
            value.store(state.current ?? .max, at: 8)
            value.store(state.next, at: 12)
            value.store(checksum(value.bytes.extracting(8..<Self.byteCount), seed: pack), at: 0)
        }
    }

    /// A pack is gone, and nothing is left of it.
    public func remove(_ pack: UInt64, _ lmdb: inout WriteTransaction) throws(Failure) { try lmdb.remove(table, pack) }

    /// Calls `body` with each pack that has a record, in order; nil: that is damaged.
    public func forEach(_ view: View, _ body: (UInt64, VersionState?) throws(Failure) -> Void) throws(Failure) {
        var scan = try Scan(view, table, expecting: Self.byteCount)
        while try scan.next(), let pack = scan.integerKey {
            let state: VersionState?
            do throws(Failure) { state = try Self.decode(scan.value, pack) } catch { state = nil }
            try body(pack, state)
        }
    }
}

/// The versions as they are committed, seen from the first question on, and what a transaction has changed of them.
@safe
public final class CommittedVersions: VersionSource {
    private let versions: PackVersions
    private let environment: Environment
    private let changed: [UInt64: VersionState]
    /// Begun when it is needed: most reads know where their packs are.
    private var reading = Reading.never

    private enum Reading: ~Copyable {
        /// Nothing was asked yet.
        case never
        case seen(ReadTransaction)
        /// Nothing was asked since the reset. The transaction keeps its place among the readers.
        case over(ReadTransaction)
    }

    /// - Parameters:
    ///   - environment: the one that has the table.
    ///   - changed: what the transaction that looks on has changed.
    public init(_ versions: PackVersions, _ environment: Environment, changed: [UInt64: VersionState] = [:]) {
        self.versions = versions
        self.environment = environment
        self.changed = changed
    }

    public func state(of pack: UInt64) throws(Failure) -> VersionState {
        if let state = changed[pack] { return state }
        return try look { (transaction) throws(Failure) in
            try transaction.withView { (view) throws(Failure) in try versions.state(of: pack, view) }
        }
    }

    /// The number of the commit that is seen, from now on if none was.
    public func moment() throws(Failure) -> Int { try look { (transaction) throws(Failure) in transaction.id } }

    private func look<Result>(_ body: (borrowing ReadTransaction) throws(Failure) -> Result) throws(Failure) -> Result {
        while true {
            switch reading {
            case .seen(let transaction): return try body(transaction)
            case .never: break
            case .over: break
            }
            try begin()
        }
    }

    private func begin() throws(Failure) {
        var before = Reading.never
        swap(&before, &reading)
        switch consume before {
        case .never: reading = .seen(try ReadTransaction(environment))
        case .over(var transaction):
            try transaction.renew()
            reading = .seen(transaction)
        case .seen(let transaction): reading = .seen(transaction)
        }
    }

    public func reset() {
        var before = Reading.never
        swap(&before, &reading)
        switch consume before {
        case .never: break
        case .seen(var transaction):
            transaction.reset()
            reading = .over(transaction)
        case .over(let transaction): reading = .over(transaction)
        }
    }
}
