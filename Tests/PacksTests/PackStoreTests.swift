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
        let versions = MemoryVersions()
        var packs = try store.snapshot(versions)
        let state = packs.state
        try Self.expect(before, packs)
        let second = try store.seal(try Self.blobs(201...250), .raw, nil).numbers
        versions.makeCurrent(try store.rewrite([PackRewrite(from: PackVersion(first[0].pack, 0), dropped: Set(0..<184))], versions))
        try store.sweep(versions)
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
        let versions = MemoryVersions()
        var seen: Set<BlobNumber> = []
        for round in 0..<6 as Range<UInt64> {
            let blobs = try store.seal(try Self.blobs(round * 100..<round * 100 + 90), .raw, nil).numbers
            #expect(seen.isDisjoint(with: blobs))
            seen.formUnion(blobs)
            for pack in Set(blobs.map(\.pack)) {
                let done = try store.rewrite([PackRewrite(from: PackVersion(pack, 0), dropped: Set(0..<184))], versions)
                #expect(done.map(\.new) == [nil])
                versions.makeCurrent(done)
            }
            // They are gone at once, and then of them nothing is left, not even that they were.
            #expect(try store.snapshot(versions).count == 0)
            #expect(try store.snapshot(versions).last() == nil)
            try store.sweep(versions)
            #expect(try store.source().last(before: .max) == nil)
            #expect(try store.loose(from: 0, limit: 9).isEmpty)
            for pack in Set(blobs.map(\.pack)) { #expect(versions.state(of: pack) == .sealed) }
        }
    }

    // MARK: Versions

    /// What is written anew is seen by nobody until it is current, and by nobody ever if it never is.
    @Test(arguments: Kind.allCases) func whatNeverBecomesCurrent(kind: Kind) throws {
        let store = try make(kind)
        let versions = MemoryVersions()
        let blobs = try store.seal(try Self.blobs(1...100), .raw, nil).numbers
        let model = Dictionary(uniqueKeysWithValues: zip(blobs, 1...100 as ClosedRange<UInt64>))
        let sealed = PackVersion(1, 0)
        let done = try store.rewrite([PackRewrite(from: sealed, dropped: [3, 5])], versions)
        #expect(done.map(\.new) == [1])
        #expect(done[0].dropped == [3, 5])
        let packs = try store.snapshot(versions)
        try Self.expect(model, packs)
        #expect(try packs.count == 1)
        #expect(try packs.last() == PackPlace(pack: 1, slots: 100))
        // Nobody has said that it never will be.
        try store.sweep([sealed, PackVersion(1, 1)], versions.source(), nil)
        #expect(try store.snapshot(versions).holds(PackVersion(1, 1)))
        #expect(try store.loose(from: 0, limit: 9) == [sealed, PackVersion(1, 1)])
        try store.sweep(versions)
        #expect(try !store.snapshot(versions).holds(PackVersion(1, 1)))
        #expect(try store.loose(from: 0, limit: 9).isEmpty)
        #expect(versions.makeCurrent(done).count == 1)
        try Self.expect(model, try store.snapshot(versions))
    }

    @Test(arguments: Kind.allCases) func versionsAreNeverUsedAgain(kind: Kind) throws {
        let store = try make(kind)
        let versions = MemoryVersions()
        _ = try store.seal(try Self.blobs(1...100), .raw, nil)
        var seen: Set<UInt32> = [0]
        var random = SeededGenerator(seed: 5)
        for round in 0..<60 {
            let current = try #require(versions.state(of: 1).current)
            let done = try store.rewrite([PackRewrite(from: PackVersion(1, current), dropped: [round])], versions)
            let new = try #require(done.first?.new)
            #expect(!seen.contains(new))
            seen.insert(new)
            if Bool.random(using: &random) { versions.makeCurrent(done) }
            if Bool.random(using: &random) { try store.sweep(versions) }
        }
        #expect(seen.count == 61)
        try store.sweep(versions)
        #expect(try store.snapshot(versions).count == 1)
        #expect(try store.loose(from: 0, limit: 9).isEmpty)
    }

    /// Who holds an old state goes on to see what it saw; who looks now sees what is current.
    @Test(arguments: Kind.allCases) func oldAndNewBesideEachOther(kind: Kind) throws {
        let store = try make(kind)
        let versions = MemoryVersions()
        let blobs = try store.seal(try Self.blobs(1...300), .raw, nil).numbers
        let model = Dictionary(uniqueKeysWithValues: zip(blobs, 1...300 as ClosedRange<UInt64>))
        let before = try store.snapshot(versions)
        try Self.expect(model, before)
        let done = try store.rewrite([PackRewrite(from: PackVersion(1, 0), dropped: [7]), PackRewrite(from: PackVersion(2, 0), dropped: [0])], versions)
        #expect(versions.makeCurrent(done).isEmpty)
        let left = model.filter { $0.key != blobs[7] && $0.key != blobs[184] }
        try Self.expect(left, try store.snapshot(versions))
        try store.sweep(versions)
        try Self.expect(left, try store.snapshot(versions))
        #expect(try !store.snapshot(versions).holds(PackVersion(1, 0)))
        try Self.expect(model, before)
        // What was current once is not written anew, nor made current again.
        #expect(try store.rewrite([PackRewrite(from: PackVersion(1, 0), dropped: [8])], versions).isEmpty)
        #expect(versions.makeCurrent(done).count == 2)
    }

    /// Two copy the same at the same moment: only one becomes current, as the other has what that one dropped.
    @Test(arguments: Kind.allCases, [false, true]) func twoThatCopyTheSame(kind: Kind, isFirst: Bool) throws {
        let store = try make(kind)
        let versions = MemoryVersions()
        let blobs = try store.seal(try Self.blobs(1...10), .raw, nil).numbers
        var model = Dictionary(uniqueKeysWithValues: zip(blobs, 1...10 as ClosedRange<UInt64>))
        let copies = try [2, 3].map { try store.rewrite([PackRewrite(from: PackVersion(1, 0), dropped: [$0])], versions) }
        #expect(copies.flatMap { $0.map(\.new) } == [1, 2])
        #expect(versions.makeCurrent(copies[isFirst ? 0 : 1]).isEmpty)
        #expect(versions.makeCurrent(copies[isFirst ? 1 : 0]).count == 1)
        model[blobs[isFirst ? 2 : 3]] = nil
        try Self.expect(model, try store.snapshot(versions))
        try store.sweep(versions)
        try Self.expect(model, try store.snapshot(versions))
        #expect(try store.loose(from: 0, limit: 9).isEmpty)
        #expect(try !store.snapshot(versions).holds(PackVersion(1, isFirst ? 2 : 1)))
    }

    /// The open pack is written anew while others fill it: what comes later goes elsewhere, and nothing is lost.
    @Test(arguments: Kind.allCases) func sealingBesideARewriteOfTheOpenPack(kind: Kind) throws {
        let store = try make(kind)
        let versions = MemoryVersions()
        var model: [BlobNumber: UInt64] = [:]
        func seal(_ numbers: ClosedRange<UInt64>) throws -> [BlobNumber] {
            let blobs = try store.seal(try Self.blobs(numbers), .raw, nil).numbers
            for (blob, number) in zip(blobs, numbers) { model[blob] = number }
            return blobs
        }
        let first = try seal(1...10)
        let change = PackRewrite(from: PackVersion(1, 0), dropped: [2])
        // Its writer has not looked again since.
        let second = try seal(11...20)
        #expect(second[0].pack == 1)
        let done = try store.rewrite([change], versions)
        let third = try seal(21...30)
        #expect(third[0] == BlobNumber(pack: 2, slot: 0))
        try Self.expect(model, try store.snapshot(versions))
        versions.makeCurrent(done)
        model[first[2]] = nil
        try Self.expect(model, try store.snapshot(versions))
        try store.sweep(versions)
        _ = try seal(31...35)
        try Self.expect(model, try store.snapshot(versions))
        // One that never becomes current closes the pack as well.
        _ = try store.rewrite([PackRewrite(from: PackVersion(2, 0), dropped: [0])], versions)
        #expect(try seal(36...36)[0].pack == 3)
        try store.sweep(versions)
        try Self.expect(model, try store.snapshot(versions))
    }

    @Test(arguments: Kind.allCases) func looseVersionsComePackByPack(kind: Kind) throws {
        let store = try make(kind)
        let versions = MemoryVersions()
        let blobs = try store.seal(try Self.blobs(1...600), .raw, nil)
        _ = try store.rewrite(blobs.packs.map { PackRewrite(from: PackVersion($0.number, 0), dropped: [1]) }, versions)
        #expect(try store.loose(from: 0, limit: 2).map(\.number) == [1, 1, 2, 2])
        #expect(try store.loose(from: 3, limit: 9).map(\.number) == [3, 3, 4, 4])
        #expect(try store.loose(from: 5, limit: 9).isEmpty)
    }

    @Test(arguments: Kind.allCases, BlobCodec.allCases) func aPackIsWrittenAnew(kind: Kind, codec: BlobCodec) throws {
        let store = try make(kind)
        let blobs = try store.seal(try Self.blobs(1...100), codec, nil).numbers
        var model = Dictionary(uniqueKeysWithValues: zip(blobs, 1...100 as ClosedRange<UInt64>))
        let dropped = Set([0, 7, 99])
        let versions = MemoryVersions()
        let done = try store.rewrite(
            [PackRewrite(from: PackVersion(blobs[0].pack, 0), dropped: dropped, healed: [4: try Self.blob(Self.data(5))])], versions)
        versions.makeCurrent(done)
        #expect(done.map(\.number) == [blobs[0].pack])
        #expect(done[0].healed.keys.sorted() == [4])
        #expect(done[0].healed[4]?.now == done[0].healed[4]?.before)
        for slot in dropped { model[blobs[slot]] = nil }
        var packs = try store.snapshot(versions)
        try Self.expect(model, packs)
        for slot in dropped {
            #expect(try Self.read(blobs[slot], packs).0 == .missing)
            // Its name stays.
            #expect(try packs.digest(of: blobs[slot]) == Self.blob(Self.data(UInt64(slot + 1))).digest)
        }
        // One that is not there, and what is not over.
        #expect(try store.rewrite([PackRewrite(from: PackVersion(77, 0), dropped: [1])], versions).isEmpty)
        try store.sweep([PackVersion(77, 0), PackVersion(blobs[0].pack, 1)], versions.source(), nil)
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

    /// Who gets no answer does it again: what was written for nobody is swept.
    @Test(arguments: Kind.allCases) func aRewriteAndASweepWhoseAnswersAreLost(kind: Kind) throws {
        let store = FaultyPackStore(try make(kind))
        let versions = MemoryVersions()
        let blobs = try store.seal(try Self.blobs(1...5), .raw, nil).numbers
        let pack = blobs[0].pack
        var model: [BlobNumber: UInt64] = [blobs[0]: 1, blobs[1]: 2, blobs[2]: 3, blobs[3]: 4, blobs[4]: 5]
        for (fault, slot) in [(FaultyPackStore.Fault.before, 2), (.after, 4)] {
            let current = PackVersion(pack, try #require(versions.state(of: pack).current))
            let change = PackRewrite(from: current, dropped: [slot])
            store.fail(fault)
            #expect(throws: Failure.self) { try store.rewrite([change], versions) }
            try Self.expect(model, try store.snapshot(versions))
            let done = try store.rewrite([change], versions)
            #expect(done.map(\.new) == [current.version + (fault == .after ? 2 : 1)])
            versions.makeCurrent(done)
            model[blobs[slot]] = nil
            try Self.expect(model, try store.snapshot(versions))
            store.fail(fault)
            #expect(throws: Failure.self) { try store.sweep(versions) }
            try Self.expect(model, try store.snapshot(versions))
            try store.sweep(versions)
            try Self.expect(model, try store.snapshot(versions))
            #expect(try store.loose(from: 0, limit: 9).isEmpty)
        }
        // Of a pack that goes, whichever call it is of which nobody hears.
        let current = PackVersion(pack, try #require(versions.state(of: pack).current))
        versions.makeCurrent(try store.rewrite([PackRewrite(from: current, dropped: Set(0..<5))], versions))
        for faults in [[FaultyPackStore.Fault.after], [.none, .after]] {
            if faults.count == 1 { store.fail(faults[0]) } else { store.fail(faults[0], faults[1]) }
            _ = try? store.sweep(versions)
            #expect(try store.snapshot(versions).count == 0)
        }
        store.fail()
        try store.sweep(versions)
        #expect(try store.source().last(before: .max) == nil)
        #expect(try store.loose(from: 0, limit: 9).isEmpty && versions.state(of: pack) == .sealed)
    }
}
