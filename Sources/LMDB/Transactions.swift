internal import CLMDB
public import System

/// A read transaction: one commit's state, unchanged however long it lives. Pages that it sees cannot be reused
/// meanwhile, so keep it short.
@safe
public struct ReadTransaction: ~Copyable {
    private let environment: Environment
    private let handle: OpaquePointer

    public init(_ environment: Environment) throws(Failure) {
        unsafe handle = try Self.begin(environment)
        self.environment = environment
    }

    private static func begin(_ environment: Environment) throws(Failure) -> OpaquePointer {
        // One that was used before keeps its slot in the table of readers; a new one has to enter it.
        if let idle = environment.idleReaders.withLock({ $0.popLast() }) {
            let result = unsafe mdb_txn_renew(idle.handle)
            if result != 0 { unsafe mdb_txn_abort(idle.handle) }
            try environment.check(result, "read", .file(environment.path))
            return unsafe idle.handle
        }
        let entering = try environment.lockFile.isReadOnly ? nil : environment.lockFile.hold(.reading(environment.number))
        defer { withExtendedLifetime(entering) {} }
        var begun: OpaquePointer?
        try unsafe environment.check(
            mdb_txn_begin(environment.handle, nil, UInt32(MDB_RDONLY), &begun), "read", .file(environment.path))
        guard let begun = unsafe begun else { throw Failure(.system, .file(environment.path), "LMDB gave no transaction") }
        return unsafe begun
    }

    deinit {
        let kept = unsafe IdleReader(handle)
        let isKept = environment.idleReaders.withLock { idle in
            guard idle.count < Environment.mostIdleReaders else { return false }
            unsafe mdb_txn_reset(kept.handle)
            idle.append(kept)
            return true
        }
        if !isKept { unsafe mdb_txn_abort(kept.handle) }
    }

    public var view: View {
        @_lifetime(borrow self) borrowing get { unsafe View(environment, handle, owner: self) }
    }

    /// Number of the commit that it sees (`mdb_txn_id`).
    public var id: Int { unsafe Int(mdb_txn_id(handle)) }

    /// Lets go of the state without giving up the reader's slot (`mdb_txn_reset`); `renew` comes next.
    public mutating func reset() { unsafe mdb_txn_reset(handle) }

    /// Sees the newest commit (`mdb_txn_renew`).
    public mutating func renew() throws(Failure) { unsafe try renewInPlace() }
}

/// The same for an object that keeps one and gives out where values are: what is found is there until `reset`, or its end, which is for its
/// owner to see to.
extension ReadTransaction {
    /// Where the value under `key` is, or nil.
    @unsafe public borrowing func address(_ table: Environment.Table, _ key: UInt64) throws(Failure) -> UnsafeRawBufferPointer? {
        unsafe try view.value(table, key)?.withUnsafeBytes { unsafe $0 }
    }

    /// Lends what it sees.
    public borrowing func withView<Result>(_ body: (View) throws(Failure) -> Result) throws(Failure) -> Result { try body(view) }

    /// Sees the newest commit; `resetInPlace` came before.
    @unsafe public borrowing func renewInPlace() throws(Failure) {
        let result = unsafe mdb_txn_renew(handle)
        if result != 0 { throw unrenewed(result) }
    }

    // Apart, as the environment is counted here, which is weakly referred to: that takes a hundred instructions.
    @inline(never)
    private borrowing func unrenewed(_ result: CInt) -> Failure { environment.failure(result, "read", .file(environment.path)) }

    @unsafe public borrowing func resetInPlace() { unsafe mdb_txn_reset(handle) }
}

/// A read transaction that sees nothing at the moment.
@safe
struct IdleReader: @unchecked Sendable {
    let handle: OpaquePointer
    init(_ handle: OpaquePointer) { unsafe self.handle = handle }
}

extension Environment {
    /// More are given up when nobody uses them.
    static var mostIdleReaders: Int { 16 }
}

/// The write transaction: there is one at a time, over all processes. Dropped without `commit`, it never was.
/// It belongs to the thread that began it.
@safe
public struct WriteTransaction: ~Copyable {
    private let environment: Environment
    private let handle: OpaquePointer
    private var ended = false
    /// Given up behind LMDB's own lock.
    private let hold: LockFile.Hold

    /// Waits for the other writers.
    /// - Parameter patience: for how long, when it is not as long as the environment's users wait by themselves.
    /// - Throws: `.busy` when it took too long; `.system` where the store can't be written to.
    public init(_ environment: Environment, _ patience: Patience? = nil) throws(Failure) {
        try environment.lockFile.refuseIfReadOnly()
        let hold = try environment.lockFile.hold(.writing(environment.number), patience)
        var begun: OpaquePointer?
        try unsafe environment.check(
            mdb_txn_begin(environment.handle, nil, 0, &begun), "write to", .file(environment.path))
        guard let begun = unsafe begun else { throw Failure(.system, .file(environment.path), "LMDB gave no transaction") }
        unsafe handle = begun
        self.environment = environment
        self.hold = hold
    }

    deinit { if !ended { unsafe mdb_txn_abort(handle) } }

    public var view: View {
        @_lifetime(borrow self) borrowing get { unsafe View(environment, handle, owner: self) }
    }

    /// Number that its commit will have.
    public var id: Int { unsafe Int(mdb_txn_id(handle)) }

    /// Makes all changes durable and visible at once: when this returns, they survive the loss of power.
    public consuming func commit() throws(Failure) {
        ended = true  // LMDB frees a transaction that fails to commit, too.
        try unsafe environment.check(mdb_txn_commit(handle), "commit to", .file(environment.path))
    }

    /// Drops all changes, and lets the next writer in.
    public consuming func abort() {}

    /// Makes room for a value of `count` bytes under `key`, replacing what was there, and lets `fill` write it in place.
    public mutating func put(
        _ table: Environment.Table, _ key: UInt64, count: Int, fill: (inout MutableRawSpan) -> Void
    ) throws(Failure) {
        var bigEndian = key.bigEndian
        var data = unsafe MDB_val(mv_size: count, mv_data: nil)
        let result = unsafe withUnsafeMutableBytes(of: &bigEndian) { bytes in
            var name = unsafe MDB_val(mv_size: 8, mv_data: bytes.baseAddress)
            return unsafe mdb_put(handle, table.dbi, &name, &data, UInt32(MDB_RESERVE))
        }
        try environment.check(result, "write", .table("\(table.name)", of: environment.path))
        let room = unsafe UnsafeMutableRawBufferPointer(start: data.mv_data, count: count)
        var span = unsafe MutableRawSpan(_unsafeBytes: room)
        fill(&span)
    }

    /// Stores `value` under `key`, replacing what was there.
    public mutating func put(_ table: Environment.Table, _ key: String, _ value: RawSpan) throws(Failure) {
        var key = key
        let result = key.withUTF8 { utf8 in
            unsafe value.withUnsafeBytes { bytes in
                var name = unsafe MDB_val(mv_size: utf8.count, mv_data: UnsafeMutableRawPointer(mutating: utf8.baseAddress))
                var data = unsafe MDB_val(mv_size: bytes.count, mv_data: UnsafeMutableRawPointer(mutating: bytes.baseAddress))
                return unsafe mdb_put(handle, table.dbi, &name, &data, 0)
            }
        }
        try environment.check(result, "write", .table("\(table.name)", of: environment.path))
    }

    /// Removes the record under `key`. False: there was none.
    @discardableResult
    public mutating func remove(_ table: Environment.Table, _ key: UInt64) throws(Failure) -> Bool {
        var bigEndian = key.bigEndian
        let result = unsafe withUnsafeMutableBytes(of: &bigEndian) { bytes in
            var name = unsafe MDB_val(mv_size: 8, mv_data: bytes.baseAddress)
            return unsafe mdb_del(handle, table.dbi, &name, nil)
        }
        return try removed(result, table)
    }

    /// Removes the record under `key`. False: there was none.
    @discardableResult
    public mutating func remove(_ table: Environment.Table, _ key: String) throws(Failure) -> Bool {
        var key = key
        let result = key.withUTF8 { utf8 in
            var name = unsafe MDB_val(mv_size: utf8.count, mv_data: UnsafeMutableRawPointer(mutating: utf8.baseAddress))
            return unsafe mdb_del(handle, table.dbi, &name, nil)
        }
        return try removed(result, table)
    }

    private func removed(_ result: CInt, _ table: Environment.Table) throws(Failure) -> Bool {
        if result == MDB_NOTFOUND { return false }
        try environment.check(result, "remove from", .table("\(table.name)", of: environment.path))
        return true
    }

    /// Removes every record.
    public mutating func clear(_ table: Environment.Table) throws(Failure) {
        try unsafe environment.check(
            mdb_drop(handle, table.dbi, 0), "clear", .table("\(table.name)", of: environment.path))
    }
}
