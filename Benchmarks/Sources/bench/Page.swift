import Foundation

extension Report {
    /// All of it as one page that needs nothing else, in light or dark.
    var html: String {
        let machineText = "\(machine.cpu), \(machine.cores) cores, \(Unit.bytes.text(Double(machine.memoryBytes))), Linux \(machine.kernel). \(date)."
        let short = isShort ? "<p class=\"warning\">A short run: it shows that everything runs. Its figures mean nothing.</p>" : ""
        return """
            <!doctype html>
            <html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
            <title>dedupdisk: benchmarks</title><style>\(style)</style></head><body><main>
            <h1>dedupdisk, beside what the machine can do</h1>
            <p>\(escape(machineText)) Medians of \(rounds) round\(rounds == 1 ? "" : "s") in which limit and subject take turns; every ratio is of figures of the same round.</p>
            \(short)\(failures.map { "<p class=\"warning\">Failed: \(escape($0))</p>" }.joined())
            \(goals)
            \(sections.map(\.html).joined(separator: "\n"))
            </main></body></html>
            """
    }

    private var goals: String {
        let more = Chart(self, isCeiling: false), less = Chart(self, isCeiling: true)
        guard !more.isEmpty || !less.isEmpty else { return "" }
        let legend = """
            <p class="legend"><span class="key missed"></span> ✗ not met <span class="key first"></span> ✓ what a release needs
            <span class="key after"></span> ✓✓ what we are after <span class="tick"></span> a release needs this</p>
            """
        return "<h2>Goals</h2>" + legend
            + (more.isEmpty ? "" : "<h3>More is better: a bar should reach its tick, then the line</h3><figure>\(more.svg)</figure>")
            + (less.isEmpty ? "" : "<h3>Less is better: a bar should end before its tick, then before the line</h3><figure>\(less.svg)</figure>")
    }

    private var style: String {
        """
        :root { color-scheme: light dark; --ink: #1c2024; --quiet: #5c6670; --paper: #fff; --track: #e9edf0; --rule: #d5dbe0;
          --missed: #d1722a; --first: #3a7fc1; --after: #2b9356; --mark: #1c2024; }
        @media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --quiet: #9aa5af; --paper: #14171a; --track: #262c31; --rule: #343c43;
          --missed: #e88f4a; --first: #5c9fe0; --after: #48b877; --mark: #fff; } }
        body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
        main { max-width: 1280px; margin: 0 auto; padding: 24px; }
        h1 { font-size: 24px; } h2 { font-size: 19px; margin-top: 40px; } h3 { font-size: 15px; font-weight: 600; }
        figure { margin: 0; } svg { width: 100%; height: auto; font-size: 13px; }
        svg text { fill: var(--ink); } svg .heading { font-weight: 600; } svg .axis { fill: var(--quiet); }
        svg .figure { font-variant-numeric: tabular-nums; white-space: pre; }
        svg .track { fill: var(--track); } rect.missed, path.missed { fill: var(--missed); } rect.first { fill: var(--first); } path.first { fill: var(--first); }
        rect.after, path.after { fill: var(--after); } line.after { stroke: var(--mark); stroke-width: 1.5; stroke-dasharray: 4 3; }
        line.first { stroke: var(--mark); stroke-width: 2.5; }
        .key { display: inline-block; width: 14px; height: 14px; margin-left: 16px; vertical-align: -2px; }
        .key.missed { background: var(--missed); } .key.first { background: var(--first); } .key.after { background: var(--after); }
        .tick { display: inline-block; width: 3px; height: 18px; margin-left: 16px; vertical-align: -4px; background: var(--mark); }
        .legend { color: var(--quiet); } .legend .key:first-child { margin-left: 0; }
        .caveat { color: var(--quiet); max-width: 80ch; } .warning { color: var(--missed); font-weight: 600; }
        .scroll { overflow-x: auto; } table { border-collapse: collapse; min-width: 60%; font-size: 13px; font-variant-numeric: tabular-nums; }
        th { text-align: left; color: var(--quiet); font-weight: 500; } th, td { padding: 3px 14px 3px 0; border-bottom: 1px solid var(--rule); white-space: nowrap; }
        td.number, th.number { text-align: right; }
        meter-bar { display: inline-block; width: 90px; height: 10px; background: var(--track); vertical-align: -1px; margin-left: 8px; position: relative; }
        meter-bar i { position: absolute; inset: 0 auto 0 0; background: var(--quiet); } meter-bar i.missed { background: var(--missed); }
        meter-bar i.first { background: var(--first); } meter-bar i.after { background: var(--after); }
        meter-bar b { position: absolute; left: 50%; top: -2px; bottom: -2px; width: 1px; background: var(--mark); }
        """
    }
}

/// A column of a section's table.
private struct Column: Sendable {
    let head: String
    var isNumber = true
    /// HTML; empty: the row has none.
    let cell: @Sendable (Row) -> String

    static let all = [
        Column(head: "", isNumber: false) { row in
            escape(row.name) + (row.remark.map { " <span class=\"caveat\">(\(escape($0)))</span>" } ?? "")
        },
        Column(head: "median") { $0.unit.text($0.value.median) },
        Column(head: "lowest – highest") { row in
            row.value.rounds.count > 1 ? "\(row.unit.text(row.value.lowest)) – \(row.unit.text(row.value.highest))" : ""
        },
        Column(head: "p50") { $0.latency.map { Unit.seconds.text($0.median) } ?? "" },
        Column(head: "p99") { $0.latency.map { Unit.seconds.text($0.p99) } ?? "" },
        Column(head: "p99.9") { $0.latency.map { Unit.seconds.text($0.p999) } ?? "" },
        Column(head: "ratio; the line is 1") { row in row.limit.map { Unit.ratio.text($0.ratio.median) + row.meter($0.ratio.median) } ?? "" },
        Column(head: "of", isNumber: false) { row in row.limit.map { escape("\($0.name), \(row.unit.text($0.value.median))") } ?? "" },
        Column(head: "goals", isNumber: false) { row in
            guard let goal = row.goal, let verdict = row.verdict else { return "" }
            return escape("\(verdict.symbol) \(goal.text(goal.first, row.judgedUnit)), \(goal.text(goal.after, row.judgedUnit))")
        },
    ]

    func html(_ tag: String, _ content: String) -> String { "<\(tag)\(isNumber ? " class=\"number\"" : "")>\(content)</\(tag)>" }
}

extension Section {
    fileprivate var html: String {
        // What no row has takes no room.
        let columns = Column.all.filter { column in rows.contains { !column.cell($0).isEmpty } }
        let head = columns.map { $0.html("th", $0.head) }.joined()
        let body = rows.map { row in "<tr>" + columns.map { $0.html("td", $0.cell(row)) }.joined() + "</tr>" }.joined(separator: "\n")
        return """
            <h2>\(escape(title))</h2>
            <p class="caveat">\(escape(caveat))</p>\(missing.map { "<p class=\"caveat\">Missing: \(escape($0))</p>" }.joined())
            <div class="scroll"><table><thead><tr>\(head)</tr></thead><tbody>\(body)</tbody></table></div>
            """
    }
}

extension Row {
    /// A bar from 0 to 2, with a line at 1.
    fileprivate func meter(_ ratio: Double) -> String {
        let percent = ratio.isFinite ? min(100, ratio * 50) : 0
        return "<meter-bar><i class=\"\(verdict?.rawValue ?? "")\" style=\"width:\(String(format: "%.1f", percent))%\"></i><b></b></meter-bar>"
    }
}
