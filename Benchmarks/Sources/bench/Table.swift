import Foundation

extension Report {
    /// The tables for a terminal.
    var text: String {
        var lines = [
            "\(machine.cpu), \(machine.cores) cores, \(Unit.bytes.text(Double(machine.memoryBytes))), Linux \(machine.kernel)",
            "Medians of \(rounds) round\(rounds == 1 ? "" : "s") in which limit and subject take turns; ratios are of figures of the same round.",
        ]
        if isShort { lines.append("A SHORT RUN: it shows that everything runs. Its figures mean nothing.") }
        for section in sections { lines += ["", section.title] + section.lines }
        if !failures.isEmpty { lines += ["", "FAILED"] + failures.map { "  \($0)" } }
        lines += ["", summary]
        return lines.joined(separator: "\n")
    }

    /// How many goals are met.
    private var summary: String {
        let verdicts = sections.flatMap(\.rows).compactMap(\.verdict)
        let after = verdicts.filter { $0 == .after }.count, first = verdicts.filter { $0 == .first }.count
        return "Of \(verdicts.count) goals, \(first + after) reach what a release needs, \(after) of them what we are after."
    }
}

extension Section {
    fileprivate var lines: [String] {
        table(["", "figure", "p99", "ratio", "of", "first", "after", ""], rows.map(\.cells), left: [0, 4, 7])
            + missing.map { "  missing: \($0)" } + wrap(caveat, 116).map { "  " + $0 }
    }
}

/// Lines whose columns are below each other.
/// - Parameter left: the columns of words; numbers go to the right.
func table(_ heads: [String], _ rows: [[String]], left: Set<Int>) -> [String] {
    let lines = [heads] + rows
    let widths = heads.indices.map { column in lines.map { $0[column].count }.max() ?? 0 }
    return lines.map { cells in
        let padded = cells.indices.map { column in
            let space = String(repeating: " ", count: widths[column] - cells[column].count)
            return left.contains(column) ? cells[column] + space : space + cells[column]
        }
        return ("  " + padded.joined(separator: "  ")).replacing(#/\s+$/#, with: "")
    }
}

extension Row {
    fileprivate var cells: [String] {
        [
            name, unit.text(value.median), latency.map { Unit.seconds.text($0.p99) } ?? "",
            limit.map { Unit.ratio.text($0.ratio.median) } ?? "", limit.map { "\($0.name), \(unit.text($0.value.median))" } ?? "",
            goal.map { $0.text($0.first, judgedUnit) } ?? "", goal.map { $0.text($0.after, judgedUnit) } ?? "",
            [verdict?.mark, remark].compactMap { $0 }.joined(separator: "; "),
        ]
    }
}

extension Goal {
    func text(_ value: Double, _ unit: Unit) -> String { "\(isCeiling ? "≤" : "≥") \(unit.text(value))" }
}

extension Goal.Verdict {
    /// In words: colour alone does not reach everybody.
    var mark: String {
        switch self {
        case .missed: "NOT MET"
        case .first: "first met"
        case .after: "after met"
        }
    }
}

/// Breaks a text into lines of at most `width` characters.
func wrap(_ text: String, _ width: Int) -> [String] {
    var lines: [String] = [], line = ""
    for word in text.split(separator: " ") {
        if !line.isEmpty, line.count + 1 + word.count > width {
            lines.append(line)
            line = ""
        }
        line += (line.isEmpty ? "" : " ") + word
    }
    return line.isEmpty ? lines : lines + [line]
}
