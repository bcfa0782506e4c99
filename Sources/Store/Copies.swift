internal import BlockModel
public import Catalogue
internal import LMDB
internal import Maps
public import System

// Copies, snapshots and clones.
//
// A copy of a disk is another root over the same nodes: it takes one commit, however large the disk is, and costs what changes later. A snapshot
// is a copy with a name that belongs to a disk's, a clone one that is a disk itself; neither depends on what it was made of.
//
// Each begins as a copy without a name, which belongs to whoever has its lock, as an incomplete disk does:
//
// 1. `beginCopy`: it is there, and empty.
// 2. It is filled, as its disk is at one moment: by whoever has the disk's lock (`fill`), which may be a server (`commit`).
// 3. It is read, and goes with its holder; or `name` makes a snapshot or a clone of it. Several get their names in one commit.

/// What a copy becomes.
public enum CopyName: Sendable {
    /// DISK@NAME.
    case snapshot(SnapshotName)
    case disk(String)

    public var description: String {
        switch self {
        case .snapshot(let snapshot): "\(snapshot.disk)@\(snapshot.name)"
        case .disk(let name): name
        }
    }
}

extension Store {
    /// Begins a copy that nobody sees but who has its lock.
    /// - Parameter owner: for whom it is kept, when the lock is gone, too, until `removeKeptCopies` or as long as the machine runs. Nil: it goes with the lock.
    public func beginCopy(keptFor owner: String? = nil) throws(Failure) -> DiskLock {
        // No disk is called that.
        let name =
            try owner.map { (owner) throws(Failure) in try Self.keptCopy(of: owner) } ?? DiskRecord.copyPrefix
            + String(UInt64.random(in: 0 ... .max), radix: 16)
        // One may be left that was not filled before its process was killed, or that is a former device's of the same number.
        if owner != nil { try removeCopy(name) }
        return try wayOut { (room) throws(Failure) in try makeDisk(name, byteCount: UInt64(sectorSize), incomplete: true, room) }
    }

    private static func keptCopy(of owner: String) throws(Failure) -> String {
        if let prefix = DiskRecord.keptCopyPrefix { return prefix + owner }
        throw Failure(.system, "keep", "a copy for \(owner)", "there is no /proc/sys/kernel/random/boot_id, by which it is known when it is over")
    }

    /// The lock of the copy that is kept for somebody. Nil: there is none, or it was never filled.
    public func lockKeptCopy(of owner: String) throws(Failure) -> DiskLock? {
        let name = try Self.keptCopy(of: owner)
        guard let copy = try anyDisk(name), copy.isFilled else { return nil }
        return try lock(name)
    }

    /// Removes the copy that is kept for somebody, which nobody has.
    public func removeKeptCopy(of owner: String) throws(Failure) { try removeCopy(Self.keptCopy(of: owner)) }

    /// Removes the copies that are kept for others than these, and that nobody has.
    public func removeKeptCopies(butOf owners: Set<String>) throws(Failure) {
        guard let prefix = DiskRecord.keptCopyPrefix else { return }
        let all: [DiskRecord]
        do {
            let reading = try ReadTransaction(meta)
            all = try parts.catalogue.disks(reading.view).filter(\.isKept)
        }
        for copy in all where !owners.contains(String(copy.name.dropFirst(prefix.count))) && !isLocked(copy) { try removeCopy(copy.name) }
    }

    /// What is known of a copy by now: it was filled since it was begun.
    public func refreshed(_ lock: consuming DiskLock) throws(Failure) -> DiskLock {
        let name = lock.record.name
        guard let record = try anyDisk(name), record.number == lock.record.number, record.isFilled else { throw noSuchDisk(name) }
        return DiskLock(journal: lock.intoJournal(), record: record)
    }

    /// Removes a copy that nobody has any more, if it has no name by now.
    public func removeCopy(_ name: String) throws(Failure) {
        guard let copy = try anyDisk(name), copy.isIncomplete else { return }
        let lock = try lock(name)
        guard lock.record.number == copy.number, lock.record.isIncomplete else { return }
        try delete(lock)
    }

    /// Fills copies with what their disks' maps are now, all in one commit.
    /// - Parameter copies: of disks, or snapshots, that nobody writes to meanwhile.
    public func fill(_ copies: [(copy: String, disk: String)]) throws(Failure) {
        try wayOut { (room) throws(Failure) in
            var transaction = try StoreTransaction.begin(self, room: room)
            for (copy, name) in copies {
                let disk = try transaction.disk(name)
                guard try transaction.fill([copy], with: disk) else { throw noSuchDisk(copy) }
            }
            try transaction.commit()
        }
    }

    /// Gives copies their names, all of them or none.
    /// - Throws: `.exists` when a name is taken; `.notFound` when there is no disk for a snapshot.
    public func name(_ copies: [(copy: String, name: CopyName)]) throws(Failure) {
        for (_, name) in copies { try Self.check(name) }
        try wayOut { (room) throws(Failure) in
            var transaction = try StoreTransaction.begin(self, room: room)
            for (name, new) in copies {
                let copy = try transaction.disk(name)
                guard copy.isFilled else { throw noSuchDisk(name) }
                if case .snapshot(let snapshot) = new {
                    let disk = try transaction.disk(snapshot.disk)
                    guard !disk.isIncomplete, !disk.isSnapshot else { throw noSuchDisk(snapshot.disk) }
                    // Another may have its name by now.
                    guard copy.source == disk.number else { throw Failure(.busy, "snapshot", .disk(disk.name), "it is another disk now", remedy: "try again") }
                }
                try parts.catalogue.remove(name, &transaction.lmdb)
                var named = copy.named(new.description)
                named.isIncomplete = false
                named.source = 0
                if case .snapshot = new { named.isSnapshot = true }
                try transaction.add(named)
            }
            try transaction.commit()
        }
    }

    static func check(_ name: CopyName) throws(Failure) {
        switch name {
        case .disk(let name): try checkName(name)
        case .snapshot(let snapshot): try checkName(snapshot.name, of: "snapshot")
        }
    }

    /// The snapshots of a disk, the oldest first.
    public func snapshots(of disk: String) throws(Failure) -> [DiskRecord] {
        let reading = try ReadTransaction(meta)
        return try snapshots(of: disk, reading.view).filter { !$0.isIncomplete }
    }

    func snapshots(of disk: String, _ view: View) throws(Failure) -> [DiskRecord] {
        try parts.catalogue.disks(beginning: disk + "@", view).filter { $0.isSnapshot && $0.diskName.hasSameBytes(as: disk) }.sorted { $0.number < $1.number }
    }

    /// All snapshots, by the names of their disks, and the oldest first.
    public func snapshots() throws(Failure) -> [DiskRecord] {
        let reading = try ReadTransaction(meta)
        let all = try parts.catalogue.disks(reading.view).filter { $0.isSnapshot && !$0.isIncomplete }
        return all.sorted { $0.diskName.hasSameBytes(as: $1.diskName) ? $0.number < $1.number : $0.diskName.utf8.lexicographicallyPrecedes($1.diskName.utf8) }
    }

    /// A disk is again what a snapshot of it is: its blocks, and its size. Newer snapshots stay.
    /// - Parameters:
    ///   - journal: where the disk's journal goes on: nothing that was written to it before is taken in any more.
    public func rollBack(_ lock: borrowing DiskLock, to snapshot: SnapshotName, journal: JournalPosition) throws(Failure) {
        let name = lock.record.name
        guard snapshot.disk.hasSameBytes(as: name) else {
            throw Failure(.usage, "roll back", .disk(name), "\(snapshot.disk)@\(snapshot.name) is not a snapshot of it", remedy: "clone that one")
        }
        try wayOut { (room) throws(Failure) in
            var transaction = try StoreTransaction.begin(self, room: room)
            var disk = try transaction.disk(name)
            let old = try transaction.disk("\(snapshot.disk)@\(snapshot.name)")
            guard old.isSnapshot else { throw noSuchDisk(old.name) }
            try parts.maps.share(old.map, &transaction.lmdb)
            try parts.maps.detach(disk.map, &transaction.lmdb)
            disk.map = old.map
            disk.byteCount = old.byteCount
            disk.journal = journal
            try transaction.put(disk)
            try transaction.commit()
        }
    }

    /// Gives a disk, which keeps its snapshots, or a snapshot another name.
    public func rename(_ lock: borrowing DiskLock, to new: String) throws(Failure) {
        let old = lock.record
        let isSnapshot = old.isSnapshot
        if isSnapshot {
            guard let snapshot = SnapshotName(new), snapshot.disk.hasSameBytes(as: old.diskName) else {
                throw Failure(.usage, "rename", .disk(old.name), "a snapshot stays its disk's", remedy: "name it \(old.diskName)@NAME, or clone it")
            }
            try Self.check(.snapshot(snapshot))
        } else {
            try Self.checkName(new)
        }
        if !isSnapshot { try refuseUse(ofSnapshotsOf: old.name, "rename") }
        try wayOut { (room) throws(Failure) in
            var transaction = try StoreTransaction.begin(self, room: room)
            // As it is now: its size may be another one.
            let disk = try transaction.disk(old.name)
            try transaction.rename(disk, to: new)
            if !isSnapshot {
                for snapshot in try snapshots(of: old.name, transaction.lmdb.view) {
                    guard let name = SnapshotName(snapshot.name)?.name else { continue }
                    try transaction.rename(snapshot, to: "\(new)@\(name)")
                }
            }
            try transaction.commit()
        }
    }

    /// - Throws: `.busy` when somebody reads a snapshot of that disk, which it finds by its name.
    func refuseUse(ofSnapshotsOf name: String, _ operation: Failure.Operation) throws(Failure) {
        for snapshot in try snapshots(of: name) where isLocked(snapshot) {
            throw Failure(.busy, operation, .disk(name), "its snapshot \(snapshot.name) is in use", remedy: "disconnect it there first")
        }
    }
}

extension StoreTransaction {
    /// Fills copies with what a disk is. Whoever began one may have given it up.
    /// - Returns: false: one of them is not there any more.
    @discardableResult
    mutating func fill(_ copies: [String], with disk: DiskRecord) throws(Failure) -> Bool {
        var isComplete = true
        for name in copies {
            guard var copy = try store.parts.catalogue.disk(name, lmdb.view), copy.isCopy, copy.isIncomplete, !copy.isFilled else {
                isComplete = false
                continue
            }
            try store.parts.maps.share(disk.map, &lmdb)
            copy.map = disk.map
            copy.byteCount = disk.byteCount
            copy.source = disk.number
            try put(copy)
        }
        return isComplete
    }

    fileprivate mutating func rename(_ disk: DiskRecord, to new: String) throws(Failure) {
        try add(disk.named(new))
        try store.parts.catalogue.remove(disk.name, &lmdb)
    }

    /// A disk or a snapshot is gone, and its map is freed by and by.
    mutating func remove(_ disk: DiskRecord) throws(Failure) {
        try store.parts.maps.detach(disk.map, &lmdb)
        try store.parts.catalogue.remove(disk.name, &lmdb)
    }
}

extension Store {
    /// - Throws: `.exists` when a name is taken, `.usage` when it is none, `.notFound` when there is no disk for a snapshot.
    public func checkIsFree(_ name: CopyName) throws(Failure) {
        try Self.check(name)
        if case .snapshot(let snapshot) = name {
            guard let disk = try disk(snapshot.disk), !disk.isSnapshot else { throw noSuchDisk(snapshot.disk) }
        }
        if let old = try anyDisk(name.description), !old.isIncomplete { throw DiskRecord.nameIsTaken(name.description) }
    }
}
