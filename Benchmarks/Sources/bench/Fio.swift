import Foundation
import System

/// A run of fio(1), and what came out.
struct Fio {
    /// In the unit that was asked for; `.seconds`: for one operation, with its flush.
    let value: Double
    let latency: Row.Latency

    init(_ arguments: [String], isReading: Bool, _ unit: Unit, _ plan: Plan) throws {
        let path = plan.memory + "/fio.json"
        defer { removeAll(path) }
        _ = try Meter.counting { try succeed("fio", ["--name=bench", "--output-format=json", "--output=\(path)"] + arguments, limit: 120) }
        let output = try JSONDecoder().decode(Output.self, from: Data(contentsOf: URL(fileURLWithPath: path)))
        guard let job = output.jobs.first, job.error == 0 else { throw Failure(.system, "fio", "it had an error") }
        let side = isReading ? job.read : job.write
        switch unit {
        case .operationsPerSecond: value = side.iops
        case .seconds: value = Double(side.runtime) / 1e3 / Double(max(1, side.total_ios))
        default: value = side.bw_bytes
        }
        // Of an operation with its flush, fio tells the parts only; most of it is the flush.
        let times = unit == .seconds ? job.sync.lat_ns : side.clat_ns
        let percentiles = times.percentile ?? [:]
        func percentile(_ name: String) -> Double { (percentiles[name] ?? 0) / 1e9 }
        latency = Row.Latency(
            median: percentile("50.000000"), p99: percentile("99.000000"), p999: percentile("99.900000"), highest: times.max / 1e9)
    }

    /// The fields of its JSON that are of use; names are fio's.
    private struct Output: Decodable {
        struct Job: Decodable {
            let error: Int
            let read, write: Side
            let sync: Flushes
        }
        struct Flushes: Decodable { let lat_ns: Latency }
        struct Side: Decodable {
            let bw_bytes, iops: Double
            /// Milliseconds.
            let runtime: Int
            let total_ios: Int
            let clat_ns: Latency
        }
        struct Latency: Decodable {
            let max: Double
            let percentile: [String: Double]?
        }
        let jobs: [Job]
    }
}
