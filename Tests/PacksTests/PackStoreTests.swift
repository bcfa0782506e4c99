import BlobModel
import BlockModel
import Hashing
import LMDB
import Synchronization
import System
import Testing
import TestSupport

@testable import Packs

/// What every pack store does, whatever it keeps its packs in.
@Suite struct PackStoreTests {
    let scratch: ScratchDirectory

    init() throws { scratch = try ScratchDirectory() }

    enum Kind: CaseIterable { case lmdb, memory }

    func make(_ kind: Kind) throws -> any PackStore {
        switch kind {
        case .memory: return MemoryPackStore()
        case .lmdb:
            let lockFile = try LockFile(try File.owned(scratch.path + "/lock"), patience: Patience())
            let opening = try lockFile.hold(.opening)
            defer { withExtendedLifetime(opening) {} }
            return try LMDBPackStore(path: scratch.path, number: 1, lockFile, making: .random())
        }
    }

    static func blob(_ data: [UInt8]) throws -> NewBlob {
        let digest = try SHA256().digest(data.rawBytes)
        return NewBlob(digest: digest, check: PackFormat.check(data.rawBytes, digest), source: lend(data))
    }

    static func blobs(_ numbers: some Sequence<UInt64>) throws -> [NewBlob] { try numbers.map { try blob(data($0)) } }

    /// Some that a codec makes much of, others that it does not.
    static func data(_ number: UInt64) -> [UInt8] {
        number % 3 == 0 ? (0..<blockSize).map { UInt8(truncatingIfNeeded: $0 & 1 == 0 ? number : number >> 8) } : block(number)
    }

    /// The block of a blob, or how it can't be read.
    static func read(_ blob: BlobNumber, _ packs: borrowing PackSnapshot) throws -> (PackFinder.Reading, [UInt8]) {
        var block = [UInt8](repeating: 0xa5, count: blockSize)
        var finder = PackFinder(packs)
        let reading = try block.withMutableBytes { (room) throws(Failure) in try finder.copyBlock(blob, to: &room, at: 0, BlobDecoder()) }
        return (reading, block)
    }

    static func expect(_ model: [BlobNumber: UInt64], _ packs: borrowing PackSnapshot, location: SourceLocation = #_sourceLocation) throws {
        for (blob, number) in model {
            let (reading, block) = try read(blob, packs)
            #expect(reading == .read && block == data(number), "\(blob)", sourceLocation: location)
        }
        var found: [BlobNumber] = []
        try packs.forEachBlob(from: .start, skippingDamaged: false) { (blob, _) throws(Failure) in
            found.append(blob)
            return true
        }
        #expect(found == model.keys.sorted(), sourceLocation: location)
    }

    @Test(arguments: Kind.allCases, BlobCodec.allCases) func whatIsSealedIsThere(kind: Kind, codec: BlobCodec) throws {
        let store = try make(kind)
        var model: [BlobNumber: UInt64] = [:]
        var next: UInt64 = 1
        for count in [1, 2, 200, 5, 1500, 1] as [UInt64] {
            let numbers = next..<next + count
            let sealed = try store.seal(try Self.blobs(numbers), codec, nil)
            #expect(sealed.numbers.count == Int(count))
            for (blob, number) in zip(sealed.numbers, numbers) { model[blob] = number }
            next += count
            // What it says of lengths is what the directory says.
            let packs = try store.snapshot()
            for pack in sealed.packs { #expect(try packs.storedLengths(ofPack: pack.number).map { Array($0[pack.first...]) } == pack.lengths) }
            #expect(try packs.last() == sealed.packs.last.map { PackPlace(pack: $0.number, slots: UInt64($0.slotCount)) })
        }
        let packs = try store.snapshot()
        try Self.expect(model, packs)
        #expect(try packs.blobCount(from: .start) == UInt64(model.count))
        for (blob, number) in model { #expect(try packs.digest(of: blob) == Self.blob(Self.data(number)).digest) }
        // What is not there.
        #expect(try packs.pack(999) == nil)
        #expect(try Self.read(BlobNumber(pack: 999, slot: 0), packs).0 == .missing)
        #expect(try Self.read(BlobNumber(pack: 1, slot: 4095), packs).0 == .damaged)
    }

    @Test(arguments: Kind.allCases) func aSnapshotShowsItsMoment(kind: Kind) throws {
        let store = try make(kind)
        let first = try store.seal(try Self.blobs(1...200), .raw, nil).numbers
        let before = Dictionary(uniqueKeysWithValues: zip(first, 1...200 as ClosedRange<UInt64>))
        var packs = try store.snapshot()
        let state = packs.state
        let second = try store.seal(try Self.blobs(201...250), .raw, nil).numbers
        _ = try store.rewrite([PackRewrite(number: first[0].pack, dropped: Set(0..<184))], nil)
        try store.remove([first[0].pack], nil)
        try Self.expect(before, packs)
        #expect(packs.state == state)
        try packs.renew()
        #expect(packs.state != state)
        var after = before.filter { $0.key.pack != first[0].pack }
        for (blob, number) in zip(second, 201...250 as ClosedRange<UInt64>) { after[blob] = number }
        try Self.expect(after, packs)
    }

    /// Whatever becomes of the packs that had them.
    @Test(arguments: Kind.allCases) func numbersAreNeverUsedAgain(kind: Kind) throws {
        let store = try make(kind)
        var seen: Set<BlobNumber> = []
        for round in 0..<6 as Range<UInt64> {
            let blobs = try store.seal(try Self.blobs(round * 100..<round * 100 + 90), .raw, nil).numbers
            #expect(seen.isDisjoint(with: blobs))
            seen.formUnion(blobs)
            for pack in Set(blobs.map(\.pack)) {
                _ = try store.rewrite([PackRewrite(number: pack, dropped: Set(0..<184))], nil)
                try store.remove([pack], nil)
            }
            #expect(try store.snapshot().count == 0)
        }
    }

    @Test(arguments: Kind.allCases, BlobCodec.allCases) func aPackIsWrittenAnew(kind: Kind, codec: BlobCodec) throws {
        let store = try make(kind)
        let blobs = try store.seal(try Self.blobs(1...100), codec, nil).numbers
        var model = Dictionary(uniqueKeysWithValues: zip(blobs, 1...100 as ClosedRange<UInt64>))
        let dropped = Set([0, 7, 99])
        let done = try store.rewrite([PackRewrite(number: blobs[0].pack, dropped: dropped, healed: [4: try Self.blob(Self.data(5))])], nil)
        #expect(done.map(\.number) == [blobs[0].pack])
        #expect(done[0].healed.keys.sorted() == [4])
        #expect(done[0].healed[4]?.now == done[0].healed[4]?.before)
        for slot in dropped { model[blobs[slot]] = nil }
        var packs = try store.snapshot()
        try Self.expect(model, packs)
        for slot in dropped {
            #expect(try Self.read(blobs[slot], packs).0 == .missing)
            // Its name stays.
            #expect(try packs.digest(of: blobs[slot]) == Self.blob(Self.data(UInt64(slot + 1))).digest)
        }
        // A pack that is not there, or not empty.
        #expect(try store.rewrite([PackRewrite(number: 77, dropped: [1])], nil).isEmpty)
        try store.remove([77, blobs[0].pack], nil)
        try packs.renew()
        try Self.expect(model, packs)
        // One that has collected slots is not filled up.
        let more = try store.seal(try Self.blobs([500]), codec, nil).numbers
        #expect(more[0].pack > blobs[0].pack)
    }

    @Test(arguments: Kind.allCases, BlobCodec.allCases) func whatIsNotWhatWasHashedIsNotStored(kind: Kind, codec: BlobCodec) throws {
        let store = try make(kind)
        var blobs = try Self.blobs(1...300)
        var other = Self.data(222)
        other[17] ^= 1
        blobs[221] = NewBlob(digest: blobs[221].digest, check: blobs[221].check, source: lend(other))
        do {
            _ = try store.seal(blobs, codec, nil)
            Issue.record("it was stored")
        } catch { #expect(error.kind == .damage) }
        #expect(try store.snapshot().count == 0)
    }

    @Test(arguments: Kind.allCases) func manyAtATime(kind: Kind) throws {
        let store = try make(kind)
        let all = Mutex<[BlobNumber: UInt64]>([:])
        var threads: [System.Thread] = []
        for writer in 0..<4 as Range<UInt64> {
            threads.append(
                try System.Thread("test") {
                    for round in 0..<10 as Range<UInt64> {
                        let numbers = (0..<30 as Range<UInt64>).map { 1 + writer * 1000 + round * 30 + $0 }
                        guard let blobs = try? Self.blobs(numbers), let sealed = try? store.seal(blobs, .raw, nil) else { continue }
                        all.withLock { all in
                            for (blob, number) in zip(sealed.numbers, numbers) { all[blob] = number }
                        }
                    }
                })
        }
        for thread in threads { thread.join() }
        let model = all.withLock { $0 }
        #expect(model.count == 1200)
        try Self.expect(model, try store.snapshot())
    }

    /// Blobs that nothing refers to are whose who sealed them, until that one has no more use for them.
    @Test(arguments: Kind.allCases) func whatWasSealedIsClaimed(kind: Kind) throws {
        let store = try make(kind)
        var first: SealedBlobs? = try store.seal(try Self.blobs(1...300), .raw, nil)
        let packs = try #require(first?.packs.map(\.number))
        #expect(packs.count == 2)
        for pack in packs { #expect(try store.isClaimed(pack)) }
        // Two share the second pack.
        var second: SealedBlobs? = try store.seal(try Self.blobs(301...310), .raw, nil)
        #expect(second?.packs.map(\.number) == [packs[1]])
        first = nil
        _ = first
        #expect(try !store.isClaimed(packs[0]) && store.isClaimed(packs[1]))
        second = nil
        _ = second
        #expect(try !store.isClaimed(packs[1]))
        // What fails claims nothing.
        var bad = try Self.blobs(1...3)
        bad[1] = NewBlob(digest: bad[1].digest, check: bad[1].check ^ 1, source: bad[1].source)
        #expect(throws: Failure.self) { try store.seal(bad, .raw, nil) }
        #expect(try !store.isClaimed(packs[1]))
    }

    // MARK: Faults

    /// A read that fails is no damage, and the next one reads.
    @Test(arguments: Kind.allCases) func aReadThatFailsOnce(kind: Kind) throws {
        let store = FaultyPackStore(try make(kind))
        let blobs = try store.seal(try Self.blobs(1...10), .raw, nil).numbers
        let packs = try store.snapshot()
        // Of memory, the directory and the blob are asked for one after the other.
        for faults in kind == .memory ? [[.before], [.none, .before]] : [[FaultyPackStore.Fault.before]] {
            if faults.count == 1 { store.fail(faults[0]) } else { store.fail(faults[0], faults[1]) }
            do {
                _ = try Self.read(blobs[3], packs)
                Issue.record("it was read")
            } catch { #expect((error as? Failure) == FaultyPackStore.failure) }
            let (reading, block) = try Self.read(blobs[3], packs)
            #expect(reading == .read && block == Self.data(4))
        }
    }

    /// Who gets no answer and stores again has it twice at worst, finds all that is there, and is right of the second.
    @Test(arguments: Kind.allCases) func aSealWhoseAnswerIsLost(kind: Kind) throws {
        let store = FaultyPackStore(try make(kind))
        let first = try store.seal(try Self.blobs(1...5), .raw, nil).numbers
        for fault in [FaultyPackStore.Fault.before, .after] {
            let place = try #require(try store.snapshot().last())
            store.fail(fault)
            #expect(throws: Failure.self) { try store.seal(try Self.blobs(6...9), .raw, nil) }
            let again = try store.seal(try Self.blobs(6...9), .raw, nil).numbers
            let packs = try store.snapshot()
            var found: [BlobNumber] = []
            try packs.forEachBlob(from: place, skippingDamaged: false) { (blob, _) throws(Failure) in
                found.append(blob)
                return true
            }
            #expect(found.count == (fault == .after ? 8 : 4))
            #expect(Array(found.suffix(4)) == again)
            for (blob, number) in zip(first + again, [1, 2, 3, 4, 5, 6, 7, 8, 9] as [UInt64]) {
                let (reading, block) = try Self.read(blob, packs)
                #expect(reading == .read && block == Self.data(number))
            }
        }
    }

    /// Done twice is done once.
    @Test(arguments: Kind.allCases) func aRewriteAndARemovalWhoseAnswersAreLost(kind: Kind) throws {
        let store = FaultyPackStore(try make(kind))
        let blobs = try store.seal(try Self.blobs(1...5), .raw, nil).numbers
        for fault in [FaultyPackStore.Fault.before, .after] {
            store.fail(fault)
            #expect(throws: Failure.self) { try store.rewrite([PackRewrite(number: blobs[0].pack, dropped: [2])], nil) }
            _ = try store.rewrite([PackRewrite(number: blobs[0].pack, dropped: [2])], nil)
            try Self.expect([blobs[0]: 1, blobs[1]: 2, blobs[3]: 4, blobs[4]: 5], try store.snapshot())
        }
        _ = try store.rewrite([PackRewrite(number: blobs[0].pack, dropped: Set(0..<5))], nil)
        store.fail(.after)
        #expect(throws: Failure.self) { try store.remove([blobs[0].pack], nil) }
        try store.remove([blobs[0].pack], nil)
        #expect(try store.snapshot().count == 0)
    }
}
