public import LMDB
public import System

/// The disks of a store, by their names: table `disks`.
public struct DiskCatalogue: Sendable {
    let table: Environment.Table

    public init(_ opening: inout TableOpening) throws(Failure) { table = try opening.table("disks") }

    /// The disk of that name, incomplete ones too, or nil.
    /// - Throws: `.damage` when its record is not what was written.
    public func disk(_ name: String, _ view: View) throws(Failure) -> DiskRecord? {
        guard let record = try view.value(table, name) else { return nil }
        return try DiskRecord(record, name: name)
    }

    /// All disks in the order of their names, incomplete ones too.
    /// - Throws: `.damage` when a record is not what was written.
    public func disks(_ view: View) throws(Failure) -> [DiskRecord] {
        var cursor = try view.cursor(table)
        var all: [DiskRecord] = []
        var more = try cursor.first()
        while more {
            all.append(try DiskRecord(cursor.value, name: cursor.textKey))
            more = try cursor.next()
        }
        return all
    }

    public func put(_ disk: DiskRecord, _ lmdb: inout WriteTransaction) throws(Failure) {
        try lmdb.put(table, disk.name, disk.encoded.rawBytes)
    }

    public func remove(_ name: String, _ lmdb: inout WriteTransaction) throws(Failure) { try lmdb.remove(table, name) }
}
