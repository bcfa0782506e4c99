internal import BlockModel
internal import Store

/// Takes what is staged into the store, a generation at a time, on a thread of its own.
final class Committer: Sendable {
    let store: Store
    let diskName: String
    let journal: Journal
    let staging: Monitor<Staging>

    /// Journal bytes that make a generation worth a commit by themselves.
    private let fullGeneration: UInt64
    /// Seconds that a staged block waits at most.
    private static let patience = 1.0
    /// Seconds between tries of a commit that failed.
    private static let retryInterval = 1.0
    /// Blocks in one commit: 8 MiB.
    private static let batchBlocks = 2048

    init(store: Store, diskName: String, journal: consuming Journal, end: JournalPosition) {
        self.store = store
        self.diskName = diskName
        fullGeneration = journal.capacity / 4
        self.journal = journal
        staging = Monitor(Staging(end: end))
    }

    /// Whether a generation of that many journal bytes should not wait any longer.
    func isFull(_ generation: Generation) -> Bool { generation.journalBytes >= fullGeneration }

    /// Commits until the staging closes, then what is left.
    func run() {
        while let generation = nextGeneration() {
            do throws(Failure) {
                try commit(generation)
                finish(nil)
            } catch {
                finish(error)
            }
        }
    }

    /// Waits for work and freezes it. Nil: the staging closes, and is empty or cannot be emptied.
    private func nextGeneration() -> Generation? {
        try? staging.wait { state in
            if state.isClosing, state.isEmpty || state.failure != nil { return .done(nil) }
            if !state.frozen.isEmpty { return .done(state.frozen) }  // a commit that failed
            if state.active.isEmpty {
                // Records without a block leave nothing to commit.
                return .notified
            }
            if !state.isClosing, !state.isWanted, !self.isFull(state.active) {
                let left = state.active.began + Self.patience - monotonicSeconds()
                if left > 0 { return .atMost(left) }
            }
            let end = state.active.end
            state.frozen = state.active
            state.active = Generation(end: end)
            return .done(state.frozen)
        }
    }

    private func finish(_ failure: Failure?) {
        try? staging.withLock { state in
            state.failure = failure
            if failure == nil {
                state.frozen = Generation(end: state.frozen.end)
                if state.isEmpty { state.isWanted = false }
            }
        }
        staging.notify()
        if failure != nil {
            // Another try after a while, or at once when the staging closes.
            let until = monotonicSeconds() + Self.retryInterval
            try? staging.wait { state in
                let left = until - monotonicSeconds()
                return state.isClosing || left <= 0 ? .done(()) : .atMost(left)
            }
        }
    }

    /// Enters a generation in the map. Only the last commit moves the journal's mark: after a crash between two,
    /// the whole generation is entered again, to the same end.
    func commit(_ generation: Generation) throws(Failure) {
        let batch = try Batch(capacity: min(Self.batchBlocks, max(1, generation.places.count)))
        for (block, place) in generation.places.sorted(by: { $0.key < $1.key }) {
            if batch.isFull {
                try store.commit(batch, to: diskName)
                batch.removeAll()
            }
            if place == Generation.discarded {
                batch.appendUnmapped(block)
            } else {
                try batch.append(block) { (room) throws(Failure) in
                    guard try journal.file.read(at: place, into: &room) == blockSize else {
                        throw Failure(.damage, "read \(journal.file.path)", "it was cut short while in use")
                    }
                }
            }
        }
        try store.commit(batch, to: diskName, journal: generation.end)
    }
}
