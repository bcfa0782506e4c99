import Foundation

/// What pairs of figures, each measured in turns, tell of a ratio: its estimate, and an interval that holds the true one 95 times
/// out of a hundred.
///
/// Both come from the logarithms of the pairs' ratios by Wilcoxon's signed ranks: the estimate is the median of the means of all two of
/// them (Hodges and Lehmann), the interval ends at the means that as many lie beyond as the test allows (Hollander and Wolfe,
/// *Nonparametric Statistical Methods*, 3.3). They suppose nothing of how the noise is distributed but that it meets both sides
/// alike, and one pair that was disturbed moves them little.
public struct Interval: Codable, Sendable, Equatable {
    public let estimate, low, high: Double
    /// Pairs that it comes from.
    public let pairs: Int

    /// Fewer pairs have no interval of 95%: that all of 5 lie on one side happens by chance in 6 of 100 times.
    public static let fewestPairs = 6

    /// One that was found otherwise.
    public init(estimate: Double, low: Double, high: Double, pairs: Int) {
        self.estimate = estimate
        self.low = low
        self.high = high
        self.pairs = pairs
    }

    /// Of the ratios of pairs; nil: they are too few, or one of them is no ratio (it is not above zero, or not finite).
    public init?(ratios: [Double]) {
        guard ratios.count >= Self.fewestPairs, ratios.allSatisfy({ $0 > 0 && $0.isFinite }) else { return nil }
        let logarithms = ratios.map { log($0) }
        var means: [Double] = []
        for first in logarithms.indices {
            for second in first..<logarithms.count { means.append((logarithms[first] + logarithms[second]) / 2) }
        }
        means.sort()
        let beyond = Self.meansBeyond(ratios.count)
        pairs = ratios.count
        estimate = exp(Self.median(ofSorted: means))
        low = exp(means[beyond])
        high = exp(means[means.count - 1 - beyond])
    }

    /// Half of its width.
    public var halfWidth: Double { (high - low) / 2 }

    static func median(ofSorted values: [Double]) -> Double {
        let middle = values.count / 2
        return values.count % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2
    }

    /// The largest rank sum that, with all below it, has a chance of at most 2.5% on either side when both are alike: so many means
    /// lie beyond each end of the interval.
    static func meansBeyond(_ pairs: Int) -> Int {
        // ways[s]: the chance that ranks which each go to one side or the other by a coin have the sum s.
        var chances = [1.0]
        for rank in 1...max(1, pairs) {
            var next = [Double](repeating: 0, count: chances.count + rank)
            for (sum, chance) in chances.enumerated() {
                next[sum] += chance / 2
                next[sum + rank] += chance / 2
            }
            chances = next
        }
        var total = 0.0
        for (sum, chance) in chances.enumerated() {
            total += chance
            if total > 0.025 { return max(0, sum - 1) }
        }
        return 0
    }
}
