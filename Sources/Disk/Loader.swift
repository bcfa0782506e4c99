internal import BlockModel
internal import Store

/// Takes an image into a disk that nobody else sees, past the journal: while one batch is committed on a thread of its
/// own, the next is read and named.
@safe
final class Loader: @unchecked Sendable {
    let name: String
    private let store: Store
    private let batches: [Batch]
    private let rooms: [UnsafeMutableRawBufferPointer]
    /// The batch being filled, and bytes in it.
    private var current = 0
    private var filled = 0
    private let work = Monitor<Work>(Work())
    private var thread: Thread?

    private struct Work {
        /// Waits for its commit, or is being committed.
        var batch: Batch?
        var failure: Failure?
        var isOver = false
    }

    /// Bytes of a batch.
    private static let batchBytes = 16 << 20

    init(_ store: Store, _ name: String) throws(Failure) {
        self.store = store
        self.name = name
        batches = [try Batch(), try Batch()]
        unsafe rooms = batches.map { _ in .allocate(byteCount: Self.batchBytes, alignment: blockSize) }
        thread = try Thread("commit") { [work] in Self.commit(work, store, name) }
    }

    deinit { for unsafe room in unsafe rooms { unsafe room.deallocate() } }

    /// Lets `fill` read up to `count` bytes, at most a batch, into the room for what is at `offset`, a multiple of 4096;
    /// the last block is filled up with zeros.
    /// - Returns: what `fill` does: the bytes read.
    func add(at offset: UInt64, _ count: Int, fill: (inout MutableRawSpan) throws(Failure) -> Int) throws(Failure) -> Int {
        let whole = (count + blockSize - 1) / blockSize * blockSize
        if filled + whole > Self.batchBytes { try handOver() }
        let batch = batches[current]
        let room = unsafe rooms[current]
        var span = unsafe MutableRawSpan(_unsafeBytes: UnsafeMutableRawBufferPointer(rebasing: room[filled..<filled + whole]))
        var part = span._mutatingExtracting(0..<count)
        let got = try fill(&part)
        let blocks = (got + blockSize - 1) / blockSize
        span.zero(at: got, count: blocks * blockSize - got)
        for index in 0..<blocks {
            guard let base = room.baseAddress else { break }
            unsafe batch.append(offset / UInt64(blockSize) + UInt64(index), lending: base + filled + index * blockSize)
        }
        filled += blocks * blockSize
        return got
    }

    /// Names the batch and has it committed; the other one is there to be filled then.
    private func handOver() throws(Failure) {
        guard filled > 0 else { return }
        let batch = batches[current]
        try batch.name()
        try work.wait { (work) throws(Failure) -> Wait<Void> in
            if let failure = work.failure { throw failure }
            if work.batch != nil { return .notified }
            work.batch = batch
            return .done(())
        }
        work.notify()
        current = 1 - current
        filled = 0
    }

    /// Commits what is left, and ends. To be called whatever happened; again, it does nothing more.
    func finish() throws(Failure) {
        guard thread != nil else { return }
        defer {
            work.with { $0.isOver = true }
            work.notify()
            thread?.join()
            thread = nil
        }
        try handOver()
        try work.wait { (work) throws(Failure) -> Wait<Void> in
            if let failure = work.failure { throw failure }
            return work.batch == nil ? .done(()) : .notified
        }
    }

    private static func commit(_ work: Monitor<Work>, _ store: Store, _ name: String) {
        while let batch = next(work) {
            var failure: Failure?
            do throws(Failure) { try store.commit(batch, to: name) } catch { failure = error }
            batch.removeAll()
            work.with { work in
                work.batch = nil
                work.failure = failure
            }
            work.notify()
            if failure != nil { return }
        }
    }

    /// The next batch to commit; nil: there will be none.
    private static func next(_ work: Monitor<Work>) -> Batch? {
        try? work.wait { work in
            if work.isOver { return .done(nil) }
            return work.batch.map { .done($0) } ?? .notified
        }
    }
}
