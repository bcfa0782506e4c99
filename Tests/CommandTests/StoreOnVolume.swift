import Disk
import Glibc
import Store
import System
import Testing
import TestSupport

/// A store on a volume of its own, which can be filled, with a disk `d`, and what it tells.
final class StoreOnVolume {
    let volume: Volume
    let heard = HeardEvents()
    let store: Store

    init(_ kind: Volume.Kind, megabytes: Int, diskByteCount: UInt64 = 64 << 20) throws {
        volume = try Volume(kind, megabytes: megabytes)
        store = try Store(path: volume.path + "/store", creating: true, events: heard.events)
        try store.create("d", byteCount: diskByteCount)
    }

    /// Opens the disk to write.
    /// - Parameter journalBytes: as few as there can be, so that the journal is full soon, too.
    func disk(journalBytes: UInt64 = 4 << 20) throws -> StoreDisk { try StoreDisk(store, "d", journalBytes: journalBytes) }

    /// Opens it, and gives its journal its blocks: behind an eighth of it, it begins anew. So writes find room there when the volume is full.
    /// The disk's first 200 blocks are the blocks 1 to 200.
    func diskWithRoomInItsJournal() throws -> StoreDisk {
        let disk = try disk()
        try disk.write(at: 0, (1...200).flatMap { block(UInt64($0)) })
        // Until the staging has heard of it, too.
        try waitUntil { try store.statistics().mappedBytes == 200 * 4096 && disk.stagedBytes == 0 }
        return disk
    }

    /// The same on a volume that is full since: its first 90 blocks are the blocks 1001 to 1090, whose commit has failed, and is tried again.
    func diskWhoseCommitFails() throws -> StoreDisk {
        let disk = try diskWithRoomInItsJournal()
        volume.fill()
        try disk.write(at: 0, (1001...1090).flatMap { block(UInt64($0)) })
        #expect(heard.wait(for: 1, .commitRetry).count == 1)
        return disk
    }

    func expectClean(location: SourceLocation = #_sourceLocation) throws {
        #expect(try store.check(readData: true, repair: false) { _, _ in }.problems == [], sourceLocation: location)
    }
}
