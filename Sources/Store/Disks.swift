internal import BlockModel
public import Catalogue
internal import Glibc
internal import LMDB
internal import Maps
internal import Packs
public import System

/// The right to write to one disk, or to see it unchanged: a lock on its journal file that ends with its holder,
/// however that dies.
public struct DiskLock: ~Copyable, Sendable {
    /// The journal file, empty or holding what an interrupted writer left.
    public let journal: File
    /// The disk as it was when it was locked.
    public let record: DiskRecord

    /// The journal, which the lock goes with.
    public consuming func intoJournal() -> File { journal }
}

extension Store {
    /// Longest name of a disk, in bytes: a key of LMDB has 511.
    static let maximumNameLength = 255
    /// Largest disk in bytes: 128 TiB.
    public static let largestDisk = BlockMaps.maximumBlocks * UInt64(blockSize)

    /// All disks in the order of their names, as of the last commit.
    public func disks() throws(Failure) -> [DiskRecord] {
        let reading = try ReadTransaction(meta)
        return try parts.catalogue.disks(reading.view).filter { !$0.isIncomplete && !$0.isSnapshot }
    }

    /// The disk, or the snapshot, of that name, or nil.
    public func disk(_ name: String) throws(Failure) -> DiskRecord? {
        let reading = try ReadTransaction(meta)
        return try parts.catalogue.disk(name, reading.view).flatMap { $0.isIncomplete ? nil : $0 }
    }

    /// Makes an empty disk; it takes no space until it is written.
    /// - Throws: `.usage` for a bad name or size, `.exists` when the name is taken.
    public func create(_ name: String, byteCount: UInt64) throws(Failure) {
        _ = try makeNamed(name, byteCount: byteCount, incomplete: false)
    }

    /// Makes an empty disk that nobody sees until `complete` is called, so that an interrupted import leaves nothing
    /// half done. It is locked before it is there: without a lock it would be taken for a leftover.
    public func createIncomplete(_ name: String, byteCount: UInt64) throws(Failure) -> DiskLock {
        try makeNamed(name, byteCount: byteCount, incomplete: true)
    }

    private func makeNamed(_ name: String, byteCount: UInt64, incomplete: Bool) throws(Failure) -> DiskLock {
        try Self.checkName(name)
        try Self.checkSize(byteCount, of: name)
        if let old = try anyDisk(name) {
            guard old.isIncomplete else { throw DiskRecord.nameIsTaken(name) }
            try deleteLeftover(old)
        }
        return try makeDisk(name, byteCount: byteCount, incomplete: incomplete)
    }

    /// - Parameter name: of a disk, or of what people never see.
    func makeDisk(_ name: String, byteCount: UInt64, incomplete: Bool, _ room: Room = .beyondReserve) throws(Failure) -> DiskLock {
        var transaction = try StoreTransaction.begin(self, room: room)
        var disk = DiskRecord(name: name, number: transaction.superblock.nextDisk, byteCount: byteCount, created: UInt64(max(0, time(nil))))
        disk.isIncomplete = incomplete
        transaction.superblock.nextDisk += 1
        try transaction.add(disk)
        let journal = try openJournal(disk.number)
        guard try journal.tryLock(exclusive: true) else { throw Failure(.busy, .disk(name), "in use by another process", remedy: "try again") }
        try transaction.commit()
        return DiskLock(journal: journal, record: disk)
    }

    /// Shows a disk that was made incomplete, with its final size, which no mapped block lies beyond.
    public func complete(_ name: String, byteCount: UInt64) throws(Failure) {
        try Self.checkSize(byteCount, of: name)
        try change(name) { disk in
            disk.isIncomplete = false
            disk.byteCount = byteCount
        }
    }

    /// Gives a disk another size. Whoever serves it sees a larger one at once; nothing may be mapped beyond a smaller one's
    /// end, which is for the holder of its lock to see to.
    public func resize(_ name: String, to byteCount: UInt64, isSmaller: Bool = false) throws(Failure) {
        try Self.checkSize(byteCount, of: name)
        try wayOut { (room) throws(Failure) in
            var transaction = try StoreTransaction.begin(self, room: room)
            var disk = try transaction.disk(name)
            guard !disk.isIncomplete else { throw noSuchDisk(name) }
            guard !disk.isSnapshot else {
                throw Failure(.invalidRequest, "change the size of", .disk(name), "it is a snapshot, which stays as it is", remedy: "clone it, and resize that")
            }
            // Another process may have made it larger since it was looked at.
            guard isSmaller || byteCount >= disk.byteCount else {
                throw Failure(.busy, .resize, .disk(name), "another process has just made it larger", remedy: "try again")
            }
            try transaction.resize(&disk, to: byteCount)
            try transaction.put(disk)
            try transaction.commit()
        }
    }

    /// Notes how much of the disk's journal its map holds.
    /// - Parameter patience: how long to wait for other writers; as long as others of the process when not given.
    public func note(_ journal: JournalPosition, of name: String, _ patience: Patience? = nil) throws(Failure) {
        try wayOut(patience) { (room) throws(Failure) in try change(name, patience, room) { $0.journal = journal } }
    }

    private func change(
        _ name: String, _ patience: Patience? = nil, _ room: Room = .beyondReserve, _ body: (inout DiskRecord) -> Void
    ) throws(Failure) {
        var transaction = try StoreTransaction.begin(self, patience, room: room)
        var disk = try transaction.disk(name)
        body(&disk)
        try transaction.put(disk)
        try transaction.commit()
    }

    /// What is in the directory of journals, and the disks that there are: what one look shows. Whatever is removed is looked at once more, under
    /// the lock that keeps it as it is.
    private struct Look {
        /// Names of journals, and of sockets beside them.
        let files: [String]
        let disks: [DiskRecord]
    }

    private func look() throws(Failure) -> Look {
        // The disks last, so that those that were made in between are known.
        let files = try File.names(inDirectory: path + "/journals").filter { Self.diskNumber($0) != nil }
        let reading = try ReadTransaction(meta)
        return Look(files: files, disks: try parts.catalogue.disks(reading.view))
    }

    /// Removes what interrupted commands and servers left, for a command that changes something.
    public func removeLeftovers() throws(Failure) {
        let found = try look()
        try removeLeftoverDisks(found)
        try removeDeadSockets(found)
    }

    /// Removes what interrupted imports and deletions left: disks, and journals of disks that are gone.
    func removeLeftoverDisks() throws(Failure) { try removeLeftoverDisks(try look()) }

    private func removeLeftoverDisks(_ found: Look) throws(Failure) {
        try removeLeftoverJournals(found)
        // Whoever has one is not waited for.
        for disk in found.disks where disk.isIncomplete && !disk.isKept && !isLocked(disk) {
            do throws(Failure) {
                try deleteLeftover(disk)
            } catch where error.kind == .busy || error.kind == .notFound {
                // Somebody is at it.
            }
        }
    }

    /// Deletes what is left of a disk, unless that is gone, and another disk has its name by now.
    func deleteLeftover(_ disk: DiskRecord) throws(Failure) {
        let lock = try lock(disk.name)
        guard lock.record.number == disk.number, lock.record.isIncomplete else { return }
        try delete(lock)
        reporter.tell(.leftover, "what was left of disk \(disk.name) is removed")
    }

    /// Journals, and sockets beside them, that belong to no disk. Whoever makes a disk makes its journal while it holds the store's lock; so what
    /// is nobody's under the lock stays so.
    private func removeLeftoverJournals(_ found: Look) throws(Failure) {
        let candidates = leftoverJournals(found.files, found.disks)
        // Mostly there are none, and nobody need be waited for.
        guard !candidates.isEmpty else { return }
        let lock = try WriteTransaction(meta)
        for name in leftoverJournals(candidates, try parts.catalogue.disks(lock.view)) where unsafe unlink("\(path)/journals/\(name)") == 0 {
            guard !name.hasSuffix(".socket") else { continue }
            reporter.tell(.leftover, "journal \(name), of a disk that is gone, is removed")
        }
    }

    /// Those of `files` that belong to none of `disks`.
    private func leftoverJournals(_ files: [String], _ disks: [DiskRecord]) -> [String] {
        let known = Set(disks.map(\.number))
        return files.filter { name in
            guard let number = Self.diskNumber(name), !known.contains(number) else { return false }
            // A link, say, is a stranger's.
            return name == "\(number)" ? File.isRegular("\(path)/journals/\(name)") : File.isSocket("\(path)/journals/\(name)")
        }
    }

    /// Sockets of disks that are there, whose servers were killed. Whoever has a disk to write to has a socket of its own: so the disk is held
    /// while one is removed, for an instant; which is why maintenance, which comes at any time, leaves them to commands.
    private func removeDeadSockets(_ found: Look) throws(Failure) {
        let numbers = Set(found.files.filter { $0.hasSuffix(".socket") && File.isSocket("\(path)/journals/\($0)") }.compactMap(Self.diskNumber))
        for disk in found.disks where numbers.contains(disk.number) && !isLocked(disk) {
            do throws(Failure) {
                let lock = try lock(disk.name)
                if lock.record.number == disk.number { File.removeSocket(controlPath(of: disk.number)) }
            } catch where error.kind == .busy || error.kind == .notFound {
                // Somebody has it now, or it is gone.
            }
        }
    }

    /// Whose file that is, in the directory of journals.
    private static func diskNumber(_ name: String) -> UInt64? {
        guard let number = UInt64(name.prefix { $0 != "." }), name == "\(number)" || name == "\(number).socket" else { return nil }
        return number
    }

    /// The disk or snapshot of that name, also one that is incomplete.
    func anyDisk(_ name: String) throws(Failure) -> DiskRecord? {
        let reading = try ReadTransaction(meta)
        return try parts.catalogue.disk(name, reading.view)
    }

    /// - Parameter kind: what it is the name of.
    static func checkName(_ name: String, of kind: StaticString = "disk") throws(Failure) {
        // Only of new names: what a store has can always be reached, shown with what is invisible in figures.
        guard let first = name.utf8.first, name.utf8.count <= maximumNameLength, first != UInt8(ascii: "-"), first != UInt8(ascii: "."),
            name.unicodeScalars.allSatisfy({ $0 != " " && $0 != "/" && $0 != "@" && !PathText.isInvisible($0) })
        else {
            throw Failure(
                .usage, "name", "\(kind) '\(name)'",
                "a name has 1 to \(maximumNameLength) bytes, no spaces, slashes, @ or characters that can't be seen, and does not begin with - or .")
        }
    }

    /// - Throws: `.usage` for a size that no disk can have.
    public static func checkSize(_ byteCount: UInt64, of name: String) throws(Failure) {
        guard byteCount > 0, byteCount % UInt64(sectorSize) == 0, byteCount <= largestDisk else {
            throw Failure(.usage, "set the size of", .disk(name), "\(byteCount) bytes is not a multiple of \(sectorSize) between \(sectorSize) and 128 TiB")
        }
    }

    // MARK: Locks

    func journalPath(_ number: UInt64) -> String { "\(path)/journals/\(number)" }
    /// Where the one who has a disk to write to can be asked.
    public func controlPath(of number: UInt64) -> String { "\(path)/journals/\(number).socket" }

    /// Nothing is left of a disk's files.
    private func removeFiles(of number: UInt64) {
        unsafe unlink(journalPath(number))
        unsafe unlink(controlPath(of: number))
    }

    /// Takes the right to write to a disk; not `exclusive`: to read it while nobody writes.
    /// - Throws: `.notFound`; `.busy` when another process, or another part of this one, is in the way.
    public func lock(_ name: String, exclusive: Bool = true) throws(Failure) -> DiskLock {
        for _ in 0..<8 {
            guard let record = try anyDisk(name) else { throw noSuchDisk(name) }
            let journal = try openJournal(record.number)
            guard try journal.tryLock(exclusive: exclusive) else {
                throw Failure(.busy, .disk(name), "in use by another process", remedy: "disconnect it there first")
            }
            // Between the look and the lock the disk may have been deleted, its journal with it, and another made; or it has another name.
            let isInPlace = try isReadOnly ? true : journal.isInPlace()
            if isInPlace, let now = try anyDisk(name), now.number == record.number { return DiskLock(journal: journal, record: now) }
        }
        throw Failure(.busy, .disk(name), "it is made and deleted again and again", remedy: "try again")
    }

    /// The journal's file, whose name is durable before anything is in it.
    private func openJournal(_ number: UInt64) throws(Failure) -> File {
        if isReadOnly { return try File(path: journalPath(number), options: [.notFollowing]) }
        let journal = try File.owned(journalPath(number))
        if try journal.size() == 0 { try File(path: path + "/journals", options: [.directory]).synchronize() }
        return journal
    }

    /// Whether somebody holds the disk, to write or to read.
    func isLocked(_ disk: DiskRecord) -> Bool {
        // What has no journal nobody has open; and where this can't be asked, nobody is known of.
        guard let journal = try? File(path: journalPath(disk.number)) else { return false }
        // The same.
        return (try? journal.isLockedElsewhere()) ?? false
    }

    // MARK: Discarding and deleting

    /// Unmaps the blocks `first..<end` of a disk, in several commits, each bounded.
    /// - Parameter patience: how long to wait for other writers; as long as others of the process when not given.
    public func unmap(_ name: String, from first: UInt64, to end: UInt64, _ patience: Patience? = nil) throws(Failure) {
        var next = first
        var size = StepSize(least: Self.fewestLeaves, most: Self.leavesPerCommit)
        while next < end {
            next = try wayOut(&size, patience) { (leaves, room) throws(Failure) in
                var transaction = try StoreTransaction.begin(self, patience, room: room)
                var disk = try transaction.disk(name)
                let next = try transaction.unmap(&disk, from: next, to: end, leaves: leaves)
                try transaction.put(disk)
                try transaction.commit()
                return next
            }
        }
    }

    /// 256 MiB of disk: what a commit of a discard works through.
    static let leavesPerCommit = 128
    /// Where there is only the reserve: counts of some sixty packs at most, each on a page of its own.
    static let fewestLeaves = 4

    /// Deletes a disk, or a snapshot. Its room is given back by and by, as maintenance frees what nothing else refers to.
    /// - Parameter recursive: with all snapshots of the disk: each goes by itself, the oldest first, and the disk when all are gone.
    /// - Throws: `.invalidRequest` when it has snapshots that are to stay; `.busy` when somebody reads one, which stays then, with the disk.
    public func delete(_ lock: consuming DiskLock, recursive: Bool = false) throws(Failure) {
        let name = lock.record.name
        if !lock.record.isSnapshot {
            let snapshots = try snapshots(of: name)
            guard recursive || snapshots.isEmpty else {
                throw Failure(
                    .invalidRequest, "delete", .disk(name), "it has \(snapshots.count) snapshot\(snapshots.count == 1 ? "" : "s")",
                    remedy: "delete these first")
            }
            try refuseUse(ofSnapshotsOf: name, "delete")
            for snapshot in snapshots { try remove(self.lock(snapshot.name)) }
        }
        try remove(lock)
    }

    private func remove(_ lock: consuming DiskLock) throws(Failure) {
        let name = lock.record.name
        var number: UInt64 = 0
        try wayOut { (room) throws(Failure) in
            var transaction = try StoreTransaction.begin(self, room: room)
            // As it is now: what was taken in of its journal has changed it.
            let disk = try transaction.disk(name)
            if !disk.isSnapshot, try snapshots(of: name, transaction.lmdb.view).contains(where: { !$0.isIncomplete }) {
                throw Failure(.busy, "delete", .disk(name), "a snapshot of it has just been made", remedy: "try again")
            }
            number = disk.number
            try transaction.remove(disk)
            try transaction.commit()
        }
        removeFiles(of: number)
        _ = consume lock
    }
}
