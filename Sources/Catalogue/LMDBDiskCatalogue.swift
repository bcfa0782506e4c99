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

    public func disks(beginning prefix: String, _ reading: View) throws(Failure) -> [DiskRecord] {
        var cursor = try reading.cursor(table)
        var found: [DiskRecord] = []
        var more = try prefix.isEmpty ? cursor.first() : cursor.seek(atOrAfter: prefix)
        while more {
            let name = cursor.textKey
            guard name.utf8.starts(with: prefix.utf8) else { break }
            found.append(try DiskRecord(cursor.value, name: name))
            more = try cursor.next()
        }
        return found
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
