import Activity
import Control

/// What a server says of a disk, as `stats` prints it.
struct LiveDisk: Encodable {
    /// Of one kind of requests. Latencies are in seconds; null: there was no such request in the last ten to twenty seconds.
    struct Requests: Encodable {
        let requests, bytes: UInt64
        let p50, p99, p999, max: Double?

        init(_ found: Activity.Figures.Requests) {
            (requests, bytes) = (found.requests, found.bytes)
            (p50, p99, p999, max) = (found.median, found.p99, found.p999, found.longest)
        }
    }
    let seconds: Double
    let queueDepth: Int
    let stagedBytes: UInt64
    let secondsSinceCommit: Double?
    let read, write, discard, flush: Requests

    init(_ found: LiveFigures) {
        (seconds, queueDepth) = (found.activity.seconds, found.activity.queueDepth)
        (stagedBytes, secondsSinceCommit) = (found.stagedBytes, found.secondsSinceCommit)
        (read, write) = (Requests(found.activity.read), Requests(found.activity.write))
        (discard, flush) = (Requests(found.activity.discard), Requests(found.activity.flush))
    }

    /// The table for people, with a row for each disk below its heads.
    static func table(_ disks: [(name: String, figures: LiveFigures)]) -> [[String]] {
        func time(_ seconds: Double?) -> String {
            guard let seconds else { return "-" }
            return seconds < 1e-3
                ? Console.fixed(seconds * 1e6, 0) + " µs" : seconds < 1 ? Console.fixed(seconds * 1e3, 1) + " ms" : Console.fixed(seconds, 1) + " s"
        }
        func times(_ requests: Activity.Figures.Requests) -> String { "\(time(requests.median)) / \(time(requests.p99))" }
        var rows = [["SERVED", "QUEUE", "READ", "P50 / P99", "WRITTEN", "P50 / P99", "FLUSH P50 / P99", "STAGED"]]
        for (name, figures) in disks {
            let activity = figures.activity
            let row: [String] = [
                name, "\(activity.queueDepth)", Console.size(activity.read.bytes), times(activity.read), Console.size(activity.write.bytes),
                times(activity.write), times(activity.flush), Console.size(figures.stagedBytes),
            ]
            rows.append(row)
        }
        return rows
    }
}
