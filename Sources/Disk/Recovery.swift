internal import Catalogue
internal import Store
internal import System

/// What an interrupted writer left in a disk's journal, on its way into the map.
struct Recovery {
    let committer: Committer
    private var journal: JournalWriter { committer.journal }

    /// Stages what the journal holds beyond a generation's end.
    /// - Returns: how many records that are.
    @discardableResult
    func replay(into generation: Generation, limit: Int = .max) throws(Failure) -> Int {
        var records = 0
        let last = try journal.replay(from: generation.end, limit: limit) { (record, payload) throws(Failure) in
            generation.stage(record, payload: payload)
            records += 1
        }
        // A record that only says that the ring goes on elsewhere is none that anybody waits for.
        if !generation.isEmpty { generation.end = last }
        return records
    }

    /// Commits what was replayed.
    private func takeIn(_ generation: Generation, _ records: Int) throws(Failure) {
        try committer.commit(generation)
        committer.noteReplay(records, generation.recordBytes)
    }

    /// Bytes of records that are taken in at a time where there is no room for all.
    private static let leastPiece = 2 << 20

    /// Commits what the journal holds beyond the map, and begins a new era.
    /// - Parameter generation: empty, at the position that the map has; when it fails, it has what the journal still holds.
    func run(_ generation: Generation) throws(Failure) {
        let records = try replay(into: generation)
        if !generation.isEmpty {
            do throws(Failure) {
                try takeIn(generation, records)
            } catch where error.kind == .noSpace {
                try runInPieces(generation, from: generation.start)
            }
            // Whatever fails from here on, nothing is left of it to be read in the journal.
            generation.reset(end: generation.end)
        }
        try journal.turns.withLock { (turn) throws(Failure) in _ = try beginEra(after: generation.end, &turn) }
    }

    /// A piece at a time, each of which makes room for the next, as it need not be in the journal any more.
    private func runInPieces(_ generation: Generation, from start: JournalPosition) throws(Failure) {
        var start = start
        while true {
            generation.reset(end: start)
            let records = try replay(into: generation, limit: Self.leastPiece)
            if generation.isEmpty { return }
            do throws(Failure) {
                try takeIn(generation, records)
            } catch where error.kind == .noSpace {
                generation.reset(end: start)
                try replay(into: generation)
                throw error
            }
            // Room that can't be given back is no reason to take the records for lost.
            try? journal.giveBack(from: start, to: generation.end)
            start = generation.end
        }
    }

    /// All records are in the map: those that come now cannot be taken for theirs, whatever a crash leaves of the file.
    /// - Parameter patience: how long to wait for other writers; as long as others of the process when not given.
    /// - Returns: where the era begins.
    private func beginEra(after last: JournalPosition, _ turn: inout JournalWriter.Turn, _ patience: Patience? = nil) throws(Failure) -> JournalPosition {
        let start = JournalPosition(sequence: Journal.nextEra(after: last.sequence), offset: 0)
        try committer.store.note(start, of: committer.diskName, patience)
        try journal.beginEra(at: start, &turn)
        return start
    }

    /// Has what is left, and staged, committed before anything follows it.
    func finish(_ turn: inout JournalWriter.Turn) throws(Failure) {
        try committer.drain { $0.isEmpty }
        let start = try beginEra(after: turn.head, &turn, committer.patience)
        committer.staging.with { state in
            state.active.reset(end: start)
            state.committed = start.sequence
        }
    }
}
