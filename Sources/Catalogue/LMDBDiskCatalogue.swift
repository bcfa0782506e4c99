public import LMDB
public import System

/// Disks in LMDB: table `disks`, key the name.
public struct LMDBDiskCatalogue: DiskCatalogue {
    let table: Environment.Table

    public init(_ opening: inout TableOpening) throws(Failure) { table = try opening.table("disks") }

    public func disk(_ name: String, _ reading: View) throws(Failure) -> DiskRecord? {
        guard let record = try reading.value(table, name) else { return nil }
        return try DiskRecord(record, name: name)
    }

    public func disks(_ reading: View) throws(Failure) -> [DiskRecord] {
        var cursor = try reading.cursor(table)
        var all: [DiskRecord] = []
        var more = try cursor.first()
        while more {
            all.append(try DiskRecord(cursor.value, name: cursor.textKey))
            more = try cursor.next()
        }
        return all
    }

    public func add(_ disk: DiskRecord, _ writing: inout WriteTransaction) throws(Failure) {
        guard try writing.view.value(table, disk.name) == nil else { throw DiskRecord.nameIsTaken(disk.name) }
        try change(disk, &writing)
    }

    public func change(_ disk: DiskRecord, _ writing: inout WriteTransaction) throws(Failure) {
        try writing.put(table, disk.name, disk.encoded.rawBytes)
    }

    public func remove(_ name: String, _ writing: inout WriteTransaction) throws(Failure) { try writing.remove(table, name) }
}
