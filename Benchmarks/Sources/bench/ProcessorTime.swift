import BlockModel
import Foundation
import Glibc

/// Nanoseconds that this process's threads have run, by their names: /proc/self/task/*/schedstat.
struct ProcessorTime {
    private var times: [String: Double] = [:]

    init() {
        let tasks = "/proc/self/task"
        for task in (try? FileManager.default.contentsOfDirectory(atPath: tasks)) ?? [] {
            guard let name = try? String(contentsOfFile: "\(tasks)/\(task)/comm", encoding: .utf8),
                let text = try? String(contentsOfFile: "\(tasks)/\(task)/schedstat", encoding: .utf8),
                let time = text.split(separator: " ").first.flatMap({ Double($0) })
            else { continue }
            times[name.trimmingCharacters(in: .whitespacesAndNewlines), default: 0] += time
        }
    }

    /// Seconds since `earlier` of the threads of these names.
    func seconds(_ names: Set<String>, since earlier: ProcessorTime) -> Double {
        names.reduce(0) { $0 + (times[$1] ?? 0) - (earlier.times[$1] ?? 0) } / 1e9
    }
}
