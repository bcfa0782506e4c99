import Glibc
import Synchronization
import System

/// Spin, then block: one thread waits for something that may come soon. Falling asleep and waking up take a virtual machine's processor
/// as long as a client takes to send its next request, so the thread looks for it for a little while before it sleeps.
///
/// What that may cost is bounded:
/// - One wait spins for `shortestSpin` at most. For a client on other processors (a guest), it spins up to twice as long as the thread
///   has worked since its last wait, and for `longestSpin` at most.
/// - A thread spins only when its last wait was over within about that time.
/// - When somebody else wants the processor, it stops spinning for a while.
/// - Half of the processors spin at the most. On a machine with one, only waits for clients elsewhere do.
struct SpinWait: ~Copyable {
    /// Where a client runs: on the processors of this system or on others, as a guest does.
    enum Place { case here, elsewhere }

    private let place: Place
    private var isWorthwhile = false
    /// No spinning until then.
    private var pauseEnd = 0.0
    private var nextPause = shortestPause
    /// When the last wait ended, as of the last look at the clock.
    private var workBegan = monotonicSeconds()

    init(_ place: Place) { self.place = place }

    /// Seconds.
    private static let shortestSpin = 50e-6, longestSpin = 3e-3
    /// Seconds without spinning after somebody else wanted the processor: the first time, and after many in a row.
    private static let shortestPause = 10e-3, longestPause = 640e-3
    /// Looks between two readings of the clock took more than this part of a wait's limit: somebody else had the processor.
    private static let noticeable = 0.2
    /// Looks before the processor is offered to others. For a client elsewhere a look is one at memory; else it is a system call, and one is enough.
    private static let looks = 32
    private static let spinning = Atomic(0)
    private static let processors = sysconf(Int32(_SC_NPROCESSORS_ONLN))

    private var mostSpinning: Int { place == .here ? Self.processors / 2 : max(1, Self.processors / 2) }

    /// Returns once `look` finds something, or `sleep` returns, which waits for the same, for however long.
    mutating func wait<Problem: Error>(look: () throws(Problem) -> Bool, sleep: () throws(Problem) -> Void) throws(Problem) {
        let began = monotonicSeconds()
        // Where our work takes long, a guest's does as well: it is on the same machine.
        let limit = place == .here ? Self.shortestSpin : min(max(Self.shortestSpin, 2 * (began - workBegan)), Self.longestSpin)
        if isWorthwhile, began >= pauseEnd {
            if try spin(from: began, limit, look) { return }
            isWorthwhile = false
            try sleep()
            workBegan = monotonicSeconds()
        } else {
            try sleep()
            workBegan = monotonicSeconds()
            // Twice, as waking up took a part of it.
            isWorthwhile = workBegan - began < 2 * limit
        }
    }

    /// Has the thread not spin for a while.
    mutating func pause() { pauseEnd = monotonicSeconds() + Self.shortestPause }

    /// Whether `look` found something.
    private mutating func spin<Problem: Error>(
        from start: Double, _ limit: Double, _ look: () throws(Problem) -> Bool
    ) throws(Problem) -> Bool {
        defer { Self.spinning.subtract(1, ordering: .relaxed) }
        guard Self.spinning.add(1, ordering: .relaxed).newValue <= mostSpinning else { return false }
        let looks = place == .here ? 1 : Self.looks
        var now = start
        repeat {
            workBegan = now
            for _ in 0..<looks {
                guard try look() else { continue }
                nextPause = Self.shortestPause
                return true
            }
            sched_yield()
            let before = now
            now = monotonicSeconds()
            if now - before > Self.noticeable * limit {
                workBegan = now
                // It may have been the client who had it, and it is done.
                let isFound = try look()
                if !isFound || place == .elsewhere { makeWay(now) }
                return isFound
            }
        } while now - start < limit
        return false
    }

    /// Leaves the processor to others for a while: a thread that wakes up from sleep gets it at once, where one that spins and yields waits for its turn.
    private mutating func makeWay(_ now: Double) {
        pauseEnd = now + nextPause
        nextPause = min(2 * nextPause, Self.longestPause)
    }
}
