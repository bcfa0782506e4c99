public import System

/// Where the records of a store's disks are kept: each found by its name, of which every byte counts.
///
/// What changes does so with all else of a transaction, or not at all; a reading one shows one state, whatever is committed meanwhile. An
/// error that is not `.damage` says nothing of what is there: a record that can't be had now is not one that is missing.
///
/// An implementation says what its transactions are, and who composes a store chooses one: no call is made through a box.
public protocol DiskCatalogue: Sendable {
    /// What a transaction sees.
    associatedtype Reading: ~Escapable
    /// A transaction that changes something.
    associatedtype Writing: ~Copyable

    /// The disk of that name, an incomplete one too, or nil.
    /// - Throws: `.damage` when its record is not what was written.
    func disk(_ name: String, _ reading: Reading) throws(Failure) -> DiskRecord?

    /// All disks in the order of their names' bytes, incomplete ones too.
    /// - Throws: `.damage` when a record is not what was written.
    func disks(_ reading: Reading) throws(Failure) -> [DiskRecord]

    /// Adds a disk.
    /// - Throws: `.exists` when there is one of that name.
    func add(_ disk: DiskRecord, _ writing: inout Writing) throws(Failure)

    /// Changes the record of a disk that this transaction has seen, or added.
    func change(_ disk: DiskRecord, _ writing: inout Writing) throws(Failure)

    /// Removes a disk. It need not be there.
    func remove(_ name: String, _ writing: inout Writing) throws(Failure)
}
