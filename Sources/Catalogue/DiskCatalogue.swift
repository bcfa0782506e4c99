public import System

/// Where the records of a store's disks are kept: each found by its name, of which every byte counts.
///
/// All changes of a transaction take effect together, or none; a read transaction shows one state, whatever is committed meanwhile. An
/// error that is not `.damage` says nothing of what is there: a record that can't be had now is not missing.
///
/// An implementation names its transactions as associated types, so that a store is built with one and its calls are direct.
public protocol DiskCatalogue: Sendable {
    /// What a transaction sees.
    associatedtype Reading: ~Escapable
    /// A transaction that changes something.
    associatedtype Writing: ~Copyable

    /// The disk of that name, an incomplete one too, or nil.
    /// - Throws: `.damage` when its record is not what was written.
    func disk(_ name: String, _ reading: Reading) throws(Failure) -> DiskRecord?

    /// The disks whose names begin with these bytes, in the order of their names' bytes, incomplete ones too.
    /// - Throws: `.damage` when a record of them is not what was written.
    func disks(beginning: String, _ reading: Reading) throws(Failure) -> [DiskRecord]

    /// Adds a disk.
    /// - Throws: `.exists` when there is one of that name.
    func add(_ disk: DiskRecord, _ writing: inout Writing) throws(Failure)

    /// Changes the record of a disk that this transaction has seen, or added.
    func change(_ disk: DiskRecord, _ writing: inout Writing) throws(Failure)

    /// Removes a disk. It need not be there.
    func remove(_ name: String, _ writing: inout Writing) throws(Failure)
}

extension DiskCatalogue {
    /// All disks in the order of their names' bytes, incomplete ones too.
    /// - Throws: `.damage` when a record is not what was written.
    public func disks(_ reading: Reading) throws(Failure) -> [DiskRecord] { try disks(beginning: "", reading) }
}
