import Foundation

/// What a figure counts.
enum Unit: String, Codable, Sendable {
    case bytesPerSecond, operationsPerSecond, seconds, bytes, percent, ratio

    /// For people: three digits, and a unit that suits the size.
    func text(_ value: Double) -> String {
        guard value.isFinite else { return "-" }
        switch self {
        case .bytesPerSecond: return value >= 1e9 ? Self.digits(value / 1e9) + " GB/s" : Self.digits(value / 1e6) + " MB/s"
        case .operationsPerSecond: return value >= 1e4 ? Self.digits(value / 1e3) + " k/s" : Self.digits(value) + " /s"
        case .seconds:
            if abs(value) < 1e-6 { return Self.digits(value * 1e9) + " ns" }
            if value < 1e-3 { return Self.digits(value * 1e6) + " µs" }
            return value < 1 ? Self.digits(value * 1e3) + " ms" : Self.digits(value) + " s"
        case .bytes:
            if abs(value) >= 0x1p30 { return Self.digits(value / 0x1p30) + " GiB" }
            return abs(value) >= 0x1p20 ? Self.digits(value / 0x1p20) + " MiB" : Self.digits(value / 1024) + " KiB"
        case .percent: return Self.digits(value) + " %"
        case .ratio: return Self.digits(value)
        }
    }

    private static func digits(_ value: Double) -> String {
        String(format: abs(value) >= 99.95 ? "%.0f" : abs(value) >= 9.995 ? "%.1f" : "%.2f", value)
    }
}

/// A goal for a figure, as the table in docs/design.md ("Goals in figures") has it: `first` is what a release needs, `after` what we are after.
struct Goal: Codable, Sendable {
    let first: Double
    let after: Double
    /// Whether less is better, as of time and space.
    var isCeiling = false

    enum Verdict: String, Codable, Sendable { case missed, first, after }

    func verdict(_ value: Double) -> Verdict {
        func meets(_ goal: Double) -> Bool { isCeiling ? value <= goal : value >= goal }
        return meets(after) ? .after : meets(first) ? .first : .missed
    }

    /// Processors without AVX-512 hash two blocks at once, not sixteen.
    static let uniqueWrites = Goal(first: Report.Machine.hasAVX512 ? 0.8 : 0.75, after: 1.2)
    static let duplicateWrites = Goal(first: 1.5, after: 2.5)
    static let durableWrites = Goal(first: 0.9, after: 1.2)
    static let sequentialReads = Goal(first: 0.5, after: 0.8)
    static let longReads = Goal(first: 0.8, after: 0.95)
    static let peerReads = Goal(first: 1.0, after: 1.3)
    static let peerUniqueWrites = Goal(first: 0.9, after: 1.5)
    static let peerDuplicateWrites = Goal(first: 1.5, after: 4)
    static let flushedWrites = Goal(first: 1.2, after: 1.0, isCeiling: true)
    static let ingest = Goal(first: 1.0, after: 1.8)
    static let space = Goal(first: 2.0, after: 1.5, isCeiling: true)
    static let spaceOfSmall = Goal(first: 3.5, after: 2.0, isCeiling: true)
    static let memory = Goal(first: Double(512 << 20), after: Double(256 << 20), isCeiling: true)
    static let memoryFloor = Goal(first: Double(64 << 20), after: Double(32 << 20), isCeiling: true)
    static let growth = Goal(first: 0.8, after: 0.95)
    static let recovery = Goal(first: 1.0, after: 1.0, isCeiling: true)
    static let clone = Goal(first: 0.1, after: 0.02, isCeiling: true)
    static let delete = Goal(first: 1.0, after: 0.1, isCeiling: true)
    static let afterSnapshot = Goal(first: 0.5, after: 0.8)
    static let manySnapshots = Goal(first: 0.9, after: 0.98)
    static let beside = Goal(first: 0.5, after: 0.8)
    static let bound = Goal(first: 1.5, after: 1.2, isCeiling: true)
    static let stall = Goal(first: 0.05, after: 0.01, isCeiling: true)
}

/// A line of the result: a figure, and what it is compared with.
struct Row: Codable, Sendable {
    let name: String
    let value: Sample
    let unit: Unit
    /// What the machine, or a peer, does in the same round.
    var limit: Limit?
    var goal: Goal?
    var latency: Latency?
    /// What else to know of this row alone.
    var remark: String?
    /// What the measurement of the last round took of the machine.
    var effort: Effort?

    struct Limit: Codable, Sendable {
        let name: String
        let value: Sample
        /// Of each round.
        let ratio: Sample
    }

    /// Percentiles in seconds, of all rounds.
    struct Latency: Codable, Sendable {
        let median, p99, p999, highest: Double
    }

    init(_ name: String, _ value: Sample, _ unit: Unit, goal: Goal? = nil, remark: String? = nil) {
        self.name = name
        self.value = value
        self.unit = unit
        self.goal = goal
        self.remark = remark
    }

    /// What is compared with the goal: the ratio where there is a limit, else the figure.
    var judged: Double { limit?.ratio.median ?? value.median }
    var judgedUnit: Unit { limit == nil ? unit : .ratio }
    var verdict: Goal.Verdict? { goal?.verdict(judged) }
}

/// Rows that were measured alike, and a text on what they do not mean.
struct Section: Codable, Sendable {
    let name: String
    let title: String
    let caveat: String
    var rows: [Row] = []
    /// What could not be measured, and why.
    var missing: [String] = []
}
