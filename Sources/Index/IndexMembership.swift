internal import LMDB
public import System

/// Tells whether entries are in the table.
public struct IndexMembership: ~Copyable, ~Escapable {
    private var buckets: Cursor

    @_lifetime(copy buckets)
    init(_ buckets: consuming Cursor) { self.buckets = buckets }

    /// - Throws: `.damage` when it is not found, and the bucket is not what was written.
    @_lifetime(self: copy self)
    public mutating func contains(_ entry: IndexEntry) throws(Failure) -> Bool { try Bucket.contains(entry, &buckets) }
}
