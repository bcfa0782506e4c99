import BlobModel
import BlockModel
import Hashing
import System
import Testing
import TestSupport

@testable import Packs

@Suite struct PackTests {
    static let storeID = StoreID(77, 78)

    /// A pack of `blocks`, as bytes.
    static func pack(_ blocks: [[UInt8]], number: UInt64 = 9) throws -> [UInt8] {
        var builder = PackBuilder(number: number)
        let hasher = try SHA256()
        for data in blocks { try Self.append(data, to: &builder, hasher) }
        return [UInt8](count: builder.byteCount) { _ = builder.write(into: &$0, storeID) }
    }

    static func append(_ data: [UInt8], to builder: inout PackBuilder, _ hasher: borrowing SHA256) throws {
        let digest = try hasher.digest(data.rawBytes)
        builder.append(digest, check: PackFormat.check(data.rawBytes, digest), .raw, lend(data))
    }

    /// The block in a slot of a pack that is these bytes.
    static func read(_ bytes: [UInt8], _ slot: Int) throws -> [UInt8]? {
        var block = [UInt8](repeating: 0xa5, count: blockSize)
        let snapshot = PackSnapshot(BytesSource([9: bytes]), MemoryVersions().source(), storeID)
        var finder = PackFinder(snapshot)
        let reading = try block.withMutableBytes { (room) throws(Failure) in
            try finder.copyBlock(BlobNumber(pack: 9, slot: slot), to: &room, at: 0, BlobDecoder())
        }
        return reading == .read ? block : nil
    }

    static func isPack(_ bytes: [UInt8], number: UInt64 = 9) -> Bool { PackView(bytes.rawBytes, number: number) != nil }

    static func isIntact(_ bytes: [UInt8], storeID: StoreID = storeID) -> Bool {
        if let view = PackView(bytes.rawBytes, number: 9) { view.isIntact(storeID) } else { false }
    }

    @Test(arguments: [0, 1, 2, 101, 184]) func whatGoesInComesOut(count: Int) throws {
        let blocks = (0..<count).map { block(UInt64($0 + 1)) }
        let bytes = try Self.pack(blocks)
        #expect(bytes.count <= PackFormat.capacity)
        #expect(Self.isIntact(bytes))
        #expect(!Self.isIntact(bytes, storeID: StoreID(78, 78)))
        guard let view = PackView(bytes.rawBytes, number: 9) else { return }
        #expect(view.slotCount == count)
        for slot in 0..<count {
            let found = try Self.read(bytes, slot)
            #expect(found == blocks[slot])
            let (digest, length) = (view.digest(slot), view.storedLength(slot))
            let data = blocks[slot]
            let hasher = try SHA256()
            let expected = try hasher.digest(data.rawBytes)
            #expect(digest == expected)
            #expect(length == blockSize)
        }
        for slot in [count, count + 1, 0xffff] {
            let (digest, length, bytes) = (view.digest(slot), view.storedLength(slot), try Self.read(bytes, slot))
            #expect(digest == nil && length == 0 && bytes == nil)
        }
    }

    @Test func itFillsUp() throws {
        var builder = PackBuilder(number: 1)
        let digest = Digest(1, 2, 3, 4)
        while builder.hasRoom(for: blockSize), builder.slotCount < 1000 { builder.append(digest, check: 0, .raw, lend(block(1))) }
        #expect(builder.slotCount == 184)
        #expect(builder.byteCount <= PackFormat.capacity)
    }

    @Test func aPackThatIsContinued() throws {
        let blocks = (1...5).map { block(UInt64($0)) }
        let first = try Self.pack(Array(blocks.prefix(3)))
        guard let view = PackView(first.rawBytes, number: 9), var builder = unsafe PackBuilder(continuing: view, number: 9) else {
            Issue.record("it cannot be continued")
            return
        }
        let hasher = try SHA256()
        for data in blocks.dropFirst(3) { try Self.append(data, to: &builder, hasher) }
        let all = [UInt8](count: builder.byteCount) { _ = builder.write(into: &$0, Self.storeID) }
        #expect(all == (try Self.pack(blocks)))
    }

    /// A pack of which few blobs are left has entries of these alone, where that takes fewer pages; and so on, when it is written anew.
    @Test(arguments: [[5], [0], [183], [], [0, 63, 64, 127, 128, 182], Array(0..<184), Array(1..<184)] as [[Int]]) func fewAreLeft(kept: [Int]) throws {
        let blocks = (0..<184).map { block(UInt64($0 + 1)) }
        func copy(_ bytes: [UInt8], without isDead: (Int) -> Bool, as version: UInt32) throws -> [UInt8] {
            guard let view = PackView(bytes.rawBytes, number: 9),
                let builder = unsafe PackBuilder(copying: view, number: 9, version: version, isDead: isDead)
            else { return [] }
            var isEmpty = true
            for slot in 0..<184 where !isDead(slot) && !view.isCollected(slot) { isEmpty = false }
            #expect(builder.isEmpty == isEmpty)
            return [UInt8](count: builder.byteCount) { _ = builder.write(into: &$0, Self.storeID) }
        }
        func expect(_ bytes: [UInt8], _ kept: [Int], _ note: Comment) throws {
            #expect(Self.isIntact(bytes), note)
            guard let view = PackView(bytes.rawBytes, number: 9) else {
                Issue.record(note)
                return
            }
            let count = view.slotCount
            #expect(count == 184, note)
            let hasher = try SHA256()
            for slot in 0..<184 {
                #expect(try Self.read(bytes, slot) == (kept.contains(slot) ? blocks[slot] : nil), note)
                let data = blocks[slot]
                let digest = try hasher.digest(data.rawBytes)
                let (isCollected, holds, length) = (view.isCollected(slot), view.holds(digest, slot), view.storedLength(slot))
                #expect(isCollected == !kept.contains(slot) && holds == kept.contains(slot), note)
                if kept.contains(slot) { #expect(length == blockSize, note) }
            }
            // By it a state of the store is known.
            let data = blocks[183]
            let (last, found) = (try hasher.digest(data.rawBytes), view.digest(183))
            #expect(found == last, note)
        }
        let all = try Self.pack(blocks)
        let few = try copy(all, without: { !kept.contains($0) }, as: 1)
        try expect(few, kept, "once")
        if kept.count <= 6 { #expect(few.count <= PackFormat.align(64 + 24 + 7 * 44) + kept.count * 4096) }
        let fewer = try copy(few, without: { $0 == kept.first }, as: 2)
        try expect(fewer, Array(kept.dropFirst()), "twice")
        #expect(fewer.count <= few.count)
        // What is left can't be continued, and no byte of its directory changes unnoticed.
        guard let view = PackView(few.rawBytes, number: 9) else { return }
        let isContinued = unsafe PackBuilder(continuing: view, number: 9) != nil
        #expect(isContinued == (kept.count == 184))
        for offset in 0..<view.directoryEnd where !(40..<64).contains(offset) && (offset < 200 || offset % 97 == 0) {
            var damaged = few
            damaged[offset] ^= 4
            #expect(!Self.isIntact(damaged), "byte \(offset)")
        }
        // No bit that is another one leads to another block.
        for bit in 0..<192 where view.shape.isSparse {
            var damaged = few
            damaged[64 + bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(!Self.isPack(damaged), "bit \(bit)")
            // Be it that the pack was looked at before.
            let renewed = damaged.withChange { $0.store(PackFormat.bitsChecksum($0.bytes, slots: 184), at: 40) }
            for slot in kept {
                let found = try Self.read(renewed, slot)
                #expect(found == nil || found == blocks[slot], "bit \(bit), slot \(slot)")
            }
        }
        // Nor is anything read beyond its end.
        for length in [64, 64 + 8, 64 + 23, view.directoryEnd - 1] {
            #expect(!Self.isPack(Array(few.prefix(length))), "\(length) bytes")
        }
    }

    /// Any byte of header and directory is covered.
    @Test func everyFlipOfTheDirectoryShows() throws {
        let bytes = try Self.pack((1...3).map { block(UInt64($0)) })
        for offset in 0..<PackFormat.headerSize + 3 * PackFormat.entrySize where !(40..<64).contains(offset) {
            var damaged = bytes
            damaged[offset] ^= 4
            #expect(!Self.isIntact(damaged), "byte \(offset)")
        }
    }

    @Test func malformedPacksAreRefusedAndNeverReadBeyondTheirEnd() throws {
        let bytes = try Self.pack((1...3).map { block(UInt64($0)) })
        for length in [0, 1, 63, 64, 64 + 3 * 44 - 1] { #expect(!Self.isPack(Array(bytes.prefix(length))), "\(length) bytes") }
        #expect(!Self.isPack(bytes, number: 8))
        let entry = PackFormat.headerSize + 40
        func change(_ place: UInt32) throws -> Bool {
            let changed = bytes.withChange { $0.store(place, at: entry) }
            guard let view = PackView(changed.rawBytes, number: 9) else { return false }
            _ = view.storedLength(0)
            return try Self.read(changed, 0) != nil
        }
        let good: UInt32 = bytes.rawBytes.load(at: entry)
        #expect(try change(good))
        #expect(try !change(good & 0xffff_0000 | 0xffff), "an offset beyond the pack")
        #expect(try !change(good & 0xf000_ffff), "a length of 1")
        // Its bytes are right: no damage, but more than this program knows.
        do {
            _ = try change(good | 3 << 28)
            Issue.record("an unknown codec was read")
        } catch { #expect((error as? Failure)?.kind == .system) }
        // Bytes cut off: the last blob lies partly outside.
        let cut = Array(bytes.dropLast(100))
        guard let view = PackView(cut.rawBytes, number: 9) else {
            Issue.record("its directory is whole")
            return
        }
        let (last, second) = (try Self.read(cut, 2), try Self.read(cut, 1))
        #expect(last == nil)
        #expect(second == block(2))
        let isContinued = unsafe PackBuilder(continuing: view, number: 9) != nil
        #expect(!isContinued)
    }

    /// Random bytes behind a right magic: no access is out of bounds.
    @Test(arguments: 0..<50) func anyBytes(seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed))
        var bytes = (0..<Int.random(in: 64...9000, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
        bytes = bytes.withChange {
            $0.store(PackFormat.magic, at: 0)
            $0.store(seed % 2 == 0 ? PackFormat.format : PackFormat.sparseFormat, at: 4)
            let slots = Int.random(in: 0...300, using: &random)
            $0.store(UInt16(slots), at: 6)
            $0.store(UInt64(9), at: 8)
            if PackFormat.headerSize + PackFormat.bitsSize(slots) <= $0.byteCount { $0.store(PackFormat.bitsChecksum($0.bytes, slots: slots), at: 40) }
        }
        guard let view = PackView(bytes.rawBytes, number: 9) else { return }
        #expect(!Self.isIntact(bytes))
        for slot in 0...view.slotCount {
            _ = view.digest(slot)
            _ = try Self.read(bytes, slot)
        }
    }
}
