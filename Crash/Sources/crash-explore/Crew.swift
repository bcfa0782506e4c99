import Foundation
import Synchronization
import System
import Volumes

/// Processes that explore one run each, some of them at once. That one of them dies, or does not come to an end, is told as a fault.
struct Crew {
    let memory: String
    let count: Int
    let arguments: [String]
    /// Directory for recordings of runs with which something is wrong.
    let keep: String
    /// No further run is begun then: seconds, as `monotonicSeconds` counts.
    var end: Double?
    /// No further run is begun once something is wrong.
    var isFirstEnough = false
    var resume: String?

    init(memory: String, processes: Int?, arguments: [String], keep: String) {
        (self.memory, self.keep) = (memory, keep)
        // Some of the time each waits for threads of its own.
        count = processes ?? 2 * max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))))
        self.arguments = arguments
    }

    /// Seconds after which a process that is still at the same state is ended: a state takes some milliseconds.
    private static let patience = 120.0
    /// Processes for one run at most: each goes on behind the state that ended the one before.
    private static let tries = 3

    private struct Progress {
        var waiting: [Int]
        var result = Explorer.Result()
        var failure: (any Error)?
    }

    /// What is written down of a run that is over.
    private struct Line: Codable {
        var arguments: [String]
        var run: Int
        var result: Explorer.Result
    }

    /// Explores runs.
    /// - Parameter words: describes a run.
    func work(_ runs: Range<Int>, _ words: @Sendable (Int) -> String) throws -> Explorer.Result {
        let done = try lines()
        var all = Explorer.Result()
        for line in done.values { all += line }
        let progress = Mutex(Progress(waiting: runs.filter { done[$0] == nil }.reversed(), result: all))
        DispatchQueue.concurrentPerform(iterations: count) { _ in
            while let run = next(progress) {
                do {
                    let result = try explore(run, words(run))
                    try progress.withLock { progress in
                        progress.result += result
                        try note(Line(arguments: arguments, run: run, result: result))
                    }
                } catch {
                    progress.withLock { $0.failure = error }
                }
            }
        }
        return try progress.withLock { progress in
            if let failure = progress.failure { throw failure }
            return progress.result
        }
    }

    private func next(_ progress: borrowing Mutex<Progress>) -> Int? {
        progress.withLock { progress in
            if progress.failure != nil || end.map({ monotonicSeconds() > $0 }) ?? false || isFirstEnough && !progress.result.problems.isEmpty { return nil }
            return progress.waiting.popLast()
        }
    }

    // MARK: A run

    private func explore(_ run: Int, _ words: String) throws -> Explorer.Result {
        let scratch = "\(memory)/crash-explore-\(getpid())-\(run)"
        try Tree.remove(scratch)
        try Tree().write(to: scratch)
        // It lies in memory: whoever ends this by force may remove it.
        defer { try? Tree.remove(scratch) }
        var all = Explorer.Result()
        var from = 0
        for _ in 0..<Self.tries {
            let process = Process()
            process.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
            process.arguments = arguments + ["--run", "\(run)", "--from", "\(from)", "--scratch", scratch]
            try process.run()
            let isLate = wait(for: process, scratch)
            if process.terminationReason == .exit, process.terminationStatus == 0 {
                all += try Explorer.Result(at: scratch + "/result")
                break
            }
            let (place, cut) = place(scratch)
            let reason = process.terminationReason == .exit ? "status" : "signal"
            let how = isLate ? "it did not come to an end" : "its process ended: \(reason) \(process.terminationStatus)"
            all.problems.append("\(run).\(cut) (\(words)): \(how)")
            Recording.keep("\(run)", of: scratch, in: keep)
            guard place >= from else { break }
            from = place + 1
        }
        return all
    }

    /// How far a run's process is: the number of the state, and of its cut.
    private func place(_ scratch: String) -> (place: Int, cut: Int) {
        // There is no such file before the first state.
        let words = (try? String(contentsOfFile: scratch + "/place", encoding: .utf8))?.split(separator: " ").compactMap { Int($0) } ?? []
        return words.count == 2 ? (words[0], words[1]) : (-1, 0)
    }

    /// Waits for a run's process.
    /// - Returns: whether it stood still, and was ended.
    private func wait(for process: Process, _ scratch: String) -> Bool {
        var last = place(scratch).place, since = monotonicSeconds()
        while process.isRunning {
            pause(milliseconds: 5)
            guard monotonicSeconds() - since > 1 else { continue }
            let now = place(scratch).place
            if now != last { (last, since) = (now, monotonicSeconds()) }
            guard monotonicSeconds() - since < Self.patience else {
                kill(process.processIdentifier, SIGKILL)
                process.waitUntilExit()
                return true
            }
        }
        process.waitUntilExit()
        return false
    }

    // MARK: Going on

    private func lines() throws -> [Int: Explorer.Result] {
        guard let resume, let text = try? String(contentsOfFile: resume, encoding: .utf8) else { return [:] }
        var found: [Int: Explorer.Result] = [:]
        for line in text.split(separator: "\n") {
            // The last one may have been cut off.
            guard let line = try? JSONDecoder().decode(Line.self, from: Data(line.utf8)), line.arguments == arguments else { continue }
            found[line.run] = line.result
        }
        return found
    }

    private func note(_ line: Line) throws {
        guard let resume else { return }
        let file = try File(path: resume, options: [.write, .create])
        try file.write(at: file.size(), [UInt8](JSONEncoder().encode(line) + Data("\n".utf8)).rawBytes)
    }
}
