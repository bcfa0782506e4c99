import Foundation
import PairedStatistics

/// All that a comparison with another revision found.
struct AgainstReport: Codable {
    let date: String
    let machine: Report.Machine
    let revision: String
    let pairs: Int
    let isShort: Bool
    let ownBenchmark: Bool
    var sections: [PairedSection] = []
    var failures: [String] = []

    init(revision: String, pairs: Int, isShort: Bool, ownBenchmark: Bool) {
        date = ISO8601DateFormatter().string(from: Date())
        machine = Report.Machine.this
        self.revision = revision
        self.pairs = pairs
        self.isShort = isShort
        self.ownBenchmark = ownBenchmark
    }

    private var rows: [PairedRow] { sections.flatMap(\.rows) }

    /// Whether a row is worse. A short run says nothing of that.
    var isWorse: Bool { !isShort && rows.contains { $0.judgement.verdict.isWorse } }

    func write(to directory: String) throws {
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        encoder.nonConformingFloatEncodingStrategy = .convertToString(positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
        try encoder.encode(self).write(to: URL(fileURLWithPath: directory + "/bench-against.json"))
    }

    /// The table of a section for a terminal.
    func lines(of section: PairedSection) -> String { ([section.title] + section.lines).joined(separator: "\n") }

    /// The tables for a terminal.
    var text: String {
        var lines = [
            "\(machine.cpu), \(machine.cores) cores, \(Unit.bytes.text(Double(machine.memoryBytes))), Linux \(machine.kernel)",
            "This tree beside \(revision), \(pairs) pairs"
                + (ownBenchmark ? ", each with its own benchmark, one run after the other." : ", which take turns row by row."),
            "Ratios are turned so that more than 1 is better. In brackets: an interval of 95% (Wilcoxon's signed ranks over the pairs).",
        ]
        if isShort { lines.append("A SHORT RUN: it shows that everything runs. Its figures mean nothing.") }
        for section in sections { lines += ["", section.title] + section.lines }
        if !failures.isEmpty { lines += ["", "FAILED"] + failures.map { "  \($0)" } }
        return (lines + ["", summary]).joined(separator: "\n")
    }

    private var summary: String {
        let verdicts = rows.map(\.judgement.verdict)
        func count(_ verdict: Verdict) -> Int { verdicts.count { $0 == verdict } }
        let parts = [
            "\(count(.sameOrBetter)) same or better", "\(count(.slightlyWorse)) slightly worse", "\(count(.worse)) worse",
            "\(count(.tooNoisy)) too noisy and no worse by counts", "\(count(.worseByCounts)) too noisy and worse by counts", "\(count(.untold)) untold",
        ]
        return "Of \(verdicts.count) rows: " + parts.joined(separator: ", ") + "."
    }
}

extension PairedSection {
    fileprivate var lines: [String] {
        table(["", "old", "new", "ratio", "95%", ""], rows.map(\.cells), left: [0, 5]) + missing.map { "  missing: \($0)" }
            + onlyOld.map { "  only in the old one: \($0)" } + onlyNew.map { "  only in the new one: \($0)" }
    }
}

extension PairedRow {
    fileprivate var cells: [String] {
        let judgement = judgement
        func text(_ value: Double) -> String { String(format: "%.3f", value) }
        return [
            name, unit.text(Sample(pairs.map(\.old)).median), unit.text(Sample(pairs.map(\.new)).median), judgement.ratio.map { text($0.estimate) } ?? "",
            judgement.ratio.map { "[\(text($0.low)), \(text($0.high))]" } ?? "", words(judgement) + (isSecond ? " (when measured again)" : ""),
        ]
    }

    private func words(_ judgement: Judgement) -> String {
        let isOfRow = judgement.counts.allSatisfy(\.isOfRow)
        let words = judgement.counts.map(\.words).joined(separator: ", ")
        let counts = words.isEmpty ? "nothing that can be counted" : (isOfRow ? "" : "the whole run took ") + words
        switch judgement.verdict {
        case .sameOrBetter: return "same or better"
        case .slightlyWorse: return "slightly worse"
        case .worse: return "WORSE; \(counts)"
        case .tooNoisy: return "too noisy: \(counts)"
        case .worseByCounts: return "WORSE by counts: \(counts)"
        case .untold: return pairs.count < Interval.fewestPairs ? "too few pairs to tell" : "not to be put as a ratio"
        }
    }
}

extension Judgement.Count {
    /// What the new side takes more or less.
    fileprivate var words: String {
        let percent = abs(more) * 100
        let uncertainty = ratio.halfWidth > Judgement.widest ? String(format: " (±%.0f%%)", ratio.halfWidth * 100) : ""
        guard percent >= 0.05 else { return "the same \(name)" + uncertainty }
        return String(format: "%.1f%% ", percent) + (more > 0 ? "more " : "fewer ").replacing("fewer", with: name == "processor time" ? "less" : "fewer") + name
            + uncertainty
    }
}
