import BlockModel
import Hashing
import System
import Testing
import TestSupport

@testable import Packs
@testable import Store

/// Blobs that rot, and what a later write of the same content makes of them.
@Suite struct HealingTests {
    let scratch: ScratchDirectory
    let store: Store

    init() throws {
        scratch = try ScratchDirectory()
        store = try Store(path: scratch.path + "/store", creating: true, codec: .lz4)
    }

    /// One that LZ4 makes much of.
    static func soft(_ number: Int) -> [UInt8] { (0..<blockSize).map { UInt8(truncatingIfNeeded: $0 & 1 == 0 ? number : number >> 8) } }

    func write(_ name: String, _ blocks: [[UInt8]]) throws {
        try store.write(name, blocks)
    }

    func problems() throws -> [String] { try store.check(readData: true, repair: false) { _, _ in }.problems }

    /// Flips the first stored byte of these slots.
    func rot(_ slots: some Sequence<Int>, pack number: UInt64 = 1) throws {
        var bytes = try store.bytes(ofPack: number)
        for slot in slots {
            let place: UInt32 = bytes.rawBytes.load(at: PackFormat.headerSize + slot * PackFormat.entrySize + 40)
            bytes[Int(place & 0xffff) * 16] ^= 1
        }
        try store.put(pack: number, bytes)
    }

    /// However many of a pack's blobs are damaged.
    @Test(arguments: [BlobCodec.raw, .lz4, .zstd]) func allOfAPack(codec: BlobCodec) throws {
        try store.use(codec)
        let count = codec == .raw ? 184 : 600
        let blocks = (1...count).map { Self.soft($0) }
        try write("a", blocks)
        try rot(0..<count)
        #expect(try store.check(readData: true, repair: false) { _, _ in }.problemCount > count)
        #expect(throws: Failure.self) { try SharingTests.read("a", of: store, blocks: count) }
        // In whatever form new blobs come.
        try store.use(.raw)
        try write("b", blocks)
        #expect(try problems() == [])
        #expect(try SharingTests.read("a", of: store, blocks: count) == blocks.flatMap { $0 })
    }

    /// A pack whose directory is damaged, too, is left alone: what is written is stored once more.
    @Test func whatCannotBeHealedIsStoredAgain() throws {
        let blocks = (1...20).map { Self.soft($0) }
        try write("a", blocks)
        try rot([3, 7])
        #expect(try problems().count > 0)
        // The digest of the last slot.
        let hasher = try SHA256()
        let last = blocks[19]
        var name = [UInt8](repeating: 0, count: 32)
        let digest = try hasher.digest(last.rawBytes)
        try name.withMutableBytes { (span) throws(Failure) in digest.store(into: &span) }
        #expect(try Files.flip(store.path + "/packs/data.mdb", every: name, skip: 5) >= 1)
        // Twice in one batch.
        try write("b", Array(blocks[0..<10]) + [blocks[3]])
        #expect(try SharingTests.read("b", of: store, blocks: 11) == blocks[0..<10].flatMap { $0 } + blocks[3])
        #expect(try store.statistics().uniqueBytes == 22 * 4096)
        #expect(try problems().allSatisfy { !$0.contains("hold the same block") })
        // And once more is enough.
        try write("c", Array(blocks[0..<10]))
        #expect(try store.statistics().uniqueBytes == 22 * 4096)
    }

    @Test func aDeadBlob() throws {
        try write("a", (1...20).map { Self.soft($0) })
        try store.deleteWholly(try store.lock("a"))
        try rot([3, 7])
        #expect(try problems().count == 2)
        try write("b", [Self.soft(4)])
        #expect(try problems().count == 2)
        try write("c", [Self.soft(8)])
        #expect(try problems() == [])
    }

    /// Its sound form is of another length, and it heals twice in one commit.
    @Test func aDeadBlobOfAnotherLength() throws {
        let digest = try SHA256().digest(Self.soft(1).rawBytes)
        var builder = PackBuilder(number: 1)
        builder.append(digest, check: 0, .lz4, lend([UInt8](repeating: 1, count: 1000)))
        try store.put(builder)
        try store.create("a", byteCount: 1 << 20)
        #expect(try store.statistics().reclaimableBytes == 1000)
        #expect(try problems().count == 1)
        try write("a", [Self.soft(1), Self.soft(1)])
        #expect(try store.statistics().uniqueBytes == 4096)
        #expect(try store.statistics().reclaimableBytes == 0)
        #expect(try problems() == [])
    }

    /// A collection has written the pack anew, damage and all, when it is healed; or comes later.
    @Test(arguments: 0..<3) func besideACollection(moment: Int) throws {
        try write("a", (1...40).map { Self.soft($0) })
        try write("b", (1...20).map { Self.soft($0) })
        try store.deleteWholly(try store.lock("a"))
        try rot([3, 7, 30])
        #expect(try problems().count > 0)
        try store.completeIndex()
        try store.settleCounts()
        let other = try Store(path: store.path)
        var calls = 0
        let freed = try other.collect([1]) { () throws(Failure) in
            defer { calls += 1 }
            guard calls == moment else { return }
            #expect(throws: Never.self) { try write("c", [Self.soft(4), Self.soft(8)]) }
        }
        if moment > 1 { try write("c", [Self.soft(4), Self.soft(8)]) }
        #expect(freed == 0 ? moment == 0 : moment > 0)
        #expect(
            try store.check(readData: true, repair: false) { _, _ in }.problems.allSatisfy {
                moment == 0 && $0.contains("1/30") || $0.contains("1 blobs are known")
            })
        #expect(try SharingTests.read("b", of: store, blocks: 20) == (1...20).flatMap { Self.soft($0) })
        _ = try store.collect(shouldStop: { false }) { _, _ in }
        #expect(try problems() == [])
        #expect(try SharingTests.read("b", of: store, blocks: 20) == (1...20).flatMap { Self.soft($0) })
        let there = try store.versionsThere()
        #expect(there.loose.isEmpty && there.all.count == 1)
        #expect(try store.statistics().reclaimableBytes == 0)
    }

    /// A commit that fails leaves it to the next one.
    @Test func aSuspectInACommitThatFails() throws {
        try write("a", [Self.soft(1)])
        try rot([0])
        #expect(throws: Failure.self) { try SharingTests.read("a", of: store, blocks: 1) }
        func commit(spoiling: Bool) throws {
            var data = Self.soft(1) + Self.soft(2)
            try unsafe data.withUnsafeMutableBytes { bytes in
                let batch = try Batch(store)
                let start = UnsafeRawPointer(bytes.baseAddress!)
                for index in 0..<2 { unsafe batch.append(UInt64(10 + index), lending: start + index * blockSize) }
                try batch.hash()
                // Not what was hashed any more.
                if spoiling { unsafe bytes[blockSize] ^= 1 }
                try store.commit(batch, to: "a")
            }
        }
        #expect(throws: Failure.self) { try commit(spoiling: true) }
        try commit(spoiling: false)
        // It is neither written down nor suspected any more.
        #expect(try store.statistics().damagedBlobs == 0)
        #expect(store.parts.damage.found.isEmpty)
        #expect(try SharingTests.read("a", of: store, blocks: 1) == Self.soft(1))
        #expect(try problems() == [])
    }
}
