import Synchronization
import System

@testable import Catalogue

/// A catalogue in memory. Its transactions are copies of all that it has.
struct MemoryCatalogue: DiskCatalogue {
    struct Reading: ~Escapable {
        fileprivate let records: [Name: [UInt8]]

        @_lifetime(immortal)
        fileprivate init(_ records: [Name: [UInt8]]) { self.records = records }
    }

    struct Writing: ~Copyable {
        fileprivate var records: [Name: [UInt8]]
    }

    /// Of texts that mean the same, Swift takes one for the other.
    struct Name: Hashable {
        let bytes: [UInt8]
        init(_ name: String) { bytes = Array(name.utf8) }
    }

    func disk(_ name: String, _ reading: Reading) throws(Failure) -> DiskRecord? {
        guard let record = reading.records[Name(name)] else { return nil }
        return try DiskRecord(record.rawBytes, name: name)
    }

    func disks(beginning prefix: String, _ reading: Reading) throws(Failure) -> [DiskRecord] {
        var found: [DiskRecord] = []
        for (name, record) in reading.records.sorted(by: { $0.key.bytes.lexicographicallyPrecedes($1.key.bytes) }) where name.bytes.starts(with: prefix.utf8) {
            found.append(try DiskRecord(record.rawBytes, name: String(decoding: name.bytes, as: UTF8.self)))
        }
        return found
    }

    func add(_ disk: DiskRecord, _ writing: inout Writing) throws(Failure) {
        guard writing.records[Name(disk.name)] == nil else { throw DiskRecord.nameIsTaken(disk.name) }
        try change(disk, &writing)
    }

    func change(_ disk: DiskRecord, _ writing: inout Writing) throws(Failure) { writing.records[Name(disk.name)] = disk.encoded }
    func remove(_ name: String, _ writing: inout Writing) throws(Failure) { writing.records[Name(name)] = nil }
}

/// Where it lies.
final class MemoryPlace: CataloguePlace {
    let catalogue = MemoryCatalogue()
    private let records = Mutex<[MemoryCatalogue.Name: [UInt8]]>([:])

    func read<Result>(_ body: (MemoryCatalogue.Reading) throws -> Result) throws -> Result { try body(.init(records.withLock { $0 })) }

    func write(_ body: (inout MemoryCatalogue.Writing) throws -> Void) throws {
        var writing = MemoryCatalogue.Writing(records: records.withLock { $0 })
        try body(&writing)
        let new = writing.records
        records.withLock { $0 = new }
    }

    func look<Result>(_ writing: borrowing MemoryCatalogue.Writing, _ body: (MemoryCatalogue.Reading) throws -> Result) throws -> Result {
        try body(.init(writing.records))
    }

    func damage(_ name: String, _ change: (inout [UInt8]) -> Void, _ writing: inout MemoryCatalogue.Writing) throws {
        change(&writing.records[.init(name), default: []])
    }
}
