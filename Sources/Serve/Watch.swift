import BlockModel
import Glibc
import Synchronization

/// Waits of one thread for something that may come soon. To fall asleep and to be woken takes a virtual machine's processor
/// as long as a client takes to send its next request: so it is looked for a little while, before the thread sleeps.
///
/// That costs processor time, which is bounded: a thread looks for no longer than `limit` at a time, and only when what it
/// waited for came soon the time before. While others want its processor it does not look at all; half of the processors at
/// most are kept busy by this, none where there is one.
struct Watch: ~Copyable {
    private var isWorthwhile = false
    /// Others have the processor's time until then.
    private var pauseEnd = 0.0

    /// Seconds of looking; of a look, from which somebody else had the processor; of a pause.
    private static let limit = 50e-6
    private static let noticeable = 10e-6
    private static let pauseLength = 10e-3
    private static let watching = Atomic(0)
    private static let mostWatching = sysconf(Int32(_SC_NPROCESSORS_ONLN)) / 2

    /// Returns once `look` finds something, or `sleep` returns, which waits for the same, for however long.
    mutating func wait<Problem: Error>(look: () throws(Problem) -> Bool, sleep: () throws(Problem) -> Void) throws(Problem) {
        let began = monotonicSeconds()
        if isWorthwhile, began >= pauseEnd {
            if try watch(from: began, look) { return }
            isWorthwhile = false
            try sleep()
        } else {
            try sleep()
            // To wake up took a part of it.
            isWorthwhile = monotonicSeconds() - began < 2 * Self.limit
        }
    }

    /// For a while, don't look.
    mutating func pause() { pauseEnd = monotonicSeconds() + Self.pauseLength }

    /// Whether `look` found something.
    private mutating func watch<Problem: Error>(from start: Double, _ look: () throws(Problem) -> Bool) throws(Problem) -> Bool {
        defer { Self.watching.subtract(1, ordering: .relaxed) }
        guard Self.watching.add(1, ordering: .relaxed).newValue <= Self.mostWatching else { return false }
        var now = start
        repeat {
            if try look() { return true }
            sched_yield()
            let before = now
            now = monotonicSeconds()
            if now - before > Self.noticeable {
                // The one who had it may have been whoever is waited for.
                if try look() { return true }
                pause()
                return false
            }
        } while now - start < Self.limit
        return false
    }
}
