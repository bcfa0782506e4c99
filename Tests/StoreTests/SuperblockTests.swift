import BlobModel
import Hashing
import System
import Testing
import TestSupport

@testable import Counts
@testable import Index
@testable import Store

@Suite struct SuperblockTests {
    @Test func everyFieldComesBack() throws {
        var superblock = Superblock(storeID: StoreID(3, 4))
        superblock.nextNode = 5
        superblock.nextDisk = 6
        superblock.counted = PackPlace(pack: 7, slots: 8)
        superblock.index.indexed = PackPlace(pack: 13, slots: 14)
        superblock.index.merging = PackPlace(pack: 15, slots: 16)
        superblock.index.merged = 17
        superblock.use(.lz4, later: .zstd)
        superblock.isMaintained = false
        superblock.waitsForRoom = true
        superblock.recoded = 21
        superblock.index.pastTable = 18
        superblock.totals = BlobTotals(live: 9, dead: 10, deadBytes: 11)
        superblock.header.compatibleFeatures = 12
        superblock.rewrites = 20
        let bytes = superblock.encoded
        let decoded = try Superblock(bytes.rawBytes, of: "s")
        #expect(decoded == superblock)
    }

    static func refusal(_ bytes: [UInt8]) -> Failure? {
        do { _ = try Superblock(bytes.rawBytes, of: "store") } catch { return error }
        return nil
    }

    @Test func otherVersionsAndUnknownFeaturesAreRefused() throws {
        var superblock = Superblock(storeID: StoreID(3, 4))
        func ofVersion(_ version: UInt32) -> [UInt8] {
            superblock.encoded.withChange {
                $0.store(version, at: 8)
                $0.store(checksum($0.bytes.extracting(0..<Superblock.byteCount - 8)), at: Superblock.byteCount - 8)
            }
        }
        let newer = ofVersion(FormatHeader.version + 1)
        // Not damage: nothing has to be restored.
        #expect(Self.refusal(newer)?.kind == .system)
        #expect(Self.refusal(newer)?.why.contains("format \(FormatHeader.version + 1)") == true)
        #expect(Self.refusal(newer)?.remedy == "use a newer dedupdisk")
        let older = ofVersion(FormatHeader.oldestUpgraded)
        #expect(Self.refusal(older)?.kind == .outdated)
        let oldest = ofVersion(FormatHeader.oldestUpgraded - 1)
        #expect(Self.refusal(oldest)?.remedy == "export its disks with the program that made it")
        superblock.header.incompatibleFeatures = 8
        #expect(Self.refusal(superblock.encoded)?.why.contains("features 8") == true)
        superblock.header.incompatibleFeatures = 0
        superblock.header.compatibleFeatures = 8
        #expect(Self.refusal(superblock.encoded) == nil)
    }

    @Test func everyFlipAndEveryCutShows() {
        let bytes = Superblock(storeID: StoreID(3, 4)).encoded
        for offset in bytes.indices {
            var damaged = bytes
            damaged[offset] ^= 0x10
            #expect(Self.refusal(damaged)?.kind == .damage, "byte \(offset)")
            #expect(Self.refusal(Array(bytes.prefix(offset)))?.kind == .damage, "\(offset) bytes")
        }
        #expect(Self.refusal(bytes + [0])?.kind == .damage)
    }
}
