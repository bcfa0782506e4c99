/// One figure, measured once a round.
struct Sample: Codable, Sendable {
    private(set) var rounds: [Double] = []

    init(_ rounds: [Double] = []) { self.rounds = rounds }

    mutating func add(_ value: Double) { rounds.append(value) }

    var median: Double {
        let sorted = rounds.sorted()
        guard let middle = sorted.dropFirst(sorted.count / 2).first else { return .nan }
        return sorted.count % 2 == 1 ? middle : (middle + sorted[sorted.count / 2 - 1]) / 2
    }
    var lowest: Double { rounds.min() ?? .nan }
    var highest: Double { rounds.max() ?? .nan }

    /// Round by round: the median of these is less noisy than the ratio of two medians.
    static func / (values: Sample, limits: Sample) -> Sample {
        Sample(zip(values.rounds, limits.rounds).map { $0 / $1 })
    }
}
