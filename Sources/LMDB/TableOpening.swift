internal import CLMDB
public import System

/// Opens tables of an environment, all in one transaction: each belongs to the part of the store that opens it, and nobody else
/// gets its handle. To be done before any other transaction of this process.
@safe
public struct TableOpening: ~Copyable {
    private let environment: Environment
    private let isCreating: Bool
    private let handle: OpaquePointer
    private var ended = false
    private let hold: LockFile.Hold?

    /// - Parameter creating: make those that are missing.
    public init(_ environment: Environment, creating: Bool) throws(Failure) {
        let lockFile = environment.lockFile
        let hold = try lockFile.isReadOnly ? nil : lockFile.hold(creating ? .writing(environment.number) : .reading(environment.number))
        var begun: OpaquePointer?
        try unsafe environment.check(
            mdb_txn_begin(environment.handle, nil, creating ? 0 : UInt32(MDB_RDONLY), &begun), "open", .file(environment.path))
        guard let begun = unsafe begun else { throw Failure(.system, .file(environment.path), "LMDB gave no transaction") }
        unsafe handle = begun
        self.environment = environment
        isCreating = creating
        self.hold = hold
    }

    deinit { if !ended { unsafe mdb_txn_abort(handle) } }

    /// The table of that name.
    /// - Throws: `.damage` when it is missing.
    public mutating func table(_ name: StaticString) throws(Failure) -> Environment.Table {
        var dbi = MDB_dbi(0)
        let result = unsafe mdb_dbi_open(handle, "\(name)", isCreating ? UInt32(MDB_CREATE) : 0, &dbi)
        try environment.check(result, "open", .table("\(name)", of: environment.path))
        return Environment.Table(dbi: dbi, name: name)
    }

    /// The tables can be used.
    public consuming func finish() throws(Failure) {
        ended = true
        try unsafe environment.check(mdb_txn_commit(handle), "open the tables of", .file(environment.path))
    }
}

extension Environment {
    /// A copy of one record of a table that nobody has opened yet. Nil: there is none.
    public func record(_ key: String, inTable name: StaticString) throws(Failure) -> [UInt8]? {
        var opening = try TableOpening(self, creating: false)
        let table = try opening.table(name)
        try opening.finish()
        let reading = try ReadTransaction(self)
        return unsafe try reading.view.value(table, key)?.withUnsafeBytes { unsafe [UInt8]($0) }
    }
}
