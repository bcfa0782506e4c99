import Foundation
import Testing

@testable import PairedStatistics

/// Numbers that look random and are the same in each run (SplitMix64).
private struct Dice: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var word = state
        word = (word ^ word >> 30) &* 0xbf58_476d_1ce4_e5b9
        word = (word ^ word >> 27) &* 0x94d0_49bb_1331_11eb
        return word ^ word >> 31
    }
    /// Of the normal distribution (Box and Muller).
    mutating func normal() -> Double {
        let first = Double.random(in: .leastNonzeroMagnitude..<1, using: &self), second = Double.random(in: 0..<1, using: &self)
        return (-2 * log(first)).squareRoot() * cos(2 * .pi * second)
    }
}

@Suite struct IntervalTests {
    /// The critical values of Wilcoxon's table for 5% on both sides.
    @Test(arguments: [(6, 0), (7, 2), (8, 3), (9, 5), (10, 8), (12, 13), (15, 25), (16, 29), (20, 52), (25, 89)])
    func ranksAreThoseOfTheTable(_ pairs: Int, _ critical: Int) {
        #expect(Interval.meansBeyond(pairs) == critical)
    }

    /// Worked out by hand: of logarithms 1, 2, 4, 8, 16, 32 none of the 21 means of two lies beyond, and the eleventh is that of 1
    /// and 16 (sorted: 1 1.5 2 2.5 3 4 4.5 5 6 8 8.5 9 10 12 16 16.5 17 18 20 24 32).
    @Test func knownInputHasItsKnownInterval() throws {
        let interval = try #require(Interval(ratios: [16, 1, 4, 32, 2, 8].map { exp($0) }))
        #expect(abs(log(interval.low) - 1) < 1e-9)
        #expect(abs(log(interval.high) - 32) < 1e-9)
        #expect(abs(log(interval.estimate) - 8.5) < 1e-9)
        #expect(interval.pairs == 6)
    }

    /// Eight pairs: three means lie beyond each end.
    @Test func threeMeansOfEightPairsLieBeyond() throws {
        let interval = try #require(Interval(ratios: [0, 1, 2, 3, 4, 5, 6, 7].map { exp($0) }))
        // Sorted from below: 0 0.5 1 1 1.5 ...
        #expect(abs(log(interval.low) - 1) < 1e-9)
        #expect(abs(log(interval.high) - 6) < 1e-9)
        #expect(abs(log(interval.estimate) - 3.5) < 1e-9)
    }

    @Test func turnedRatiosHaveTheTurnedInterval() throws {
        let ratios = [0.9, 1.1, 1.3, 0.8, 1.05, 0.97, 1.2]
        let one = try #require(Interval(ratios: ratios)), turned = try #require(Interval(ratios: ratios.map { 1 / $0 }))
        #expect(abs(one.low * turned.high - 1) < 1e-9)
        #expect(abs(one.high * turned.low - 1) < 1e-9)
        #expect(abs(one.estimate * turned.estimate - 1) < 1e-9)
    }

    @Test func tooFewPairsAndWhatIsNoRatioHaveNone() {
        #expect(Interval(ratios: [1, 1, 1, 1, 1]) == nil)
        #expect(Interval(ratios: [1, 1, 1, 1, 1, 0]) == nil)
        #expect(Interval(ratios: [1, 1, 1, 1, 1, -1]) == nil)
        #expect(Interval(ratios: [1, 1, 1, 1, 1, .nan]) == nil)
        #expect(Interval(ratios: [1, 1, 1, 1, 1, .infinity]) == nil)
        #expect(Interval(ratios: [1, 1, 1, 1, 1, 1])?.estimate == 1)
    }

    /// Noise of a tenth, and one pair of eight disturbed by a factor of up to four: 95 of 100 intervals hold the truth nevertheless.
    @Test(arguments: [6, 8, 16]) func intervalsHoldTheTruth(_ pairs: Int) throws {
        var dice = Dice(state: UInt64(pairs)), holding = 0
        for _ in 0..<4000 {
            let ratios = (0..<pairs).map { _ in
                let isDisturbed = Int.random(in: 0..<8, using: &dice) == 0
                return 0.9 * exp(dice.normal() * (isDisturbed ? 0.7 : 0.1))
            }
            let interval = try #require(Interval(ratios: ratios))
            if interval.low <= 0.9, interval.high >= 0.9 { holding += 1 }
        }
        // 3800 would be 95 of 100; three standard deviations of the count are 41.
        #expect(holding >= 3759)
    }
}

@Suite struct JudgementTests {
    private func judge(_ ratios: [Double], counts: [Judgement.Count] = []) -> Verdict { Judgement(ratios: ratios, counts: counts).verdict }
    private func count(_ ratio: Double, isOfRow: Bool = true) throws -> Judgement.Count {
        Judgement.Count(name: "instructions", ratio: try #require(Interval(ratios: [Double](repeating: ratio, count: 6))), isOfRow: isOfRow)
    }
    private let noisy = [0.8, 1.2, 0.9, 1.1, 1.3, 0.7]

    @Test func aVerdictFollowsFromTheInterval() {
        #expect(judge([1, 1.01, 0.99, 1, 1.02, 0.98]) == .sameOrBetter)
        #expect(judge([1.4, 1.6, 1.5, 1.7, 1.3, 1.9]) == .sameOrBetter)
        #expect(judge([0.98, 0.985, 0.99, 0.98, 0.982, 0.991]) == .slightlyWorse)
        #expect(judge([0.95, 0.951, 0.949, 0.96, 0.94, 0.95]) == .worse)
        #expect(judge([0.5, 0.6, 0.7, 0.4, 0.65, 0.55]) == .worse)
        #expect(judge(noisy) == .tooNoisy)
        #expect(judge([1, 1, 1]) == .untold)
    }

    @Test func countsAreAskedWhereTheIntervalTellsNothing() throws {
        #expect(judge(noisy, counts: [try count(1), try count(0.95)]) == .worseByCounts)
        #expect(judge(noisy, counts: [try count(1), try count(0.98)]) == .tooNoisy)
        #expect(judge(noisy, counts: [try count(0.5, isOfRow: false)]) == .tooNoisy)
        // Where it tells, more instructions for the same time are no fault.
        #expect(judge([1, 1.01, 0.99, 1, 1.02, 0.98], counts: [try count(0.5)]) == .sameOrBetter)
    }

    @Test func moreIsSaidOfWhatTheNewSideTakes() throws {
        #expect(abs(try count(0.8).more - 0.25) < 1e-9)
    }

    /// Two sides that are alike: whatever the noise, hardly a row in a hundred is told to be worse.
    @Test(arguments: [0.01, 0.03, 0.1, 0.3]) func alikeIsHardlyEverWorse(_ noise: Double) {
        var dice = Dice(state: 1), worse = 0
        for _ in 0..<2000 {
            let ratios = (0..<8).map { _ in exp(noise * dice.normal()) }
            if judge(ratios) == .worse { worse += 1 }
        }
        // 2.5 of 100 would be 50 of 2000.
        #expect(worse < 100)
    }
}
