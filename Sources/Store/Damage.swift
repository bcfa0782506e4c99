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
    private let reporter: Reporter
    /// Those that were told of, and are not healed.
    private let told = Mutex<Set<BlobNumber>>([])
    /// Further ones are only counted.
    private static let mostTold = 100

    init(_ opening: inout TableOpening, _ reporter: Reporter) throws(Failure) {
        table = try opening.table("damaged")
        self.reporter = reporter
    }

    /// A reader found it damaged, behind that block of a disk.
    func suspect(_ blob: BlobNumber, _ block: UInt64, of disk: String) {
        _ = suspects.withLock { $0.insert(blob) }
        tell(blob, block, of: disk, "the data of blob \(blob) is not what was written")
    }

    /// It is not there, so that nothing can be written down of it.
    func noteMissing(_ blob: BlobNumber, _ block: UInt64, of disk: String) { tell(blob, block, of: disk, "blob \(blob) is missing") }

    private func tell(_ blob: BlobNumber, _ block: UInt64, of disk: String, _ why: @autoclosure () -> String) {
        reporter.counters.damagedReads.add()
        let isNew = told.withLock { $0.count < Self.mostTold && $0.insert(blob).inserted }
        if isNew { reporter.events.tell(.damage, .disk(disk), "block \(block) is damaged: \(why())") }
    }

    /// What was written has put them right.
    func noteHealed(_ blobs: Set<BlobNumber>) {
        guard !blobs.isEmpty else { return }
        told.withLock { $0.subtract(blobs) }
        reporter.counters.healedBlobs.add(blobs.count)
        reporter.tell(.healing, "\(blobs.count) damaged block\(blobs.count == 1 ? " has its" : "s have their") data again: the same was written")
    }

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
