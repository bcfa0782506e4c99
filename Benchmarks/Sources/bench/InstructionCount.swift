import Foundation
import PairedStatistics
import System
import TestSupport

/// Instructions of each row of a small run, counted by valgrind's callgrind, where the processor's own counter can't be had: as in most
/// virtual machines.
struct InstructionCount {
    /// Runs of each side, and where a row then looks worse.
    static let turns = 2, mostTurns = 5
    private static let patience = 600.0
    private(set) var rows: [String: Double] = [:]

    /// - Parameters:
    ///   - arguments: those of a measurement, which is made much smaller.
    ///   - library: makes maps fit into valgrind.
    init(_ benchmark: String, _ arguments: [String], library: String, _ directory: String) throws {
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer { removeAll(directory) }
        // Valgrind can't read what the compiler writes for debuggers, and needs names alone.
        let program = directory + "/bench", counts = directory + "/counts"
        try succeed("strip", ["--strip-debug", "-o", program, benchmark])
        let valgrind = ["--tool=callgrind", "--callgrind-out-file=\(counts)", "--zero-before=cbench_region_begins", "--dump-before=cbench_row_ends"]
        try succeed(
            "valgrind", valgrind + [program] + arguments + ["--share", "256", "--output", directory], environment: ["LD_PRELOAD": library],
            limit: Self.patience)
        let report = try Report(from: directory + "/bench.json")
        for row in report.sections.flatMap(\.rows) {
            // What is told in seconds is done beside commits of what was written before, which valgrind makes last.
            guard row.unit != .seconds, let part = row.effort?.part else { continue }
            rows[row.name] = try Self.total("\(counts).\(part)")
        }
    }

    /// The sum in a dump of callgrind: its line "totals: N" (Callgrind Format Specification).
    private static func total(_ path: String) throws -> Double {
        for line in try procText(path).split(separator: "\n").reversed() where line.hasPrefix("totals:") || line.hasPrefix("summary:") {
            if let count = line.split(separator: " ").dropFirst().first.flatMap({ Double($0) }) { return count }
        }
        throw Failure(.system, "count instructions", "callgrind has written no sum to \(path)")
    }
}
