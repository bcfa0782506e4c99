import CBench
import Foundation
import Glibc
import Synchronization
import System

/// What a measurement took of the machine: it hardly changes with what else the machine does meanwhile, as its time does. That of all
/// threads, and of the processes that were started.
struct Effort: Codable, Sendable {
    /// In user space; nil: the processor's counter can't be had.
    var instructions: Double?
    /// Seconds of processors.
    var processorTime: Double
    /// System calls, or, where the kernel does not tell, those that read and write.
    var calls: Double
    /// Bytes that system calls read and wrote.
    var bytes: Double
    /// Which of the process's rows it is, from 1 on: callgrind numbers its dumps so. Nil: it is that of the whole process.
    var part: Int?

    static func - (later: Effort, earlier: Effort) -> Effort {
        var instructions: Double?
        if let end = later.instructions, let start = earlier.instructions { instructions = end - start }
        return Effort(
            instructions: instructions, processorTime: later.processorTime - earlier.processorTime, calls: later.calls - earlier.calls,
            bytes: later.bytes - earlier.bytes)
    }
}

/// The kernel's counters of this process and of what it starts after `shared` was first asked for.
final class Counters: Sendable {
    static let shared = Counters()
    private let instructions, clock, calls: Int32

    private init() {
        instructions = cbench_open_counter(CBENCH_INSTRUCTIONS, 0)
        clock = cbench_open_counter(CBENCH_TASK_CLOCK, 0)
        // Where tracefs is not mounted, or for root alone, `Effort.calls` is less.
        let number = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"].lazy.compactMap { directory in
            (try? procText(directory + "/events/raw_syscalls/sys_enter/id")).flatMap { UInt64($0.split(separator: "\n").first ?? "") }
        }.first
        calls = number.map { cbench_open_counter(CBENCH_TRACEPOINT, $0) } ?? -1
    }

    private static func read(_ counter: Int32) -> Double? {
        guard counter >= 0 else { return nil }
        let value = cbench_read_counter(counter)
        return value >= 0 ? Double(value) : nil
    }

    func now() -> Effort {
        var transfers = Transfers()
        transfers.add(process: getpid())
        return Effort(
            instructions: Self.read(instructions), processorTime: Self.read(clock).map { $0 / 1e9 } ?? Self.processorTime(),
            calls: Self.read(calls) ?? transfers.calls, bytes: transfers.bytes)
    }

    /// The same without a counter: of this process and of those that it has waited for.
    private static func processorTime() -> Double {
        [RUSAGE_SELF, RUSAGE_CHILDREN].map(\.rawValue).reduce(0) { sum, who in
            var usage = rusage()
            getrusage(who, &usage)
            return sum + [usage.ru_utime, usage.ru_stime].reduce(0) { $0 + Double($1.tv_sec) + Double($1.tv_usec) / 1e6 }
        }
    }
}

/// Reads and writes, by /proc/PID/io (proc(5)): of a process, of those that it has waited for, and of those that still run.
private struct Transfers {
    var calls = 0.0, bytes = 0.0

    mutating func add(process: pid_t) {
        // One that has just ended is counted by its parent.
        for line in ((try? procText("/proc/\(process)/io")) ?? "").split(separator: "\n") {
            let words = line.split(separator: " ")
            guard words.count == 2, let value = Double(words[1]) else { continue }
            switch words[0] {
            case "rchar:", "wchar:": bytes += value
            case "syscr:", "syscw:": calls += value
            default: break
            }
        }
        for task in (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(process)/task")) ?? [] {
            let children = (try? procText("/proc/\(process)/task/\(task)/children")) ?? ""
            for child in children.split(separator: " ").compactMap({ pid_t($0) }) { add(process: child) }
        }
    }
}

/// Counts what measurements take, for the row that they are added to.
enum Meter {
    private struct State {
        var isOn = false, depth = 0, parts = 0
        /// One, or none. (An optional here begins as one of zeros, as Swift 6.3 lays the state out in a release.)
        var last: [Effort] = []
    }
    private static let state = Mutex(State())

    /// From now on: it costs a measurement some tens of microseconds, before its time begins and after it ends.
    static func begin() {
        _ = Counters.shared
        state.withLock { $0.isOn = true }
    }

    /// Counts what `body` takes. Of one within another, the outer one counts; of several one after the other, the last.
    static func counting<Result>(_ body: () throws -> Result) rethrows -> Result {
        let isOutermost = state.withLock { state in
            state.depth += 1
            return state.isOn && state.depth == 1
        }
        defer { state.withLock { $0.depth -= 1 } }
        guard isOutermost else { return try body() }
        cbench_region_begins()
        let before = Counters.shared.now()
        let result = try body()
        let effort = Counters.shared.now() - before
        state.withLock { $0.last = [effort] }
        return result
    }

    /// What the row that is being added took; nil: nothing was counted since the last one.
    static func take() -> Effort? {
        state.withLock { state in
            guard var effort = state.last.first else { return nil }
            state.parts += 1
            effort.part = state.parts
            state.last = []
            cbench_row_ends()
            return effort
        }
    }
}
