internal import Histogram
internal import Synchronization
internal import System

/// What was done for a disk's guest or clients since it is served, and how long it took. Any thread notes what it does, a batch of requests at a
/// time: two looks at the clock and a short lock for each.
public final class Activity: Sendable {
    public enum Kind: Int, CaseIterable, Sendable { case read, write, discard, flush }

    private let began = monotonicSeconds()
    private let depth = Atomic(0)
    private let state = Mutex(State())

    private struct State {
        var kinds = [Counts](repeating: Counts(), count: Kind.allCases.count)
        /// When `recent` became what it is.
        var turned = 0.0
    }

    private struct Counts: Sendable {
        var requests: UInt64 = 0, bytes: UInt64 = 0
        /// Nanoseconds, of this window and of the one before; made when there is something to note.
        var recent: Histogram<UInt32>?, older: Histogram<UInt32>?
    }

    /// Seconds of a window: percentiles are of the last one, and of what there is of this one.
    private static let window = 10.0
    /// Of a hundred seconds, in units of 64 ns.
    private static let longest: UInt64 = 100_000_000_000 >> 6

    public init() {}

    /// Requests that are done together.
    public struct Work: Sendable {
        fileprivate var requests = InlineArray<4, Int>(repeating: 0)
        fileprivate var bytes = InlineArray<4, UInt64>(repeating: 0)
        public private(set) var count = 0

        public init() {}

        @inline(__always)
        public mutating func add(_ kind: Kind, byteCount: UInt64 = 0) {
            requests[kind.rawValue] += 1
            bytes[kind.rawValue] &+= byteCount
            count += 1
        }
    }

    /// So many requests are taken.
    /// - Returns: when, for `end`.
    public func begin(_ count: Int) -> Double {
        depth.add(count, ordering: .relaxed)
        return monotonicSeconds()
    }

    /// So many of them are not answered, and will not be.
    public func abandon(_ count: Int) { depth.subtract(count, ordering: .relaxed) }

    /// They are answered.
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

    /// How it is now.
    public var figures: Figures {
        let now = monotonicSeconds()
        // What takes long is done behind the lock, which requests wait for.
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

    public struct Figures: Codable, Sendable {
        public struct Requests: Codable, Sendable {
            /// Since the disk is served.
            public let requests, bytes: UInt64
            /// Seconds from when a request was taken until it was answered, of the last ten to twenty seconds; nil: none was.
            public let median, p99, p999, longest: Double?
        }
        /// For which the disk is served.
        public let seconds: Double
        /// Requests that are taken and not answered.
        public let queueDepth: Int
        public let read, write, discard, flush: Requests
    }
}
