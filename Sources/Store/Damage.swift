internal import BlobModel
internal import LMDB
internal import Synchronization
internal import System

/// Blobs whose bytes are not what was stored: table `damaged`, key a blob's number, no value. The next write of the same content heals
/// them, whichever process it comes from.
final class Damage: Sendable {
    private let table: Environment.Table
    /// Those that a reader of this process found, for the next commit to write down.
    private let suspects = Mutex<Set<BlobNumber>>([])

    init(_ opening: inout TableOpening) throws(Failure) { table = try opening.table("damaged") }

    /// A reader found it damaged.
    func suspect(_ blob: BlobNumber) { _ = suspects.withLock { $0.insert(blob) } }

    /// What readers found that is not written down yet.
    var found: Set<BlobNumber> { suspects.withLock { $0 } }

    /// These are written down, or healed.
    func forget(_ blobs: some Sequence<BlobNumber>) { suspects.withLock { $0.subtract(blobs) } }

    /// Those that are written down.
    func recorded(_ view: View) throws(Failure) -> [BlobNumber] {
        var cursor = try view.cursor(table)
        var blobs: [BlobNumber] = []
        var more = try cursor.first()
        while more, let key = cursor.integerKey {
            blobs.append(BlobNumber(rawValue: key))
            more = try cursor.next()
        }
        return blobs
    }

    func count(_ view: View) throws(Failure) -> Int { try view.count(table) }

    /// Whether it is written down.
    func has(_ blob: BlobNumber, _ view: View) throws(Failure) -> Bool { try view.value(table, blob.rawValue) != nil }

    func record(_ blobs: some Sequence<BlobNumber>, _ lmdb: inout WriteTransaction) throws(Failure) {
        for blob in blobs { try lmdb.put(table, blob.rawValue, count: 0) { _ in } }
    }

    func remove(_ blobs: some Sequence<BlobNumber>, _ lmdb: inout WriteTransaction) throws(Failure) {
        for blob in blobs { try lmdb.remove(table, blob.rawValue) }
    }

    /// Writes down these and no others.
    func replace(with blobs: some Sequence<BlobNumber>, _ lmdb: inout WriteTransaction) throws(Failure) {
        try lmdb.clear(table)
        try record(blobs, &lmdb)
    }
}
