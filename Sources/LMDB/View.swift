internal import CLMDB
public import System

/// What a transaction sees: the lookups that reading and writing transactions share. A view, and every span it
/// gives out, ends with the transaction (or with its next change), and the compiler holds callers to that.
@safe
public struct View: ~Escapable {
    /// The transaction keeps it alive. A view is made for every read, and counting these references would have all threads wait for one word of memory.
    unowned(unsafe) let environment: Environment
    let handle: OpaquePointer

    @_lifetime(borrow owner)
    init<Owner: ~Copyable>(_ environment: Environment, _ handle: OpaquePointer, owner: borrowing Owner) {
        unsafe self.environment = environment
        unsafe self.handle = handle
    }

    /// The value under `key`, straight from the memory map, or nil.
    @_lifetime(copy self)
    public func value(_ table: Environment.Table, _ key: UInt64) throws(Failure) -> RawSpan? {
        var bigEndian = key.bigEndian
        var data = unsafe MDB_val()
        let result = unsafe withUnsafeMutableBytes(of: &bigEndian) { bytes in
            var name = unsafe MDB_val(mv_size: 8, mv_data: bytes.baseAddress)
            return unsafe mdb_get(handle, table.dbi, &name, &data)
        }
        return try unsafe found(result, data, table)
    }

    /// The value under `key`, straight from the memory map, or nil.
    @_lifetime(copy self)
    public func value(_ table: Environment.Table, _ key: String) throws(Failure) -> RawSpan? {
        var key = key
        var data = unsafe MDB_val()
        let result = key.withUTF8 { utf8 in
            var name = unsafe MDB_val(mv_size: utf8.count, mv_data: UnsafeMutableRawPointer(mutating: utf8.baseAddress))
            return unsafe mdb_get(handle, table.dbi, &name, &data)
        }
        return try unsafe found(result, data, table)
    }

    @_lifetime(copy self)
    private func found(_ result: CInt, _ data: MDB_val, _ table: Environment.Table) throws(Failure) -> RawSpan? {
        if result == MDB_NOTFOUND { return nil }
        guard result == 0 else { throw unsafe environment.failure(result, "read", .table("\(table.name)", of: environment.path)) }
        return unsafe span(data)
    }

    @_lifetime(copy self)
    func span(_ data: MDB_val) -> RawSpan {
        let bytes = unsafe UnsafeRawBufferPointer(start: data.mv_data, count: data.mv_size)
        return unsafe _overrideLifetime(RawSpan(_unsafeBytes: bytes), copying: self)
    }

    /// Number of records.
    public func count(_ table: Environment.Table) throws(Failure) -> Int {
        var statistics = MDB_stat()
        try unsafe environment.check(
            mdb_stat(handle, table.dbi, &statistics), "count", .table("\(table.name)", of: environment.path))
        return statistics.ms_entries
    }

    /// A cursor over `table`.
    @_lifetime(copy self)
    public func cursor(_ table: Environment.Table) throws(Failure) -> Cursor {
        var opened: OpaquePointer?
        try unsafe environment.check(
            mdb_cursor_open(handle, table.dbi, &opened), "walk", .table("\(table.name)", of: environment.path))
        guard let opened = unsafe opened else { throw unsafe Failure(.system, .file(environment.path), "LMDB gave no cursor") }
        return unsafe Cursor(self, opened, table)
    }
}

/// A place in a table's key order (`MDB_cursor`).
@safe
public struct Cursor: ~Copyable, ~Escapable {
    let view: View
    let handle: OpaquePointer
    let table: Environment.Table
    private var currentKey = unsafe MDB_val()
    private var currentValue = unsafe MDB_val()

    @_lifetime(copy view)
    init(_ view: View, _ handle: OpaquePointer, _ table: Environment.Table) {
        self.view = view
        unsafe self.handle = handle
        self.table = table
    }

    deinit { unsafe mdb_cursor_close(handle) }

    private mutating func move(_ operation: MDB_cursor_op) throws(Failure) -> Bool { unsafe try move(operation, from: .init(start: nil, count: 0)) }

    /// - Parameter start: the bytes of the key that is looked for.
    @unsafe private mutating func move(_ operation: MDB_cursor_op, from start: UnsafeRawBufferPointer) throws(Failure) -> Bool {
        var key = unsafe MDB_val(mv_size: start.count, mv_data: UnsafeMutableRawPointer(mutating: start.baseAddress))
        var value = unsafe MDB_val()
        let result = unsafe mdb_cursor_get(handle, &key, &value, operation)
        if result == MDB_NOTFOUND { return false }
        guard result == 0 else {
            throw unsafe view.environment.failure(result, "search", .table("\(table.name)", of: view.environment.path))
        }
        unsafe currentKey = key
        unsafe currentValue = value
        return true
    }

    /// To the first record. False: the table is empty.
    public mutating func first() throws(Failure) -> Bool { try move(MDB_FIRST) }
    /// To the last record. False: the table is empty.
    public mutating func last() throws(Failure) -> Bool { try move(MDB_LAST) }
    /// To the next record. False: there is none.
    public mutating func next() throws(Failure) -> Bool { try move(MDB_NEXT) }

    /// To the record before. False: there is none.
    public mutating func previous() throws(Failure) -> Bool { try move(MDB_PREV) }

    /// To the first record whose key is `key` or greater. False: there is none.
    public mutating func seek(atOrAfter key: UInt64) throws(Failure) -> Bool {
        var bigEndian = key.bigEndian
        return try unsafe withUnsafeBytes(of: &bigEndian) { (bytes) throws(Failure) in unsafe try move(MDB_SET_RANGE, from: bytes) }
    }

    /// To the first record whose key has these bytes or greater ones. False: there is none.
    public mutating func seek(atOrAfter key: String) throws(Failure) -> Bool {
        let bytes = Array(key.utf8)
        return try unsafe bytes.span.withUnsafeBytes { (bytes) throws(Failure) in unsafe try move(MDB_SET_RANGE, from: bytes) }
    }

    /// The key here; valid after a move that returned true.
    public var key: RawSpan {
        @_lifetime(copy self) get { unsafe view.span(currentKey) }
    }
    /// The value here; valid after a move that returned true.
    public var value: RawSpan {
        @_lifetime(copy self) get { unsafe view.span(currentValue) }
    }
    /// The key here as the number it was stored as; nil when it is not 8 bytes long.
    public var integerKey: UInt64? {
        let bytes = key
        return bytes.byteCount == 8 ? UInt64(bigEndian: bytes.load(at: 0)) : nil
    }
    /// The key here as text.
    public var textKey: String { unsafe key.withUnsafeBytes { unsafe String(decoding: $0, as: UTF8.self) } }
}
