import Foundation

/// What is said of a row: whether the new side is worse than the old one.
public enum Verdict: String, Codable, Sendable {
    case sameOrBetter
    /// The whole interval lies below 1, but not below what is allowed.
    case slightlyWorse
    case worse
    /// The interval is too wide, and what was counted is no worse.
    case tooNoisy
    /// The interval is too wide, and something that was counted is worse.
    case worseByCounts
    /// There are too few pairs, or figures that have no ratio.
    case untold

    public var isWorse: Bool { self == .worse || self == .worseByCounts }
}

/// The ratios of a row, all turned so that more than 1 is better.
public struct Judgement: Codable, Sendable {
    /// An interval that lies below this is worse.
    public static let allowed = 0.97
    /// An interval that reaches further to either side tells nothing.
    public static let widest = 0.04

    /// Something that was counted in both: its name, and old/new.
    public struct Count: Codable, Sendable {
        public let name: String
        public let ratio: Interval
        /// Whether it is that of the row's measurement alone. What a whole run took, with all that is made ready for it, is told but
        /// judges nothing.
        public let isOfRow: Bool

        public init(name: String, ratio: Interval, isOfRow: Bool = true) {
            self.name = name
            self.ratio = ratio
            self.isOfRow = isOfRow
        }

        public var isWorse: Bool { isOfRow && ratio.high < allowed }
        /// How much more the new side takes: 0.02 is 2% more.
        public var more: Double { 1 / ratio.estimate - 1 }
    }

    /// Of the figures; nil: there is none.
    public let ratio: Interval?
    public let counts: [Count]

    /// - Parameters:
    ///   - ratios: new/old of each pair, or old/new where less is better.
    public init(ratios: [Double], counts: [Count]) {
        ratio = Interval(ratios: ratios)
        self.counts = counts
    }

    public var verdict: Verdict {
        guard let ratio else { return .untold }
        if ratio.high < Self.allowed { return .worse }
        if ratio.low < Self.allowed, ratio.halfWidth > Self.widest { return counts.contains(where: \.isWorse) ? .worseByCounts : .tooNoisy }
        return ratio.high < 1 ? .slightlyWorse : .sameOrBetter
    }
}
