import BlobModel
import BlockModel
import Glibc
import OldStores
import System
import Testing
import TestSupport

@testable import Counts
@testable import Index
@testable import LMDB
@testable import Packs
@testable import Store

/// Stores of format 3, opened by a program of today.
@Suite struct UpgradeTests {
    let scratch: ScratchDirectory
    let heard = HeardEvents()
    var path: String { scratch.path + "/store" }

    init() throws { scratch = try ScratchDirectory() }

    func open(_ old: StoreOfFormat3, _ access: Store.Access = .writing) throws -> Store {
        try old.write(to: path, locks: scratch.path + "/locks")
        return try Store(path: path, for: access, events: heard.events)
    }

    /// What is mapped, without what is in the journal.
    func expectContents(_ store: Store, _ old: StoreOfFormat3, location: SourceLocation = #_sourceLocation) throws {
        for disk in old.disks where !disk.isIncomplete {
            var model = old
            for index in model.disks.indices { model.disks[index].journal = [] }
            // Of the one of three levels, all that is mapped.
            guard disk.byteCount < 1 << 30 else {
                for (block, blob) in disk.blocks { #expect(try read(block, of: disk.name, store) == old.content(blob), sourceLocation: location) }
                continue
            }
            let bytes = try SharingTests.read(disk.name, of: store, blocks: Int(disk.byteCount) / blockSize)
            #expect(bytes == model.contents(disk.name), "\(disk.name)", sourceLocation: location)
        }
    }

    private func read(_ block: UInt64, of disk: String, _ store: Store) throws -> [UInt8] {
        var reader = try BlockReader(store, disk: disk)
        var bytes = [UInt8](repeating: 0xa5, count: blockSize)
        try bytes.withMutableBytes { (span) throws(Failure) in try reader.read(from: block, into: &span) }
        return bytes
    }

    func problems(_ store: Store, repair: Bool = false) throws -> [String] { try store.check(readData: true, repair: repair) { _, _ in }.problems }

    @Test(arguments: [Store.Access.writing, .reading]) func allThatThereWas(_ access: Store.Access) throws {
        let old = try StoreOfFormat3.sample()
        let store = try open(old, access)
        #expect(try problems(store) == [])
        try expectContents(store, old)
        #expect(Set(try store.disks().map(\.name)) == ["full", "written", "wide", "old@name", "many", "vast"])
        let told = heard.all(.upgrade)
        #expect(told.count == 2 && told[0].phase == .begins && told[0].text.contains("format is 3") && told[1].text == "its format is 4 now", "\(told)")
        // Nothing more is to be done.
        _ = try Store(path: path, events: heard.events)
        #expect(heard.all(.upgrade).count == 2)
    }

    @Test func whatItSaysOfItself() throws {
        let old = try StoreOfFormat3.sample()
        let store = try open(old)
        let superblock = try store.superblock()
        #expect(superblock.header.storeID == StoreID(old.storeID.0, old.storeID.1))
        #expect(superblock.codec == .lz4 && superblock.header.incompatibleFeatures == BlobCodec.lz4.feature)
        #expect(superblock.nextDisk == 9)
        #expect(superblock.counted == PackPlace(pack: StoreOfFormat3.open, slots: 12) && superblock.index.indexed == PackPlace(pack: 2 << 24, slots: 40))
        // By `counts` alone, without what is deferred.
        let mapped = Set(old.disks.flatMap { $0.blocks.values })
        #expect(superblock.totals.live == UInt64(mapped.count) + 1)
        #expect(try store.versionsThere().loose == [PackVersion(3, 0), PackVersion(4, 0)])
        #expect(try store.versions.state(of: 3).current == nil && store.versions.state(of: 4).current == nil)
        // What is stored next goes behind what is there.
        try store.write("full", [block(90_000)])
        #expect(try store.superblock().counted == PackPlace(pack: StoreOfFormat3.open, slots: 21))
        #expect(try problems(store) == [])
    }

    /// Codecs of blobs that are not those of new ones.
    @Test(arguments: [false, true]) func codecsThatOccur(_ isSoft: Bool) throws {
        var old = StoreOfFormat3()
        for number in 1...10 as ClosedRange<UInt64> { try old.store(StoreOfFormat3.soft(number), inPack: 1, lz4: isSoft) }
        let store = try open(old)
        #expect(try store.superblock().header.incompatibleFeatures == (isSoft ? BlobCodec.lz4.feature : 0))
        #expect(try problems(store) == [])
    }

    /// The life of a store goes on: maintenance removes what format 3 had left, dead blobs are collected, content is found again.
    @Test func itLivesOn() throws {
        let old = try StoreOfFormat3.sample()
        let store = try open(old)
        let dead = try store.statistics().reclaimableBytes
        #expect(dead > 0)
        // What was there is found, also what nobody referred to; what was collected is stored anew.
        let blobs = try store.statistics().uniqueBytes
        let again = (1...100).map { block(StoreOfFormat3.withDead << 20 | $0) } + (1...50).map { block(StoreOfFormat3.gone << 20 | $0) }
        try store.write("again", again)
        #expect(try store.statistics().uniqueBytes == blobs + (96 + 50) * 4096)
        try store.delete(try store.lock("full"))
        let freed = try store.collect(shouldStop: { false }) { _, _ in }
        #expect(freed > 0)
        #expect(try store.versionsThere().loose == [])
        #expect(try store.versionsThere().all.allSatisfy { $0.number != 3 && $0.number != 4 })
        #expect(try problems(store) == [])
        #expect(try SharingTests.read("again", of: store, blocks: 150) == again.flatMap { $0 })
        // The interrupted import is gone.
        #expect(try store.anyDisk("half") == nil)
    }

    @Test func anEmptyStore() throws {
        let store = try open(StoreOfFormat3())
        try store.write("a", [block(1)])
        #expect(try problems(store) == [])
        #expect(try store.superblock().counted == PackPlace(pack: 1, slots: 1))
    }

    /// More than a commit moves, in both directions of what a key could be.
    @Test func manyPacks() throws {
        var old = StoreOfFormat3()
        var disk = StoreOfFormat3.Disk(name: "d", number: 1, byteCount: 1000 * 4096)
        for pack in (1...120 as ClosedRange<UInt64>) {
            for number in [pack, pack << 24] {
                for place in 0..<2 { disk.blocks[UInt64(disk.blocks.count)] = try old.store(block(number << 2 | UInt64(place)), inPack: number) }
            }
        }
        old.disks = [disk]
        let store = try open(old)
        #expect(try problems(store) == [])
        try expectContents(store, old)
        #expect(try store.versionsThere().all.count == 240)
    }

    // MARK: Damage

    /// What was damaged is damaged, told as such, and in nobody's way.
    @Test(arguments: ["blob", "known blob", "directory", "counts", "index", "disk", "changes"]) func damageStays(_ what: String) throws {
        var old = try StoreOfFormat3.sample()
        let blob = old.disks[1].blocks[100] ?? 0
        func corrupt(_ table: String, _ key: UInt64) { old.corrupt = { if $0 == table, $1 == key { $2[$2.count / 2] ^= 1 } } }
        switch what {
        case "blob": old.rot(blob)
        case "known blob":
            old.rot(blob)
            old.damaged = [blob]
        case "directory": old.corrupt = { if $0 == "packs", $1 == 1 { $2[70] ^= 1 } }
        case "counts": corrupt("counts", 7)
        case "index": old.corrupt = { if $0 == "index", $1 == 0 { $2[40] ^= 1 } }
        case "changes": corrupt("changes", 1)
        default: corrupt("disks", 3)
        }
        let store = try open(old)
        if what == "disk" {
            #expect(throws: Failure.self) { _ = try store.disks() }
            return
        }
        #expect(try problems(store) != [])
        #expect(try SharingTests.read("wide", of: store, blocks: 100) == Array(old.contents("wide").prefix(100 * blockSize)))
        if ["counts", "index", "changes"].contains(what) {
            _ = try problems(store, repair: true)
            #expect(try problems(store) == [])
            try expectContents(store, old)
        }
        if what.contains("blob") {
            // Its content comes again.
            try store.write("again", [block(StoreOfFormat3.full << 20 | 101)])
            #expect(try problems(store) == [])
            try expectContents(store, old)
        }
    }

    // MARK: Refusals

    /// Nothing is changed before all is as it should be.
    @Test func whatIsRefused() throws {
        for (kind, change): (Failure.Kind, (inout StoreOfFormat3) -> Void) in [
            (.damage, { $0.otherID = 5 }), (.system, { $0.features.meta = 2 }), (.system, { $0.features.packs = 2 }),
        ] {
            let scratch = try ScratchDirectory()
            var old = try StoreOfFormat3.sample()
            change(&old)
            let path = scratch.path + "/store"
            try old.write(to: path, locks: scratch.path + "/locks")
            let before = try Files.bytes(path + "/packs/data.mdb")
            for _ in 0..<2 {
                let failure = #expect(throws: Failure.self) { _ = try Store(path: path) }
                #expect(failure?.kind == kind && failure?.remedy != nil, "\(String(describing: failure))")
            }
            #expect(try Files.bytes(path + "/packs/data.mdb") == before)
        }
    }

    /// Packs that are upgraded beside a `meta` that is not.
    @Test func halvesOfTwoCopies() throws {
        let old = try StoreOfFormat3.sample()
        do { _ = try open(old) }
        let upgraded = try Files.bytes(path + "/packs/data.mdb")
        let other = scratch.path + "/other"
        try old.write(to: other, locks: scratch.path + "/locks2")
        try Files.write(other + "/packs/data.mdb", upgraded)
        let failure = #expect(throws: Failure.self) { _ = try Store(path: other) }
        #expect(failure?.kind == .damage && failure?.description.contains("meta") == true, "\(String(describing: failure))")
    }
}
