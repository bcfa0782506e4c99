import BlockModel
import System
import Testing
import TestSupport

@testable import Disk

/// What every storage of journals does, whatever it keeps them in.
@Suite struct JournalStorageTests {
    let scratch: ScratchDirectory

    init() throws { scratch = try ScratchDirectory() }

    private static let capacity = 1 << 20

    private func place(_ kind: JournalPlace.Kind) -> JournalPlace { JournalPlace(kind, scratch.path + "/ring") }

    private static func read(_ storage: any JournalStorage, at offset: Int, count: Int) throws(Failure) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xee, count: count)
        let got = try bytes.withMutableBytes { (bytes) throws(Failure) in try storage.read(at: UInt64(offset), into: &bytes) }
        return Array(bytes.prefix(got))
    }

    private static func memory(_ storage: any JournalStorage, _ range: Range<Int>) -> [UInt8] {
        let memory = storage.memory
        let span = memory.bytes(at: range.lowerBound, count: range.count)
        return range.indices.map { span.load(at: $0 - range.lowerBound) }
    }

    /// Writes records of parts anywhere, against an array.
    private static func write(_ random: inout SeededGenerator, _ model: inout [UInt8], _ storage: any JournalStorage) throws {
        let sizes = (0..<Int.random(in: 1...8, using: &random)).map { _ in [0, 64, 4096, 8192].randomElement(using: &random)! }
        let bytes = (0..<sizes.reduce(0, +)).map { _ in UInt8.random(in: 0...255, using: &random) }
        let offset = Int.random(in: 0...(capacity - bytes.count) / 64, using: &random) * 64
        var parts = Gather(capacity: 8)
        var start = 0
        for size in sizes {
            unsafe parts.append(bytes.rawBytes.extracting(start..<start + size))
            start += size
        }
        try storage.write(at: UInt64(offset), &parts)
        #expect(parts.byteCount == 0)
        model.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        #expect(memory(storage, offset..<offset + bytes.count) == bytes)
    }

    @Test(arguments: JournalPlace.Kind.allCases, 0..<4 as Range<UInt64>) func whatIsWrittenIsRead(kind: JournalPlace.Kind, seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let place = place(kind)
        var model = [UInt8](repeating: 0, count: Self.capacity)
        try place.open(byteCount: UInt64(Self.capacity)).reset(to: UInt64(Self.capacity))
        for round in 0..<4 {
            // By the next process, too, with a ring of another size.
            let storage = try place.open(byteCount: UInt64(Self.capacity >> (round % 2)))
            #expect(try storage.byteCount() == UInt64(Self.capacity))
            #expect(try Self.read(storage, at: 0, count: Self.capacity) == model, "seed \(seed)")
            #expect(Self.memory(storage, 0..<Self.capacity) == model)
            for _ in 0..<20 { try Self.write(&random, &model, storage) }
            try storage.synchronize()
            #expect(try Self.read(storage, at: 0, count: Self.capacity) == model, "seed \(seed)")
            // What ends with it.
            #expect(try Self.read(storage, at: Self.capacity - 100, count: 4096) == Array(model.suffix(100)))
            #expect(try Self.read(storage, at: Self.capacity, count: 64).isEmpty)
        }
    }

    @Test(arguments: JournalPlace.Kind.allCases) func nothingIsLeftBehindAReset(kind: JournalPlace.Kind) throws {
        let storage = try place(kind).open(byteCount: UInt64(Self.capacity))
        #expect(try storage.byteCount() == 0)
        for _ in 0..<2 {
            try storage.write(at: 4096, block(1).rawBytes)
            #expect(try storage.byteCount() >= 8192)
            try storage.reset(to: UInt64(Self.capacity))
            #expect(try Self.read(storage, at: 0, count: Self.capacity + 1) == [UInt8](repeating: 0, count: Self.capacity))
            try storage.write(at: 4096, block(2).rawBytes)
            try storage.reset(to: 0)
            #expect(try storage.byteCount() == 0)
            #expect(try Self.read(storage, at: 0, count: 64).isEmpty)
        }
    }

    @Test(arguments: JournalPlace.Kind.allCases) func onlyTheRangeIsGivenBackOrAllocated(kind: JournalPlace.Kind) throws {
        let storage = try place(kind).open(byteCount: UInt64(Self.capacity))
        for number in 0..<32 as Range<UInt64> { try storage.write(at: number * 4096, block(number + 1).rawBytes) }
        try storage.giveBack(3 * 4096..<9 * 4096)
        try storage.giveBack(20 * 4096 + 64..<20 * 4096 + 64)
        // Behind its end, it is nobody's.
        try storage.giveBack(40 * 4096..<50 * 4096)
        let end = storage.allocate(31 * 4096..<35 * 4096)
        #expect((31 * 4096...35 * 4096).contains(end))
        for number in 0..<31 where !(3..<9).contains(number) {
            #expect(try Self.read(storage, at: number * 4096, count: 4096) == block(UInt64(number + 1)), "\(number)")
        }
        // Given back is not written over by anything else.
        for number in 3..<9 {
            let bytes = try Self.read(storage, at: number * 4096, count: 4096)
            #expect(bytes == block(UInt64(number + 1)) || bytes.allSatisfy { $0 == 0 })
        }
        try storage.write(at: 5 * 4096, block(77).rawBytes)
        #expect(try Self.read(storage, at: 5 * 4096, count: 4096) == block(77))
    }

    /// What a request writes is not in a read's way, nor in a sync's.
    @Test(arguments: JournalPlace.Kind.allCases) func oneWritesAndOthersRead(kind: JournalPlace.Kind) throws {
        let storage = try place(kind).open(byteCount: UInt64(Self.capacity))
        try storage.write(at: 0, block(1).rawBytes)
        let readers = try (0..<2).map { _ in
            try System.Thread("test") {
                for _ in 0..<200 {
                    #expect((try? Self.read(storage, at: 0, count: 4096)) == block(1))
                    try? storage.synchronize()
                }
            }
        }
        for number in 1..<200 as Range<UInt64> { try storage.write(at: number * 4096, block(number + 1).rawBytes) }
        for thread in readers { thread.join() }
        for number in 0..<200 { #expect(try Self.read(storage, at: number * 4096, count: 4096) == block(UInt64(number + 1))) }
    }

    // MARK: Faults

    /// What is left of its parts was not written; all the rest is as if it had not failed, and the next try does it.
    @Test(arguments: JournalPlace.Kind.allCases, [FaultyJournalStorage.Fault.before, .after, .short(1000)])
    func aWriteThatFails(kind: JournalPlace.Kind, fault: FaultyJournalStorage.Fault) throws {
        let storage = FaultyJournalStorage(try place(kind).open(byteCount: UInt64(Self.capacity)))
        try storage.write(at: 0, block(1).rawBytes)
        let bytes = block(2)
        var parts = Gather(capacity: 1)
        unsafe parts.append(bytes.rawBytes)
        storage.fail(.write, fault)
        #expect(throws: FaultyJournalStorage.failure) { try storage.write(at: 4096, &parts) }
        #expect(parts.byteCount == (fault == .before ? 4096 : fault == .after ? 0 : 3096))
        try storage.write(at: 4096, bytes.rawBytes)
        #expect(try Self.read(storage, at: 0, count: 8192) == block(1) + block(2))
    }
}
