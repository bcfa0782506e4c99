import BlockModel
import Packs
import System
import Testing
import TestSupport

@testable import Store

/// What maintenance does without anybody at the keyboard.
@Suite struct MaintenanceTests {
    let scratch: ScratchDirectory
    let store: Store

    init() throws {
        scratch = try ScratchDirectory()
        store = try Store(path: scratch.path + "/store", creating: true)
    }

    private func check(_ note: Comment = "") throws { #expect(try store.check(readData: true, repair: false) { _, _ in }.problems == [], note) }

    /// Waits for what a thread does.
    private func expectSoon(_ note: Comment, _ isTrue: () throws -> Bool) throws {
        // Where others want the processors, it goes behind them.
        let isSo = try waitUntil(limit: 600, isTrue)
        #expect(isSo, note)
    }

    @Test func spaceComesBackByItself() throws {
        try store.write("keep", (1...500).map { block($0) })
        try store.write("gone", (400...4000).map { block($0) })
        let full = try store.storedBytes()
        let maintainer = Maintainer(store)
        try maintainer.start()
        defer { maintainer.stop() }
        try store.delete(store.lock("gone"))
        try expectSoon("reclaimed") { try store.statistics().reclaimableBytes == 0 }
        try expectSoon("given back") { try store.storedBytes() < full - 3000 * 4096 }
        #expect(try SharingTests.read("keep", of: store, blocks: 500) == (1...500).flatMap { block($0) })
        try check()
    }

    @Test func itIsLeftToOthersWhereSomebodySaysSo() throws {
        try store.change { $0.isMaintained = false }
        try store.write("gone", (1...2000).map { block($0) })
        let maintainer = Maintainer(store)
        try maintainer.start()
        defer { maintainer.stop() }
        try store.delete(store.lock("gone"))
        pause(milliseconds: 8000)
        #expect(try store.statistics().reclaimableBytes == 2000 * 4096)
        try store.change { $0.isMaintained = true }
        try expectSoon("reclaimed") { try store.statistics().reclaimableBytes == 0 }
    }

    /// Whoever asks for a collection gets it, though another process maintains the store; one that is stopped is not waited for.
    @Test func twoAtOnce() throws {
        try store.write("gone", (1...2000).map { block($0) })
        try store.delete(store.lock("gone"))
        var one = try GarbageCollection(store)
        _ = try one.step()
        let busy = try #require(throws: Failure.self) {
            _ = try GarbageCollection(store, Patience(limit: 0.1, limitWhenStopped: 0.1))
        }
        #expect(busy.kind == .busy)
        while try !one.step().isOver {}
        _ = consume one
        #expect(try store.collect(shouldStop: { false }) { _, _ in } == 0)
    }

    // MARK: Another codec

    /// A block that compresses, and another for each number.
    private static func soft(_ number: UInt64) -> [UInt8] {
        [UInt8](count: blockSize) { bytes in
            for offset in stride(from: 0, to: blockSize, by: 8) { bytes.store(number &+ UInt64(offset / 512), at: offset) }
        }
    }

    @Test func whatIsColdIsCompressed() throws {
        try store.change { $0.compression = .background }
        // Some that gain nothing between the others.
        let content = { (number: UInt64) in number % 5 == 0 ? block(number) : Self.soft(number) }
        try store.write("a", (1...3000).map(content))
        try store.write("b", (2500...4000).map(content))
        let before = try store.storedBytes()
        try store.delete(store.lock("b"))
        _ = try store.collect(shouldStop: { false }) { _, _ in }
        let after = try store.storedBytes()
        #expect(after < before / 2)
        #expect(try SharingTests.read("a", of: store, blocks: 3000) == (1...3000).flatMap(content))
        try check()
        let rewrites = try store.superblock().rewrites
        _ = try store.collect(shouldStop: { false }) { _, _ in }
        #expect(try store.superblock().rewrites == rewrites, "what was compressed is left alone")
        // It is found again, and what comes is compressed in its turn.
        try store.write("c", (1...3500).map(content))
        #expect(try store.statistics().uniqueBytes == 3500 * 4096)
        _ = try store.collect(shouldStop: { false }) { _, _ in }
        try check()
        // What is dead by then takes as much as it says.
        try store.delete(store.lock("a"))
        try store.delete(store.lock("c"))
        #expect(try store.collect(shouldStop: { false }) { _, _ in } > 0)
        #expect(try store.statistics().reclaimableBytes == 0 && store.check(readData: false, repair: false) { _, _ in }.blobs == 0)
        try check()
    }

    /// Writers, who refer to blobs while their packs are written anew with another codec.
    @Test(arguments: 0..<4 as Range<UInt64>) func compressingBesideWriters(seed: UInt64) throws {
        try store.change { $0.compression = .background }
        let path = store.path
        let writer = { @Sendable () throws in
            var random = SeededGenerator(seed: seed)
            let store = try Store(path: path)
            for round in 0..<12 {
                let first = UInt64.random(in: 0..<2000, using: &random)
                try store.write("d\(round % 3)", (first..<first + 700).map { Self.soft($0) })
                if round % 4 == 3 { try store.delete(store.lock("d\(round % 3)")) }
            }
        }
        let collector = { @Sendable () throws in
            let store = try Store(path: path)
            for _ in 0..<12 { _ = try store.collect(shouldStop: { false }) { _, _ in } }
        }
        SharingTests.together([writer, collector])
        try check("seed \(seed)")
        _ = try store.collect(shouldStop: { false }) { _, _ in }
        try check("seed \(seed)")
    }

    /// Each level is told once, and once that it is over, whatever it does about a level.
    @Test func aFilesystemThatFillsUp() {
        let told = Monitor<[Event]>([])
        let reporter = Reporter(Events { event in told.with { $0.append(event) } }, .store("s"))
        var warning = FillWarning()
        for fill in [10, 79.9, 80, 85, 79, 80.5, 91, 89, 90, 96, 99, 95, 79, 77.9, 80] {
            warning.look(fill, freeBytes: 5 << 20, reporter)
        }
        let events = told.with { $0 }
        #expect(events.map(\.priority) == [.warning, .warning, .warning, .notice, .warning])
        #expect(
            events.map { $0.text.prefix(28) }.prefix(3) == ["its filesystem is 80% full, ", "its filesystem is 91% full, ", "its filesystem is 96% full, "])
        #expect(events.first?.description.contains("5 MiB are left") == true)
    }
}
