internal import Glibc
internal import Synchronization
public import System

/// Threads that share what is independent from piece to piece: hashing above all. One pool serves the process, with a
/// thread for each processor but the one that the caller runs on; whoever asks works along, so that a pool of no
/// threads, or one that is busy, makes things slower and never waits for ever.
public final class HashPool: Sendable {
    public static let shared = HashPool(threads: max(0, min(63, sysconf(Int32(_SC_NPROCESSORS_ONLN)) - 1)))

    private let jobs = Monitor<[Job]>([])
    private let threads: Int
    private let isStarted = Atomic(false)

    init(threads: Int) { self.threads = threads }

    /// Pieces 0..<count of one task. They are taken in order, by anyone.
    private final class Job: Sendable {
        let count: Int
        let body: @Sendable (Int, borrowing SHA256) throws(Failure) -> Void
        let next = Atomic(0)
        let state = Monitor<(done: Int, failure: Failure?)>((0, nil))

        init(_ count: Int, _ body: @escaping @Sendable (Int, borrowing SHA256) throws(Failure) -> Void) {
            self.count = count
            self.body = body
        }

        /// Does pieces until none is left to take. After a failure the rest is skipped.
        func work(_ hasher: borrowing SHA256) {
            while true {
                let piece = next.wrappingAdd(1, ordering: .relaxed).oldValue
                guard piece < count else { return }
                var failure: Failure?
                do throws(Failure) { try body(piece, hasher) } catch { failure = error }
                let isLast = state.with { state in
                    state.done += 1
                    if let failure, state.failure == nil { state.failure = failure }
                    return state.done == count
                }
                if isLast { state.notify() }
            }
        }
    }

    /// Calls `body` with each of 0..<count and a hasher, on several threads; returns when all are done.
    /// - Throws: the first failure of a piece.
    public func forEach(
        _ count: Int, _ hasher: borrowing SHA256, _ body: @escaping @Sendable (Int, borrowing SHA256) throws(Failure) -> Void
    ) throws(Failure) {
        guard count > 1, threads > 0 else {
            for piece in 0..<count { try body(piece, hasher) }
            return
        }
        start()
        let job = Job(count, body)
        jobs.with { $0.append(job) }
        jobs.notify()
        job.work(hasher)
        jobs.with { jobs in jobs.removeAll { $0 === job } }
        let failure = job.state.wait { $0.done == count ? .done($0.failure) : .notified }
        if let failure { throw failure }
    }

    private func start() {
        guard !isStarted.exchange(true, ordering: .relaxed) else { return }
        for _ in 0..<threads {
            // Without it, or without a hasher, there is one helper less, and whoever asked goes on.
            _ = try? Thread("hash") { [jobs] in
                guard let hasher = try? SHA256() else { return }
                while true {
                    // One job at a time: the first that has pieces left.
                    let job: Job? = jobs.wait { jobs in
                        jobs.first { $0.next.load(ordering: .relaxed) < $0.count }.map { .done($0) } ?? .notified
                    }
                    job?.work(hasher)
                }
            }
        }
    }
}
