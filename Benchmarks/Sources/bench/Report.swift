import Foundation

/// All that a run found.
struct Report: Codable {
    let date: String
    let machine: Machine
    let isShort: Bool
    let rounds: Int
    var sections: [Section] = []
    var failures: [String] = []

    struct Machine: Codable {
        let cpu: String
        let cores: Int
        let memoryBytes: Int
        let kernel: String

        /// By the kernel's list of what the processor can do, where there is one.
        static let hasAVX512 = ((try? procText("/proc/cpuinfo")) ?? "").split(whereSeparator: \.isWhitespace).contains("avx512f")
    }

    init(_ plan: Plan) {
        date = ISO8601DateFormatter().string(from: Date())
        machine = Machine.this
        isShort = plan.isShort
        rounds = plan.rounds
    }

    /// Writes `bench.json` and `bench.html`.
    func write(to directory: String) throws {
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        encoder.nonConformingFloatEncodingStrategy = .convertToString(positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
        try encoder.encode(self).write(to: URL(fileURLWithPath: directory + "/bench.json"))
        try Data(html.utf8).write(to: URL(fileURLWithPath: directory + "/bench.html"))
        print("\nbench.json and bench.html are in \(absolute(directory))")
    }
}

extension Report.Machine {
    static var this: Report.Machine {
        let lines = (try? procText("/proc/cpuinfo"))?.split(separator: "\n") ?? []
        let model = lines.first { $0.hasPrefix("model name") }?.split(separator: ":").last.map { $0.trimmingCharacters(in: .whitespaces) }
        let kernel = (try? procText("/proc/sys/kernel/osrelease")) ?? "unknown"
        return Report.Machine(
            cpu: model ?? "unknown", cores: Plan.cores, memoryBytes: Int(clamping: ProcessInfo.processInfo.physicalMemory),
            kernel: kernel.trimmingCharacters(in: .whitespacesAndNewlines))
    }
}
