import BlockModel
import Glibc
import System
import Testing
import TestSupport

@testable import Hashing
@testable import Index
@testable import LMDB
@testable import Packs
@testable import Store

/// What a store tells.
@Suite struct EventTests {
    let scratch: ScratchDirectory
    let heard = HeardEvents()
    let store: Store

    init() throws {
        scratch = try ScratchDirectory()
        store = try Store(path: scratch.path + "/store", creating: true, events: heard.events)
    }

    /// However often it is read, by however many.
    @Test func aDamagedBlockAndItsHealing() throws {
        let blocks = (1...20).map { HealingTests.soft($0) }
        try store.write("a", blocks)
        var bytes = try store.bytes(ofPack: 1)
        let place: UInt32 = bytes.rawBytes.load(at: PackFormat.headerSize + 3 * PackFormat.entrySize + 40)
        let stored = Int(place & 0xffff) * 16
        bytes[stored] ^= 1
        try store.put(pack: 1, bytes)
        for _ in 0..<3 { #expect(throws: Failure.self) { try SharingTests.read("a", of: store, blocks: 20) } }
        let damaged = heard.all(.damage)
        #expect(damaged.count == 1 && damaged[0].subject == .disk("a") && damaged[0].text.contains("block 3"), "\(damaged)")
        #expect(heard.events.counters.damagedReads.value == 3)
        try store.write("b", Array(blocks[0..<5]))
        #expect(heard.all(.healing).map { "\($0)" } == ["store \(store.path): 1 damaged block has its data again: the same was written"])
        #expect(heard.events.counters.healedBlobs.value == 1)
        // It rots again.
        bytes = try store.bytes(ofPack: 1)
        bytes[stored] ^= 1
        try store.put(pack: 1, bytes)
        #expect(throws: Failure.self) { try SharingTests.read("a", of: store, blocks: 20) }
        #expect(heard.all(.damage).count == 2)
    }

    @Test func aFilterThatIsMadeAnew() throws {
        try store.write("a", (1...20).map { HealingTests.soft($0) })
        #expect(heard.all(.filterRebuild).isEmpty, "of an empty store")
        do {
            // As after a crash: what is there is not to be trusted.
            let lock = try WriteTransaction(store.meta)
            try store.parts.index.retireFilter()
            lock.abort()
        }
        try store.write("b", [HealingTests.soft(100)])
        let told = heard.all(.filterRebuild)
        #expect(told.count == 2 && told[0].phase == .begins && told[0].text.contains("20 blobs") && told[1].times == 1, "\(told)")
        #expect(heard.events.counters.filterRebuilds.value == 1)
        try store.write("c", [HealingTests.soft(101)])
        #expect(heard.all(.filterRebuild).count == 2)
    }

    private func retireFilter() throws {
        let lock = try WriteTransaction(store.meta)
        try store.parts.index.retireFilter()
        lock.abort()
    }

    private func put(bucket bytes: [UInt8]) throws {
        var writing = try WriteTransaction(store.meta)
        try writing.put(store.parts.index.index, 0, count: bytes.count) { $0.copy(bytes.rawBytes, to: 0) }
        try writing.commit()
    }

    /// What can't be made anew is told once, however often it is tried.
    @Test func aFilterThatCannotBeMadeAnew() throws {
        try store.write("a", (1...20).map { HealingTests.soft($0) })
        try store.completeIndex()
        let bucket: [UInt8]
        do {
            let reading = try ReadTransaction(store.meta)
            guard let value = try reading.view.value(store.parts.index.index, 0) else { throw Failure(.damage, "the index", "empty") }
            bucket = [UInt8](count: value.byteCount) { $0.copy(value, to: 0) }
        }
        var bad = bucket
        bad[40] ^= 1
        try put(bucket: bad)
        try retireFilter()
        for _ in 0..<3 { #expect(throws: Failure.self) { try store.write("b", [HealingTests.soft(100)]) } }
        #expect(heard.all(.filterRebuild).map(\.phase) == [.begins])
        #expect(heard.events.counters.filterRebuilds.value == 0)
        try put(bucket: bucket)
        try store.write("b", [HealingTests.soft(100)])
        let told = heard.all(.filterRebuild)
        #expect(told.count == 2 && told[1].times == 4, "\(told)")
        #expect(heard.events.counters.filterRebuilds.value == 1)
    }

    /// A block whose pack is gone is damage as any.
    @Test func aBlockThatIsMissing() throws {
        try store.write("a", [HealingTests.soft(1)])
        let table = try store.packTable
        var writing = try WriteTransaction(table.environment)
        _ = try writing.remove(table.packs, PackVersion(1, 0).key)
        try writing.commit()
        for _ in 0..<2 { #expect(throws: Failure.self) { try SharingTests.read("a", of: store, blocks: 1) } }
        #expect(heard.all(.damage).map(\.text) == ["block 0 is damaged: blob 1/0 is missing"])
        #expect(heard.events.counters.damagedReads.value == 2)
    }

    /// A directory in the filter's place keeps it from having a file.
    @Test func aFilterWithoutAFile() throws {
        let path = store.path + "/filter"
        func makeAnew() throws {
            let lock = try WriteTransaction(store.meta)
            try store.parts.index.retireFilter()
            lock.abort()
            try store.write("a", [HealingTests.soft(Int.random(in: 1000..<60_000))])
        }
        try store.write("a", [HealingTests.soft(1)])
        do {
            let lock = try WriteTransaction(store.meta)
            try store.parts.index.retireFilter()
            lock.abort()
        }
        unsafe unlink(path)
        unsafe mkdir(path, 0o700)
        for _ in 0..<3 { try makeAnew() }
        #expect(heard.all(.filterPrivate).map(\.phase) == [.begins])
        unsafe rmdir(path)
        try makeAnew()
        #expect(heard.all(.filterPrivate).count == 2 && heard.all(.filterPrivate)[1].times == 3, "\(heard.all(.filterPrivate))")
    }

    @Test func aLockThatAnotherHolds() throws {
        let other = try Store(path: store.path)
        let hold = try other.lockFile.hold(.collecting(0))
        let waiting = try Thread("waiting") { [store] in _ = try? store.lockFile.hold(.collecting(0)) }
        #expect(heard.wait(for: 1, .lockWait).map(\.phase) == [.begins])
        #expect(heard.all(.lockWait)[0].text.contains("waiting for the right to collect: held for"))
        usleep(300_000)
        _ = consume hold
        waiting.join()
        let told = heard.all(.lockWait)
        #expect(told.count == 2 && told[1].times == 1 && told[1].text == "no longer waiting for the right to collect", "\(told)")
        #expect(heard.events.counters.lockWaits.value == 1)
    }

    /// Whose patience ends before that, is told of as well.
    @Test func aLockThatIsGivenUp() throws {
        let other = try Store(path: store.path)
        let hold = try other.lockFile.hold(.collecting(0))
        // It is told behind a second, by who may come to that some seconds late.
        let patience = Patience(limit: 6, reporter: store.reporter)
        #expect(throws: Failure.self) { _ = try store.lockFile.hold(.collecting(0), patience) }
        #expect(heard.all(.lockWait).map { $0.phase == .begins } == [true, false])
        _ = consume hold
    }

    /// That it is given up for a step, behind which it is filled again, is no news.
    @Test func theReserve() throws {
        store.reserve.giveUp()
        store.reserve.giveUp()
        try store.write("a", [HealingTests.soft(1)])
        try store.write("a", [HealingTests.soft(2)])
        #expect(store.reserve.isWhole)
        #expect(heard.all(.reserve).isEmpty)
    }

    #if arch(x86_64)
        @Test func hashingThatFailed() throws {
            MultiBuffer.hasFailed.store(true, ordering: .relaxed)
            defer { MultiBuffer.hasFailed.store(false, ordering: .relaxed) }
            for number in 1...3 { try store.write("a", [HealingTests.soft(number)]) }
            #expect(heard.all(.hashing).map(\.phase) == [.begins])
        }
    #endif
}
