import BlockModel
import System
import Testing
import TestSupport

@testable import Disk
@testable import LMDB
@testable import Store

/// A guest that discards all of a large disk, again and again.
@Suite struct DiscardTests {
    let scratch: ScratchDirectory
    let store: Store

    init() throws {
        scratch = try ScratchDirectory()
        store = try Store(path: scratch.path + "/store", creating: true)
        try store.create("d", byteCount: 16 << 40)
    }

    /// Which commit is the last.
    private func lastCommit() throws -> Int { try ReadTransaction(store.meta).id }

    @Test func takesACommitOnlyWhereSomethingIs() throws {
        let disk = try StoreDisk(store, "d")
        let whole = try #require(SectorRange(start: 0, count: disk.sectorCount))
        let places = [0, 1 << 20, disk.sectorCount - 8]
        for round in 1...3 as ClosedRange<UInt64> {
            for place in places { try disk.write(at: place, block(round)) }
            try disk.discard(whole)
            for place in places { #expect(try disk.sectors(at: place, count: 8).allSatisfy { $0 == 0 }) }
            let before = try lastCommit()
            for _ in 0..<100 { try disk.discard(whole) }
            #expect(try lastCommit() == before)
        }
        try disk.close()
        #expect(try store.statistics().mappedBytes == 0)
        #expect(try store.check(readData: true, repair: false) { _, _ in }.problems == [])
    }

    /// A discard of much that is mapped takes many commits, and between any two of them whoever waits has the store's lock.
    @Test func leavesOthersTheirTurn() throws {
        let commits = 40
        let disk = try StoreDisk(store, "d")
        // A block in each leaf, and 128 leaves are a commit.
        for leaf in 0..<UInt64(128 * commits) { try disk.write(at: leaf * 512 * 8, block(1)) }
        try disk.committer.drain { $0.isEmpty }
        let whole = try #require(SectorRange(start: 0, count: disk.sectorCount))

        var holder = try Holder(store)
        try waitUntil { holder.hasIt }
        let isOver = Monitor(false)
        let discarding = try Thread("discard") {
            try? disk.discard(whole)
            isOver.with { $0 = true }
        }
        var turns = 0
        while true {
            try waitUntil { waiters == 1 || isOver.with { $0 } }
            if isOver.with({ $0 }) { break }
            // Behind the discard, which is not to have it twice in a row then.
            let next = try Holder(store)
            try waitUntil { waiters == 2 }
            let before = try lastCommit()
            holder.letGo()
            try waitUntil { next.hasIt }
            #expect(try lastCommit() == before + 1, "turn \(turns)")
            turns += 1
            holder = next
        }
        holder.letGo()
        discarding.join()
        #expect(turns >= commits)
        try disk.close()
        #expect(try store.statistics().mappedBytes == 0)
    }

    /// Threads that wait for the store's lock.
    private var waiters: Int { store.lockFile.waiters(.writing(0)) }

    /// Waits for what other threads do.
    private func waitUntil(_ isSo: () -> Bool) throws {
        let end = monotonicSeconds() + 600
        while !isSo() {
            try #require(monotonicSeconds() < end)
            pause(milliseconds: 1)
        }
    }
}

/// Has the store's lock, on a thread of its own, until it is told to let go.
private final class Holder: Sendable {
    private let state: Monitor<(hasIt: Bool, mayEnd: Bool)>
    private let thread: Thread

    init(_ store: Store) throws {
        let state = Monitor((hasIt: false, mayEnd: false))
        self.state = state
        thread = try Thread("holder") {
            do {
                let lock = try WriteTransaction(store.meta)
                state.with { $0.hasIt = true }
                let end = monotonicSeconds() + 600
                state.wait { $0.mayEnd || monotonicSeconds() > end ? .done(()) : .atMost(1) }
                lock.abort()
            } catch {
                // Whoever waits for it to have the lock is told that it has not.
            }
        }
    }

    var hasIt: Bool { state.with { $0.hasIt } }

    func letGo() {
        state.with { $0.mayEnd = true }
        state.notify()
        thread.join()
    }
}
