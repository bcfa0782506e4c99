internal import BlobModel
internal import Counts
internal import LMDB
internal import Synchronization
public import System

/// What there is to be maintained, as of one commit: a few look-ups, nothing is walked.
struct Upkeep: Equatable {
    /// The commit.
    let commit: Int
    /// Of the blobs that something refers to, and of dead ones, without deferred counts.
    let liveBytes, deadBytes: UInt64
    /// Nothing refers to some maps any more.
    let hasDetached: Bool
    /// There are deferred counts, which may show dead blobs.
    let hasDeferred: Bool
    /// These change when somebody writes, and not by maintenance.
    let nextNode: UInt64
    let counted: PackPlace
    let isMaintained: Bool
    /// Packs wait for another codec.
    let hasCold: Bool

    var hasWork: Bool { deadBytes > 0 || hasDetached || hasDeferred || hasCold }

    /// Dead bytes beside what a store may take beyond what is referred to: from 1 on, maintenance works as fast as it can.
    var pressure: Double { Double(deadBytes) / (Double(liveBytes) / 10 + Double(64 << 20)) }
}

extension Store {
    func upkeep() throws(Failure) -> Upkeep {
        let reading = try ReadTransaction(meta)
        let superblock = try parts.superblock.superblock(reading.view)
        return Upkeep(
            commit: reading.id, liveBytes: superblock.totals.live &* 4096, deadBytes: superblock.totals.deadBytes,
            hasDetached: try parts.maps.hasDetached(reading.view), hasDeferred: try parts.counts.hasDeferred(reading.view),
            nextNode: superblock.nextNode, counted: superblock.counted, isMaintained: superblock.isMaintained,
            hasCold: superblock.laterCodec != .raw && superblock.recoded <= superblock.counted.pack)
    }
}

extension Store {
    /// The bound of dead blobs: a share of what is referred to, and so many bytes. Beyond it writers are slowed down, at twice the bound by the longest pause.
    private static let excessShare = 0.25, excessBytes = Double(192 << 20)
    private static let longestPause = 0.04

    func noteExcess(_ superblock: Superblock) {
        let bound = Double(superblock.totals.live &* 4096) * Self.excessShare + Self.excessBytes
        let excess = maintainers.load(ordering: .relaxed) > 0 && superblock.isMaintained ? max(0, Double(superblock.totals.deadBytes) / bound - 1) : 0
        self.excess.store(excess.bitPattern, ordering: .relaxed)
    }

    /// Seconds that a writer is to wait before each commit, so that blobs die no faster than they are collected, and the store stays within its bound. 0
    /// where this process has no maintainer, as nothing would be gained.
    public var pauseBeforeCommit: Double { min(1, Double(bitPattern: excess.load(ordering: .relaxed))) * Self.longestPause }
}

/// Maintenance beside whoever serves disks: on a thread of its own, in steps, one process at a time a store.
///
/// - What nothing refers to goes within a minute after the last write.
/// - Under load it begins when a fortieth of what is referred to, and 16 MiB more, is dead, and works the faster the more that is.
public final class Maintainer: Sendable {
    private let store: Store
    private let state = Monitor(State())
    private let trouble: Condition

    private struct State {
        var isStopping = false
        var thread: Thread?
    }

    /// Seconds between looks.
    private static let interval = 1.0
    /// Seconds without a write after which all is done that there is to do.
    private static let quiet = 5.0
    /// Seconds between looks for what was left by those who were killed.
    private static let leftoverInterval = 60.0
    /// Of steps beside writers.
    private static let budget = MaintenanceBudget(seconds: 0.02)

    public init(_ store: Store) {
        self.store = store
        trouble = store.reporter.condition(.maintenance)
    }

    /// Begins; a store that can't be written to has none.
    public func start() throws(Failure) {
        guard !store.isReadOnly else { return }
        let thread = try Thread("maintain", niceness: 5) { [self] in
            store.maintainers.add(1, ordering: .relaxed)
            run()
            store.maintainers.subtract(1, ordering: .relaxed)
        }
        state.with { $0.thread = thread }
    }

    /// Ends behind the step at work.
    public func stop() {
        let thread = state.with { state in
            state.isStopping = true
            return state.thread.take()
        }
        state.notify()
        thread?.join()
    }

    /// - Returns: false: it is to end.
    private func rest(_ seconds: Double) -> Bool {
        let end = monotonicSeconds() + seconds
        return state.wait { state in
            if state.isStopping { return .done(false) }
            let left = end - monotonicSeconds()
            return left <= 0 ? .done(true) : .atMost(left)
        }
    }

    /// What is known from one look to the next.
    private struct Course {
        var last: Upkeep?
        var lastWrite = monotonicSeconds()
        var lastLeftovers = 0.0
        /// The commit behind which there was nothing to do.
        var doneAt: Int?
        var fill = FillWarning()
    }

    private func run() {
        var course = Course()
        while rest(Self.interval) {
            // A failure here does not keep it from collecting; the next look comes a second later.
            if let filesystem = try? Filesystem(of: store.path) { course.fill.look(filesystem.fill, freeBytes: filesystem.freeBytes, store.reporter) }
            do throws(Failure) {
                try look(&course)
                trouble.over("maintenance goes on")
            } catch where error.kind == .busy {
                // Somebody else is at it, or has the store: later.
            } catch {
                trouble.met("what nothing refers to could not be collected, and is tried again", because: error)
                guard rest(10) else { return }
            }
        }
    }

    private func look(_ course: inout Course) throws(Failure) {
        let upkeep = try store.upkeep(), now = monotonicSeconds()
        guard upkeep.isMaintained else { return }
        if upkeep.nextNode != course.last?.nextNode || upkeep.counted != course.last?.counted { course.lastWrite = now }
        course.last = upkeep
        let isQuiet = now - course.lastWrite >= Self.quiet
        let areLeftoversDue = isQuiet && now - course.lastLeftovers >= Self.leftoverInterval
        guard upkeep.commit != course.doneAt || areLeftoversDue else { return }
        let isDue = upkeep.hasDetached || upkeep.pressure > 0.25 || isQuiet && (upkeep.hasWork || areLeftoversDue)
        guard isDue else { return }
        if areLeftoversDue { course.lastLeftovers = now }
        try collect(isQuiet: isQuiet, upkeep)
        course.doneAt = try store.upkeep().commit
    }

    /// One collection, beside writers that are to notice as little of it as they can.
    private func collect(isQuiet: Bool, _ upkeep: Upkeep) throws(Failure) {
        var collection = try GarbageCollection(store, Patience(limit: 0.01, limitWhenStopped: 0.01), isQuiet: isQuiet)
        var pressure = upkeep.pressure
        var nextLook = monotonicSeconds() + Self.interval
        while !collection.progress.isOver {
            let began = monotonicSeconds()
            _ = try collection.step(Self.budget)
            let now = monotonicSeconds()
            if now >= nextLook {
                nextLook = now + Self.interval
                pressure = try store.upkeep().pressure
                // A command that collects has somebody who waits for its end.
                if try store.lockFile.isCollectingWanted() { return }
            }
            // The less there is to do, the more time is left to writers.
            let pause = (now - began) * (isQuiet ? 0.2 : max(0, 2 * (1 - pressure)))
            guard rest(min(pause, 1)) else { return }
        }
    }
}

/// Says when a filesystem is about to be full: once for each level that is reached, and once when it is over.
struct FillWarning {
    /// In percent, and how much less it has to be so that it is over.
    private static let levels = [80.0, 90, 95], margin = 2.0
    private var level = 0
    private var since = 0.0

    /// - Parameter fill: how much is taken now, in percent.
    mutating func look(_ fill: Double, freeBytes: UInt64, _ reporter: Reporter) {
        let reached = Self.levels.count { fill >= $0 }
        if reached > level {
            if level == 0 { since = monotonicSeconds() }
            level = reached
            reporter.tell(
                .filling,
                "its filesystem is \(Int(fill))% full, \(freeBytes >> 20) MiB are left: "
                    + "when none are, writes stay in the disks' journals, and fail when these are full",
                .begins)
        } else if level > 0, fill < Self.levels[0] - Self.margin {
            let times = level
            level = 0
            reporter.tell(.filling, "there is room on its filesystem again", .over(seconds: monotonicSeconds() - since, times: times))
        }
    }
}
