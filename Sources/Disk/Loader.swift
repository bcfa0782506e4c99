internal import BlockModel
internal import Store
internal import System

/// Takes an image into a disk that nobody else sees, past the journal: while one batch is committed on a thread of its
/// own, the next is read and hashed.
@safe
final class Loader: @unchecked Sendable {
    let name: String
    let source: ImageSource
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

    /// Most bytes of the image that are read at a time.
    static let stepBytes = 2 << 20
    /// Bytes of a batch that are worth a commit, and its most bytes, which it reaches when the commit before takes long. No more, as what
    /// is read, hashed, copied and written out should stay in the processor's caches in between.
    private static let worthwhile = 8 << 20
    private static let most = 16 << 20

    init(_ store: Store, _ name: String, from source: ImageSource) throws(Failure) {
        self.store = store
        self.name = name
        self.source = source
        batches = [try Batch(store), try Batch(store)]
        unsafe rooms = batches.map { _ in .allocate(byteCount: Self.most, alignment: blockSize) }
        thread = try Thread("commit") { [work] in Self.commit(work, store, name) }
    }

    deinit { for unsafe room in unsafe rooms { unsafe room.deallocate() } }

    // MARK: Reading

    /// Takes `byteCount` bytes of the file, a step at most, from `offset` on, a multiple of 4096. Several threads read, each
    /// what it names. The last block is filled up with zeros.
    func add(at offset: UInt64, _ byteCount: Int) throws(Failure) {
        try makeRoom(byteCount)
        let start = filled
        append(byteCount, to: offset)
        let current = self.current
        try batches[current].hash { (blocks) throws(Failure) in
            // Each thread has a part of the room, and of the file.
            let part = unsafe UnsafeMutableRawBufferPointer(rebasing: self.rooms[current][blocks.lowerBound * blockSize..<blocks.upperBound * blockSize])
            var bytes = unsafe MutableRawSpan(_unsafeBytes: part)
            let done = blocks.lowerBound * blockSize - start
            let wanted = min(byteCount - done, bytes.byteCount)
            var data = bytes._mutatingExtracting(first: wanted)
            guard try self.source.read(at: offset + UInt64(done), into: &data) == wanted else {
                throw Failure(.system, .import, .image(self.source.name), "it became shorter while it was read")
            }
            bytes.zero(at: wanted, count: bytes.byteCount - wanted)
        }
        try handOverIfWorthwhile()
    }

    /// Takes what comes next out of a pipe, up to a step, for `offset`, a multiple of 4096.
    /// - Returns: its length; 0: the pipe's end.
    func addNext(at offset: UInt64) throws(Failure) -> Int {
        try makeRoom(Self.stepBytes)
        let room = unsafe rooms[current]
        var bytes = unsafe MutableRawSpan(_unsafeBytes: UnsafeMutableRawBufferPointer(rebasing: room[filled..<filled + Self.stepBytes]))
        let got = try source.readNext(into: &bytes)
        bytes.zero(at: got, count: Self.whole(got) - got)
        append(got, to: offset)
        try batches[current].hash()
        try handOverIfWorthwhile()
        return got
    }

    /// Bytes of the blocks that so many bytes take.
    private static func whole(_ byteCount: Int) -> Int { (byteCount + blockSize - 1) / blockSize * blockSize }

    private func makeRoom(_ byteCount: Int) throws(Failure) {
        if filled + Self.whole(byteCount) > Self.most { try handOver() }
    }

    /// Appends the blocks whose data is next in the room.
    private func append(_ byteCount: Int, to offset: UInt64) {
        let batch = batches[current]
        guard let base = unsafe rooms[current].baseAddress else { return }
        for index in 0..<Self.whole(byteCount) / blockSize {
            unsafe batch.append(offset / UInt64(blockSize) + UInt64(index), lending: base + filled + index * blockSize)
        }
        filled += Self.whole(byteCount)
    }

    // MARK: Committing

    /// A larger commit costs less a block, but the committing thread should not wait for a batch.
    private func handOverIfWorthwhile() throws(Failure) {
        if filled >= Self.worthwhile, work.with({ $0.batch == nil }) { try handOver() }
    }

    /// Has the batch committed; the other one is there to be filled then.
    private func handOver() throws(Failure) {
        guard filled > 0 else { return }
        let batch = batches[current]
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

    /// Commits what is left.
    func finish() throws(Failure) {
        try handOver()
        try work.wait { (work) throws(Failure) -> Wait<Void> in
            if let failure = work.failure { throw failure }
            return work.batch == nil ? .done(()) : .notified
        }
    }

    /// Ends the thread. To be called last, whatever happened.
    func end() {
        work.with { $0.isOver = true }
        work.notify()
        thread?.join()
        thread = nil
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
        work.wait { work in
            if work.isOver { return .done(nil) }
            return work.batch.map { .done($0) } ?? .notified
        }
    }
}
