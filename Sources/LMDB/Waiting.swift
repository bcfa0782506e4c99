internal import Glibc
internal import System

/// One wait for a lock.
struct Waiting {
    private let patience: Patience
    private let what: StaticString
    private var pauseMicroseconds: UInt32 = 100
    /// Since when the same holder is waited for; nil: nobody was yet.
    private var since: Double?
    private var holder: LockHolder?
    private var began = 0.0
    private var isTold = false

    init(_ patience: Patience, _ what: StaticString) {
        self.patience = patience
        self.what = what
    }

    /// Sleeps a little.
    /// - Throws: `.busy` when it has lasted too long.
    mutating func pause(for holder: LockHolder?, remedy: String?) throws(Failure) {
        _ = try step(for: holder, remedy: remedy)
        usleep(pauseMicroseconds)
        pauseMicroseconds = min(2 * pauseMicroseconds, LockFile.longestPauseMicroseconds)
    }

    /// Takes note that the wait is not over.
    /// - Returns: seconds after which to look again at the latest.
    mutating func step(for holder: LockHolder?, remedy: String?) throws(Failure) -> Double {
        let now = monotonicSeconds()
        if since == nil { began = now }
        if since == nil || holder != self.holder {
            since = now
            self.holder = holder
        }
        let waited = now - (since ?? now)
        // Whether it is stopped is looked at late, as that takes system calls.
        let isStopped = waited >= min(1, patience.limitWhenStopped) && holder?.isStopped == true
        if waited >= (isStopped ? patience.limitWhenStopped : patience.limit) {
            let failure = Failure(.busy, "wait for", .lock("\(what)"), held(for: now - began, by: holder), remedy: remedy ?? holder?.remedy ?? "try again")
            end(because: failure)
            throw failure
        }
        if waited >= 1, !isTold {
            isTold = true
            patience.tell(.begins, "waiting for \(what): \(held(for: now - began, by: holder)) (\(remedy ?? holder?.remedy ?? "it goes on by itself"))")
        }
        return 0.2
    }

    /// It is over, however it ended.
    mutating func end(because failure: Failure? = nil) {
        guard isTold else { return }
        isTold = false
        patience.tell(.over(seconds: monotonicSeconds() - began, times: 1), "no longer waiting for \(what)", because: failure)
    }

    private func held(for seconds: Double, by holder: LockHolder?) -> String {
        "held for \(Int(seconds)) s" + (holder.map { " by \($0.description)" } ?? "")
    }
}
