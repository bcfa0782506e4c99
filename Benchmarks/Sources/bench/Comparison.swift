import Histogram

/// Gathers figures over rounds in which limit and subject take turns: what else the machine does then meets both.
struct Comparison {
    private struct Entry {
        var name: String
        var unit: Unit
        var goal: Goal?
        var remark: String?
        var limitName: String?
        var values = Sample()
        var limits = Sample()
        var latencies = Histogram<UInt64>.ofLatencies()
        var latency: Row.Latency?
        var effort: Effort?
    }
    private var entries: [Entry] = []

    /// Adds a round's figure. `latencies` of all rounds are one distribution; a `latency` that somebody else summed up
    /// stands for its round, the last one that came.
    mutating func add(
        _ name: String, _ value: Double, _ unit: Unit, of limit: (name: String, value: Double)? = nil, goal: Goal? = nil,
        remark: String? = nil, latencies: Histogram<UInt64>? = nil,
        latency: Row.Latency? = nil
    ) {
        let index = entries.firstIndex { $0.name == name } ?? entries.count
        if index == entries.count {
            entries.append(Entry(name: name, unit: unit, goal: goal, remark: remark, limitName: limit?.name))
        }
        entries[index].values.add(value)
        if let limit { entries[index].limits.add(limit.value) }
        entries[index].latency = latency
        if let latencies { entries[index].latencies.add(latencies) }
        entries[index].effort = Meter.take()
        Turns.pass()
    }

    var rows: [Row] {
        entries.map { entry in
            var row = Row(entry.name, entry.values, entry.unit, goal: entry.goal, remark: entry.remark)
            // One that was not measured is none.
            if let name = entry.limitName, entry.limits.rounds.allSatisfy({ !$0.isNaN }) {
                row.limit = Row.Limit(name: name, value: entry.limits, ratio: entry.values / entry.limits)
            }
            row.effort = entry.effort
            row.latency = entry.latencies.totalCount > 0 ? Row.Latency(entry.latencies) : entry.latency
            return row
        }
    }
}

extension Row.Latency {
    init(_ latencies: Histogram<UInt64>) {
        func percentile(_ percent: Double) -> Double { Double(latencies.valueAtPercentile(percent)) / 1e9 }
        self.init(median: percentile(50), p99: percentile(99), p999: percentile(99.9), highest: Double(latencies.max) / 1e9)
    }
}
