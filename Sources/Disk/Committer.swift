internal import BlockModel
internal import Catalogue
internal import Glibc
internal import Hashing
internal import Store
internal import System

/// Takes what is staged into the store, a generation at a time, on two threads of its own: one has the blocks of the next
/// generation hashed while the other commits the last one.
final class Committer: Sendable {
    let store: Store
    let diskName: String
    let journal: JournalWriter
    let staging: Monitor<Staging>
    /// For the store's lock, until the disk is closed: what guests wait for must not fail because another process is slow.
    let patience: Patience
    /// Hears of the disk.
    let reporter: Reporter
    private let retry, leftover, roomWait: Condition

    /// Journal bytes that make a generation worth a commit by themselves.
    private let fullGeneration: UInt64
    /// Seconds between tries of a commit that failed.
    private static let retryInterval = 1.0
    /// Of its threads: on the only processor, a request that somebody waits for goes before what has a second's time. Where
    /// there are more, nobody waits for them, and they would be late.
    private static let niceness: Int32 = sysconf(Int32(_SC_NPROCESSORS_ONLN)) == 1 ? 10 : 0

    /// - Parameter record: the disk's.
    init(_ store: Store, _ record: DiskRecord, _ journal: consuming Journal) {
        self.store = store
        diskName = record.name
        fullGeneration = journal.capacity / 4
        reporter = Reporter(store.events, .disk(record.name))
        self.journal = JournalWriter(journal, of: record.name, head: record.journal, reporter)
        patience = store.patience.endless()
        staging = Monitor(Staging(end: record.journal))
        retry = reporter.condition(.commitRetry)
        leftover = reporter.condition(.journalLeft)
        roomWait = reporter.condition(.roomWait)
    }

    /// Whether a generation should not wait any longer.
    func isFull(_ generation: Generation) -> Bool {
        generation.recordBytes >= fullGeneration || generation.blockCount >= Generation.maximumBlocks / 2
    }

    /// Starts its threads, which end when the staging closes.
    func start() throws(Failure) -> [Thread] {
        let hashing = try Thread("hash", niceness: Self.niceness) { self.runHashing() }
        do throws(Failure) {
            return [hashing, try Thread("commit", niceness: Self.niceness) { self.runCommitting() }]
        } catch {
            staging.with { $0.isClosing = true }
            staging.notify()
            hashing.join()
            throw error
        }
    }

    /// Has its threads work until `condition` holds.
    /// - Throws: why they can't.
    func drain(until condition: (Staging) -> Bool) throws(Failure) {
        staging.with { $0.waiting += 1 }
        staging.notify()
        defer { staging.with { $0.waiting -= 1 } }
        try staging.wait { (state) throws(Failure) in
            if condition(state) { return .done(()) }
            if let failure = state.failure { throw failure }
            return .notified
        }
    }

    // MARK: Hashing

    /// Hashes generations until the staging closes, then what is left.
    func runHashing() {
        var batches: [Batch] = []
        for _ in 0..<Staging.maximumFrozen {
            do throws(Failure) { batches.append(try Batch(store)) } catch { return fail(error) }
        }
        staging.with { $0.hashingRate = Self.hashingRate() }
        var turn = 0
        while let generation = nextGeneration() {
            // The last batch that was this one is committed: its generation is frozen no more.
            let batch = batches[turn]
            turn = (turn + 1) % batches.count
            let began = monotonicSeconds()
            do throws(Failure) {
                try hash(generation, in: batch)
            } catch {
                // What has no digest yet gets one when it is committed.
            }
            let rate = Double(generation.recordBytes) / (monotonicSeconds() - began)
            staging.with { state in
                // Of few blocks, it would be chance.
                if generation.recordBytes >= 1 << 20 { state.hashingRate = rate }
                state.hashed.append((generation, batch))
            }
            staging.notify()
        }
        staging.with { $0.isHashingDone = true }
        staging.notify()
    }

    /// Bytes a second that one processor hashes, tried for some microseconds.
    private static func hashingRate() -> Double {
        let block = [UInt8](repeating: 1, count: blockSize)
        do throws(Failure) {
            let hasher = try SHA256()
            // The first finds nothing in the processor's caches.
            _ = try hasher.digest(block.rawBytes)
            let began = monotonicSeconds()
            for _ in 0..<8 { _ = try hasher.digest(block.rawBytes) }
            return Double(8 * blockSize) / (monotonicSeconds() - began)
        } catch {
            // Whoever hashes a generation is told.
            return 0
        }
    }

    /// Nothing can be hashed: the journal keeps what comes.
    private func fail(_ failure: Failure) {
        retry.met("its writes can't go into the store before it is opened again, and stay in its journal", because: failure)
        staging.with { state in
            state.failure = failure
            state.isHashingDone = true
        }
        staging.notify()
    }

    /// Waits for work and freezes it. Nil: the staging closes, and is empty or cannot be emptied.
    private func nextGeneration() -> Generation? {
        staging.wait { state in
            if state.isGivenUp { return .done(nil) }
            if state.isClosing {
                // What failed is tried once more: that tells whether the rest is worth its hashes.
                if state.failure != nil { return .notified }
                if state.active.isEmpty && state.unhashed.isEmpty { return .done(nil) }
            }
            if state.batched >= Staging.maximumFrozen { return .notified }
            if !state.unhashed.isEmpty { return .done(state.unhashed.removeFirst()) }
            // Records without a block leave nothing to commit.
            if state.active.isEmpty { return .notified }
            if !state.isClosing, state.waiting == 0, !self.isFull(state.active) || state.patience == .infinity {
                let left = state.active.began + state.patience - monotonicSeconds()
                if left > 0 { return .atMost(left) }
            }
            state.freeze()
            return .done(state.unhashed.removeFirst())
        }
    }

    /// Hashes the blocks where they lie in the journal, which nobody writes over before they are in the map.
    private func hash(_ generation: Generation, in batch: Batch) throws(Failure) {
        batch.removeAll()
        for (block, place) in generation.sorted() {
            if place == Generation.discarded {
                batch.appendUnmapped(block)
            } else {
                unsafe batch.append(block, lending: journal.address(ofBlockAt: place))
            }
        }
        try batch.hash()
    }

    // MARK: Committing

    /// Commits what is hashed, until nothing more will be.
    func runCommitting() {
        while let (generation, batch) = nextHashed() {
            slowDown()
            do throws(Failure) {
                try store.commit(batch, to: diskName, journal: generation.end, copies: generation.copies, patience)
                finish(nil)
            } catch {
                finish(error)
            }
        }
    }

    /// Waits a little when blobs die faster than they can be collected.
    private func slowDown() {
        let seconds = store.pauseBeforeCommit
        guard seconds > 0 else { return }
        let end = monotonicSeconds() + seconds
        staging.wait { state in
            let left = end - monotonicSeconds()
            return state.isClosing || left <= 0 ? .done(()) : .atMost(left)
        }
    }

    /// The oldest hashed generation. Nil: there will be none, or it can't be committed and the staging closes: the journal keeps it all.
    private func nextHashed() -> (Generation, Batch)? {
        staging.wait { state in
            if state.isGivenUp { return .done(nil) }
            if let first = state.hashed.first {
                if state.isClosing {
                    // How this try ends is what counts.
                    state.isTriedAtEnd = true
                    state.failure = nil
                }
                return .done(first)
            }
            return state.isHashingDone ? .done(nil) : .notified
        }
    }

    private func finish(_ failure: Failure?) {
        let isGivenUp = staging.with { state in
            state.failure = failure
            if let failure { state.giveUpCopies(because: failure) }
            if failure == nil {
                state.hashed.removeFirst()
                // Under the lock that whoever reads a staged block has.
                journal.release(state.finishOldest())
            }
            return state.isGivenUp
        }
        staging.notify()
        // Behind it, as those who wait for room need not wait for whoever hears of it.
        if let failure { noteFailure(failure, isLast: isGivenUp) } else { noteSuccess() }
        if failure != nil {
            // Another try after a while; at once when the staging closes.
            let until = monotonicSeconds() + Self.retryInterval
            staging.wait { state in
                let left = until - monotonicSeconds()
                return state.isClosing || left <= 0 ? .done(()) : .atMost(left)
            }
        }
    }

    // MARK: Telling

    /// - Parameter isLast: the disk closes.
    private func noteFailure(_ failure: Failure, isLast: Bool) {
        reporter.counters.failedCommits.add()
        retry.met("its last writes stay in its journal, and are tried again \(isLast ? "when it is opened again" : "each second")", because: failure)
    }

    /// What was staged, or left, is in the map.
    func noteSuccess() {
        retry.over("its writes go into the store again")
        noteNoLeftover()
    }

    func noteNoLeftover() { leftover.over("what was left in its journal is in the store") }

    /// What an interrupted writer left is in the map.
    func noteReplay(_ records: Int, _ byteCount: UInt64) {
        reporter.counters.replayedRecords.add(records)
        reporter.counters.replayedBytes.add(Int(byteCount))
        reporter.tell(
            .journalReplay,
            "\(records) record\(records == 1 ? "" : "s") of its journal, \(byteCount) bytes, that an interrupted writer left went into the store")
    }

    /// It stays in the journal.
    /// - Parameter failure: why; nil: who only reads takes nothing in.
    func noteLeftover(_ failure: Failure? = nil) { leftover.met("what an interrupted writer left in its journal is read there", because: failure) }

    // MARK: Waiting for room

    /// Whether writes that find no room wait: whoever serves the disk has said that they may, and the store's owner wants it.
    func waitsForRoom() throws(Failure) -> Bool {
        guard staging.with({ $0.mayWaitForRoom }) != nil else { return false }
        return try store.settings().whenFull == .wait
    }

    /// Waits until commits come through again, for a second at most: a journal's file gets room without one.
    /// - Parameter failure: what there was no room for.
    /// - Throws: `.interrupted` when nobody may wait any more.
    func waitForRoom(_ failure: Failure) throws(Failure) {
        roomWait.met("its writes wait for room", because: failure)
        let isFailing = staging.with { $0.failure != nil }
        let until = monotonicSeconds() + Self.retryInterval
        try staging.wait { (state) throws(Failure) in
            guard state.mayWaitForRoom == true else {
                throw Failure(.interrupted, "write to", .disk(diskName), "it waited for room, and whoever serves the disk ends", cause: failure)
            }
            let left = until - monotonicSeconds()
            return left <= 0 || isFailing && state.failure == nil ? .done(()) : .atMost(left)
        }
    }

    func noteRoom() { roomWait.over("its writes go on") }

    // MARK: Here and now

    /// Hashes and commits a generation on the calling thread.
    func commit(_ generation: Generation) throws(Failure) {
        let batch = try Batch(store)
        try hash(generation, in: batch)
        try store.commit(batch, to: diskName, journal: generation.end)
    }
}
