import BlobModel
import BlockModel
import System
import TestSupport

@testable import Counts
@testable import LMDB
@testable import Packs
@testable import Store

/// What tests do to a store without a disk, or behind its back.
extension Store {
    /// The packs, where they lie.
    var packTable: LMDBPackStore {
        get throws {
            guard let table = packs as? LMDBPackStore else { throw Failure(.system, "the packs", "not in LMDB") }
            return table
        }
    }

    /// Puts a pack down as it is, whatever it says.
    func put(_ builder: PackBuilder) throws { try put(pack: builder.number, [UInt8](count: builder.byteCount) { _ = builder.write(into: &$0, storeID) }) }

    /// The version of a pack that is current.
    func current(_ number: UInt64) throws -> PackVersion {
        guard let version = try versions.state(of: number).current else { throw Failure(.damage, "pack \(number)", "gone") }
        return PackVersion(number, version)
    }

    func put(pack number: UInt64, _ bytes: [UInt8]) throws {
        let table = try packTable, key = try current(number).key
        var writing = try WriteTransaction(table.environment)
        try writing.put(table.packs, key, count: bytes.count) { $0.copy(bytes.rawBytes, to: 0) }
        try writing.commit()
    }

    /// The bytes of a pack; none: it is not there.
    func bytes(ofPack number: UInt64) throws -> [UInt8] {
        let table = try packTable, key = try current(number).key
        let reading = try ReadTransaction(table.environment)
        guard let pack = try reading.view.value(table.packs, key) else { return [] }
        return [UInt8](count: pack.byteCount) { $0.copy(pack, to: 0) }
    }

    /// A copy of a pack, to be changed; it lends for good. Nil: it can't be had.
    func builder(ofPack number: UInt64, isDead: (Int) -> Bool = { _ in false }) throws -> PackBuilder? {
        let bytes = lend(try bytes(ofPack: number))
        guard let pack = PackView(bytes.bytes, number: number) else { return nil }
        return unsafe PackBuilder(copying: pack, number: number, version: pack.version, isDead: isDead)
    }

    /// What a collection would do to these packs.
    func work(_ packs: some Sequence<UInt64>, limit: Int = .max, takesRecent: Bool = false) throws -> [PackRewrite] {
        let transaction = try StoreTransaction.begin(self)
        var work: [PackRewrite] = []
        for pack in packs {
            if let change = try transaction.deadSlots(ofPack: pack, limit: limit, takesRecent) { work.append(change) }
        }
        transaction.abandon()
        return work
    }

    /// Collects these packs as a step does.
    /// - Parameter between: called before they become current, and before what is over is removed.
    func collect(_ packs: some Sequence<UInt64>, takesRecent: Bool = false, between: () throws(Failure) -> Void = {}) throws -> UInt64 {
        var step = StepWork()
        step.takesRecent = takesRecent
        return try collect(try work(packs, takesRecent: takesRecent), &step, between: between)
    }

    /// Writes these packs anew, and goes no further.
    func rewrite(_ packs: some Sequence<UInt64>, takesRecent: Bool = false) throws -> [RewrittenPack] {
        try self.packs.rewrite(try work(packs, takesRecent: takesRecent), versions, nil)
    }

    /// All that is in `packs`, and what of it is loose.
    func versionsThere() throws -> (all: [PackVersion], loose: [PackVersion]) {
        let table = try packTable
        let reading = try ReadTransaction(table.environment)
        func keys(_ table: Environment.Table) throws -> [PackVersion] {
            var cursor = try reading.view.cursor(table)
            var found: [PackVersion] = []
            var more = try cursor.first()
            while more, let key = cursor.integerKey {
                found.append(PackVersion(key: key))
                more = try cursor.next()
            }
            return found
        }
        return (try keys(table.packs), try keys(table.loose))
    }

    /// Deletes a disk, and frees its map at once.
    func deleteWholly(_ lock: consuming DiskLock) throws {
        try delete(lock)
        try freeDetached()
    }

    /// Commits blocks to a disk, from its beginning on; there need not be one yet.
    func write(_ name: String, _ blocks: [[UInt8]]) throws {
        try write(name, blocks.enumerated().map { (UInt64($0), $1) })
    }

    /// Commits blocks to a disk, in ascending order; there need not be one yet.
    func write(_ name: String, _ blocks: [(block: UInt64, content: [UInt8])]) throws {
        if try disk(name) == nil { try create(name, byteCount: 64 << 20) }
        let data = blocks.flatMap(\.content)
        let batch = try Batch(self)
        try unsafe data.withUnsafeBytes { bytes in
            for (index, change) in blocks.enumerated() { unsafe batch.append(change.block, lending: bytes.baseAddress! + index * blockSize) }
            try commit(batch, to: name)
        }
    }

    func superblock() throws -> Superblock {
        let reading = try ReadTransaction(meta)
        return try parts.superblock.superblock(reading.view)
    }

    /// Digests into packs of tiny blobs, and those into the index, as a commit does it.
    func addPack(_ number: UInt64, of digests: [Digest]) throws {
        var transaction = try StoreTransaction.begin(self)
        var builder = PackBuilder(number: number)
        let tiny = lend([UInt8](repeating: 1, count: 16))
        for digest in digests { builder.append(digest, check: PackFormat.check(tiny.bytes, digest), .raw, tiny) }
        try put(builder)
        try transaction.adoptUnknownBlobs()
        while try !transaction.indexDirectories(limit: 1 << 20) {}
        try transaction.commit()
    }
}
