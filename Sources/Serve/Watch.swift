import BlockModel
import Glibc
import Synchronization

/// Waits of one thread for something that may come soon. To fall asleep and to be woken takes a virtual machine's processor
/// as long as a client takes to send its next request: so it is looked for a little while, before the thread sleeps.
///
/// That costs processor time, which is bounded: a thread looks for no longer than `limit` at a time, and only when what it
/// waited for came soon the time before; half of the processors at most are kept busy by this, none where there is one.
struct Watch: ~Copyable {
    private var isWorthwhile = false

    /// Seconds of looking.
    private static let limit = 50e-6
    private static let watching = Atomic(0)
    private static let mostWatching = sysconf(Int32(_SC_NPROCESSORS_ONLN)) / 2

    /// Returns once `look` finds something, or `sleep` returns, which waits for the same, for however long.
    mutating func wait<Problem: Error>(look: () throws(Problem) -> Bool, sleep: () throws(Problem) -> Void) throws(Problem) {
        if isWorthwhile {
            if try watch(look) { return }
            isWorthwhile = false
            try sleep()
        } else {
            let began = monotonicSeconds()
            try sleep()
            // To wake up took a part of it.
            isWorthwhile = monotonicSeconds() - began < 2 * Self.limit
        }
    }

    /// Whether `look` found something.
    private func watch<Problem: Error>(_ look: () throws(Problem) -> Bool) throws(Problem) -> Bool {
        defer { Self.watching.subtract(1, ordering: .relaxed) }
        guard Self.watching.add(1, ordering: .relaxed).newValue <= Self.mostWatching else { return false }
        let end = monotonicSeconds() + Self.limit
        repeat {
            if try look() { return true }
            // Whoever else wants the processor, and the one who is waited for above all.
            sched_yield()
        } while monotonicSeconds() < end
        return false
    }
}
