internal import Histogram
internal import Synchronization
internal import System

/// What has been done for a disk's guest or clients since it is served, and how long that took. Any thread notes what it does, a batch of requests at a
/// time, for two looks at the clock and a short lock.
public final class Activity: Sendable {
    /// What requests are told apart by.
    public enum Kind: Int, CaseIterable, Sendable { case read, write, discard, flush }

    private let began = monotonicSeconds()
    /// Requests that are taken and not answered.
    private let depth = Atomic(0)
    private let state = Mutex(State())

    private struct State {
        var kinds = [Counts](repeating: Counts(), count: Kind.allCases.count)
        /// When the window began that `recent` is of: seconds of the monotonic clock.
        var turned = 0.0
    }

    private struct Counts: Sendable {
        var requests: UInt64 = 0, bytes: UInt64 = 0
        /// In units of 64 ns: of this window, and of the one before. Made when there is something to note.
        var recent: Histogram<UInt32>?, older: Histogram<UInt32>?
    }

    /// Seconds of a window: percentiles are of the last one, and of what there is of this one.
    private static let window = 10.0
    /// A hundred seconds, in units of 64 ns: what takes longer counts as that.
    private static let longest: UInt64 = 100_000_000_000 >> 6

    public init() {}

    /// Requests that are done together.
    public struct Work: Sendable {
        fileprivate var requests = InlineArray<4, Int>(repeating: 0)
        fileprivate var bytes = InlineArray<4, UInt64>(repeating: 0)
        /// Requests.
        public private(set) var count = 0

        public init() {}

        /// Adds a request.
        @inline(__always)
        public mutating func add(_ kind: Kind, byteCount: UInt64 = 0) {
            requests[kind.rawValue] += 1
            bytes[kind.rawValue] &+= byteCount
            count += 1
        }
    }

    /// Notes that so many requests are taken.
    /// - Returns: when that was, for `end`: seconds of the monotonic clock.
    public func begin(_ count: Int) -> Double {
        depth.add(count, ordering: .relaxed)
        return monotonicSeconds()
    }

    /// Notes that so many requests that were taken will not be answered.
    public func abandon(_ count: Int) { depth.subtract(count, ordering: .relaxed) }

    /// Notes that requests are answered.
    /// - Parameter start: when they were taken, as `begin` said.
    public func end(_ work: Work, since start: Double) {
        guard work.count > 0 else { return }
        depth.subtract(work.count, ordering: .relaxed)
        let now = monotonicSeconds()
        let time = min(Self.longest, UInt64(max(0, now - start) * 1e9) >> 6)
        state.withLock { state in
            Self.turn(&state, now)
            for kind in 0..<Kind.allCases.count where work.requests[kind] > 0 {
                state.kinds[kind].requests &+= UInt64(work.requests[kind])
                state.kinds[kind].bytes &+= work.bytes[kind]
                if state.kinds[kind].recent == nil { state.kinds[kind].recent = Self.histogram() }
                _ = state.kinds[kind].recent?.record(time, count: UInt32(clamping: work.requests[kind]))
            }
        }
    }

    private static func histogram() -> Histogram<UInt32> { Histogram(highestTrackableValue: longest, numberOfSignificantValueDigits: .two) }

    private static func turn(_ state: inout State, _ now: Double) {
        guard now - state.turned >= window else { return }
        let isOver = now - state.turned >= 2 * window
        state.turned = isOver ? now : state.turned + window
        for kind in state.kinds.indices {
            state.kinds[kind].older = isOver ? nil : state.kinds[kind].recent
            state.kinds[kind].recent = nil
        }
    }

    /// What was noted so far.
    public var figures: Figures {
        let now = monotonicSeconds()
        // Requests wait for the lock: what takes long is done when it is given back.
        let found = state.withLock { state in
            Self.turn(&state, now)
            return state.kinds
        }
        let kinds = found.map { counts in
            var latencies = Self.histogram()
            for part in [counts.recent, counts.older] { if let part { latencies.add(part) } }
            func seconds(_ percent: Double) -> Double? {
                latencies.totalCount == 0 ? nil : Double(latencies.valueAtPercentile(percent) << 6) / 1e9
            }
            return Figures.Requests(
                requests: counts.requests, bytes: counts.bytes, median: seconds(50), p99: seconds(99), p999: seconds(99.9), longest: seconds(100))
        }
        return Figures(
            seconds: now - began, queueDepth: max(0, depth.load(ordering: .relaxed)), read: kinds[Kind.read.rawValue],
            write: kinds[Kind.write.rawValue], discard: kinds[Kind.discard.rawValue], flush: kinds[Kind.flush.rawValue])
    }

    /// What was noted of a disk, as of one moment.
    public struct Figures: Codable, Sendable {
        /// Of one kind of requests.
        public struct Requests: Codable, Sendable {
            /// Requests that were answered since the disk is served, and bytes that they were about.
            public let requests, bytes: UInt64
            /// Seconds from when a request was taken until it was answered, of those answered in the last ten to twenty seconds; nil: there was none.
            public let median, p99, p999, longest: Double?
        }
        /// For how long the disk has been served.
        public let seconds: Double
        /// Requests that are taken and not answered.
        public let queueDepth: Int
        public let read, write, discard, flush: Requests
    }
}
