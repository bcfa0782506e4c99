import Glibc
import Synchronization
import System

/// Waits of one thread for something that may come soon. To fall asleep and to be woken takes a virtual machine's processor
/// as long as a client takes to send its next request: so it is looked for a little while, before the thread sleeps.
///
/// That costs processor time, which is bounded: a thread looks for no longer than `limit` at a time, or for a client that is
/// elsewhere twice as long as it has worked since the wait before, and only when what it waited for came soon the time before.
/// While others want its processor it does not look at all; half of the processors at most are kept busy by this. Where there is
/// one, nobody looks but for clients that are elsewhere: the others want it themselves.
struct Watch: ~Copyable {
    /// Where a client runs: on the processors of this system or on others, as a guest does.
    enum Place { case here, elsewhere }

    private let place: Place
    private var isWorthwhile = false
    /// Others have the processor's time until then.
    private var pauseEnd = 0.0
    private var nextPause = pauseLength
    /// When the last wait ended, or a little earlier.
    private var workBegan = monotonicSeconds()

    init(_ place: Place) { self.place = place }

    /// Seconds of looking, and of looking after long work; the part of them that a look takes from which somebody else had the
    /// processor; seconds of a pause, and of one after others in vain.
    private static let limit = 50e-6
    private static let longestLimit = 3e-3
    private static let noticeable = 0.2
    private static let pauseLength = 10e-3
    private static let longestPause = 640e-3
    /// Looks for a client elsewhere before others get a turn: a look at memory costs nothing beside that, or beside the time.
    private static let looks = 32
    private static let watching = Atomic(0)
    private static let processors = sysconf(Int32(_SC_NPROCESSORS_ONLN))

    private var mostWatching: Int { place == .here ? Self.processors / 2 : max(1, Self.processors / 2) }

    /// Returns once `look` finds something, or `sleep` returns, which waits for the same, for however long.
    mutating func wait<Problem: Error>(look: () throws(Problem) -> Bool, sleep: () throws(Problem) -> Void) throws(Problem) {
        let began = monotonicSeconds()
        // Where our work takes long, a guest's does as well: it is on the same machine.
        let limit = place == .here ? Self.limit : min(max(Self.limit, 2 * (began - workBegan)), Self.longestLimit)
        if isWorthwhile, began >= pauseEnd {
            if try watch(from: began, limit, look) { return }
            isWorthwhile = false
            try sleep()
            workBegan = monotonicSeconds()
        } else {
            try sleep()
            workBegan = monotonicSeconds()
            // To wake up took a part of it.
            isWorthwhile = workBegan - began < 2 * limit
        }
    }

    /// For a while, don't look.
    mutating func pause() { pauseEnd = monotonicSeconds() + Self.pauseLength }

    /// Whether `look` found something.
    private mutating func watch<Problem: Error>(
        from start: Double, _ limit: Double, _ look: () throws(Problem) -> Bool
    ) throws(Problem) -> Bool {
        defer { Self.watching.subtract(1, ordering: .relaxed) }
        guard Self.watching.add(1, ordering: .relaxed).newValue <= mostWatching else { return false }
        let looks = place == .here ? 1 : Self.looks
        var now = start
        repeat {
            workBegan = now
            for _ in 0..<looks {
                guard try look() else { continue }
                nextPause = Self.pauseLength
                return true
            }
            sched_yield()
            let before = now
            now = monotonicSeconds()
            if now - before > Self.noticeable * limit {
                workBegan = now
                // The one who had it may have been whoever is waited for.
                let isFound = try look()
                if !isFound || place == .elsewhere { makeWay(now) }
                return isFound
            }
        } while now - start < limit
        return false
    }

    /// Somebody else had the processor: who only wakes up gets it at once, who gives it away waits for its turn.
    private mutating func makeWay(_ now: Double) {
        pauseEnd = now + nextPause
        nextPause = min(2 * nextPause, Self.longestPause)
    }
}
