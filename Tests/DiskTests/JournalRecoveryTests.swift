import BlockModel
import Store
import System
import Testing
import TestSupport

@testable import Disk

/// A disk over a journal of each kind, whose process dies, and which the next one takes in.
@Suite struct JournalRecoveryTests {
    let scratch: ScratchDirectory
    let store: Store

    init() throws {
        scratch = try ScratchDirectory()
        store = try Store(path: scratch.path + "/store", creating: true)
        try store.create("d", byteCount: 4 << 20)
    }

    /// The disk, and what its journal lies in.
    private func open(
        _ kind: JournalPlace.Kind, _ memory: MemoryJournal, reads: Int? = nil, name: String = "d"
    ) throws(Failure) -> (StoreDisk, FaultyJournalStorage) {
        var storage: FaultyJournalStorage?
        let disk = try StoreDisk(store, name, journalBytes: 4 << 20) { (file, capacity) throws(Failure) in
            let faulty = FaultyJournalStorage(
                kind == .file ? try FileJournalStorage(file, byteCount: capacity) : MemoryJournalStorage(memory, byteCount: capacity, lock: file))
            if let reads { faulty.fail(.read, behind: reads) }
            storage = faulty
            return faulty
        }
        return (disk, storage!)
    }

    /// What the journal has at this moment.
    private static func content(_ storage: FaultyJournalStorage) throws(Failure) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Int(try storage.byteCount()))
        _ = try bytes.withMutableBytes { (bytes) throws(Failure) in try storage.read(at: 0, into: &bytes) }
        return bytes
    }

    private func restore(_ bytes: [UInt8], _ kind: JournalPlace.Kind, _ memory: MemoryJournal) throws {
        if kind == .memory {
            memory.bytes = bytes
        } else {
            let number = try #require(try store.disk("d")).number
            try File(path: "\(store.path)/journals/\(number)", options: [.write]).write(at: 0, bytes.rawBytes)
        }
    }

    @Test(arguments: JournalPlace.Kind.allCases, 0..<3 as Range<UInt64>)
    func whatWasAcknowledgedIsTakenIn(kind: JournalPlace.Kind, seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        var model = ModelDisk(sectors: 8192)
        let memory = MemoryJournal()
        for _ in 0..<6 {
            let (disk, storage) = try open(kind, memory)
            disk.holdBack()
            let start = try #require(try store.disk("d")).journal
            #expect(try disk.contents() == model.bytes, "seed \(seed)")
            // What is in the map before goes with the rest.
            try disk.discard(#require(SectorRange(start: 0, count: 8192)))
            model = ModelDisk(sectors: 8192)
            for step in 0..<12 {
                // A write that fails changes nothing, and is in nobody's way.
                if step % 4 == 3 {
                    storage.fail(.write, step % 8 == 3 ? .after : .short(6000))
                    #expect(throws: FaultyJournalStorage.failure) { try disk.write(at: 8, block(1) + block(2)) }
                }
                _ = try RandomStep(&random, sectors: 8192, longest: 64).run(on: disk, &model)
            }
            let left = try Self.content(storage)
            try disk.close()
            // As if none of it were in the map.
            try store.unmap("d", from: 0, to: 1024)
            try store.note(start, of: "d")
            try restore(left, kind, memory)
        }
        let (disk, _) = try open(kind, memory)
        #expect(try disk.contents() == model.bytes, "seed \(seed)")
        try disk.close()
        #expect(try store.check(readData: true, repair: false) { _, _ in }.problems == [])
    }

    /// A write that failed and is on the disk does not come back over blocks that were discarded since.
    @Test(arguments: 0..<4 as Range<UInt64>) func aWriteThatFailedDoesNotComeBack(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        try store.create("large", byteCount: 32 << 20)
        let memory = MemoryJournal()
        let (disk, storage) = try open(.memory, memory, name: "large")
        try disk.write(at: 0, block(1))
        storage.fail(.write, .after, .before)
        #expect(throws: FaultyJournalStorage.failure) { try disk.write(at: 0, block(2)) }
        // The system writes back when it likes.
        try storage.below.synchronize()
        try disk.discard(#require(SectorRange(start: 0, count: 32 << 11)))
        try disk.flush()
        memory.losePower(using: &random)
        let left = memory.bytes
        try disk.close()
        memory.bytes = left
        let (again, _) = try open(.memory, memory, name: "large")
        #expect(try again.sectors(at: 0, count: 8) == [UInt8](repeating: 0, count: blockSize), "seed \(seed)")
        try again.close()
    }

    /// Where all is zeros already, a discard of less than a block needs no room; not where a write that failed may be on the disk.
    @Test(arguments: JournalPlace.Kind.allCases) func aDiscardIsNotAcknowledgedOverAWriteThatFailed(kind: JournalPlace.Kind) throws {
        let (disk, storage) = try open(kind, MemoryJournal())
        let part = try #require(SectorRange(start: 1, count: 2))
        storage.fail(.write, .full)
        try disk.discard(part)
        storage.fail(.write, .after, .full, .full)
        #expect(throws: FaultyJournalStorage.failure) { try disk.write(at: 0, block(1)) }
        #expect(throws: FaultyJournalStorage.noRoom) { try disk.discard(part) }
        try disk.discard(part)
        #expect(try disk.sectors(at: 0, count: 8) == [UInt8](repeating: 0, count: blockSize))
        try disk.close()
    }

    /// A journal that can't be read now is taken in later, whole.
    @Test(arguments: JournalPlace.Kind.allCases) func aJournalThatCannotBeReadNow(kind: JournalPlace.Kind) throws {
        let memory = MemoryJournal()
        let (disk, storage) = try open(kind, memory)
        disk.holdBack()
        let start = try #require(try store.disk("d")).journal
        for number in 0..<10 as Range<UInt64> { try disk.write(at: number * 16, block(number + 1)) }
        let left = try Self.content(storage)
        try disk.close()
        // As if none of it were in the map.
        try store.unmap("d", from: 0, to: 1024)
        try store.note(start, of: "d")
        try restore(left, kind, memory)
        for reads in [0, 1, 5, 12] {
            #expect(throws: FaultyJournalStorage.failure) { _ = try open(kind, memory, reads: reads) }
        }
        #expect(try store.statistics().mappedBytes == 0)
        let (again, _) = try open(kind, memory)
        for number in 0..<10 as Range<UInt64> { #expect(try again.sectors(at: number * 16, count: 8) == block(number + 1)) }
        try again.close()
    }

    /// After a sync that failed, nothing is accepted any more, and what was acknowledged is taken in by the next.
    @Test(arguments: JournalPlace.Kind.allCases) func aDiskWhoseSyncFailed(kind: JournalPlace.Kind) throws {
        let memory = MemoryJournal()
        let (disk, storage) = try open(kind, memory)
        disk.holdBack()
        try disk.write(at: 0, block(1))
        storage.fail(.synchronize, .after)
        #expect(throws: Failure.self) { try disk.flush() }
        #expect(throws: Failure.self) { try disk.write(at: 0, block(2)) }
        #expect(throws: Failure.self) { try disk.flush() }
        try? disk.close()
        let (again, _) = try open(kind, memory)
        #expect(try again.sectors(at: 0, count: 8) == block(1))
        try again.close()
    }
}
