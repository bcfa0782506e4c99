import Foundation

/// The goals as bars. Each bar is its figure over what we are after, so that one line stands for all these goals; a tick
/// on each is what a release needs.
struct Chart {
    private struct Bar {
        let row: Row
        let goal: Goal
        let verdict: Goal.Verdict
    }
    private let groups: [(title: String, bars: [Bar])]
    private let isCeiling: Bool

    /// - Parameter isCeiling: the goals that less is better for, else those that more is better for.
    init(_ report: Report, isCeiling: Bool) {
        self.isCeiling = isCeiling
        groups = report.sections.map { section in
            let bars = section.rows.compactMap { row -> Bar? in
                guard let goal = row.goal, goal.isCeiling == isCeiling, let verdict = row.verdict, row.judged.isFinite else { return nil }
                return Bar(row: row, goal: goal, verdict: verdict)
            }
            return (section.title, bars)
        }.filter { !$0.bars.isEmpty }
    }

    var isEmpty: Bool { groups.isEmpty }

    private static let width = 1020.0, labelWidth = 440.0, trackWidth = 300.0, rowHeight = 24.0
    /// Where the axis ends, in units of what we are after.
    private static let end = 2.0

    var svg: String {
        var y = 34.0, body = ""
        for group in groups {
            body += text(0, y + 4, group.title, "heading")
            y += Self.rowHeight
            for bar in group.bars {
                body += draw(bar, y)
                y += Self.rowHeight
            }
            y += 10
        }
        let line = x(1)
        let frame = """
            <line class="after" x1="\(line)" x2="\(line)" y1="22" y2="\(y - 12)"/>
            <text class="axis" x="\(line)" y="14" text-anchor="middle">what we are after</text>
            """
        return
            "<svg viewBox=\"0 0 \(Self.width) \(y)\" role=\"img\" aria-label=\"\(isCeiling ? "Goals where less is better" : "Goals where more is better")\">\n\(body)\(frame)\n</svg>\n"
    }

    private func x(_ share: Double) -> Double { Self.labelWidth + Self.trackWidth * min(max(share, 0), Self.end) / Self.end }

    private func draw(_ bar: Bar, _ y: Double) -> String {
        let unit = bar.row.judgedUnit
        let share = bar.row.judged / bar.goal.after, first = x(bar.goal.first / bar.goal.after)
        let start = Self.labelWidth, barEnd = x(share)
        // What goes beyond the axis ends in an arrow.
        let isBeyond = share > Self.end
        let shape =
            isBeyond
            ? "<path class=\"\(bar.verdict.rawValue)\" d=\"M\(start) \(y - 7)H\(barEnd - 7)L\(barEnd) \(y)L\(barEnd - 7) \(y + 7)H\(start)Z\"/>"
            : "<rect class=\"\(bar.verdict.rawValue)\" x=\"\(start)\" y=\"\(y - 7)\" width=\"\(max(1, barEnd - start))\" height=\"14\"/>"
        let figure = "\(unit.text(bar.row.judged))  of \(bar.goal.text(bar.goal.first, unit)) / \(unit.text(bar.goal.after))"
        return text(start - 10, y + 4, bar.row.name, "label", anchor: "end")
            + "<rect class=\"track\" x=\"\(start)\" y=\"\(y - 7)\" width=\"\(Self.trackWidth)\" height=\"14\"/>\(shape)\n"
            + "<line class=\"first\" x1=\"\(first)\" x2=\"\(first)\" y1=\"\(y - 10)\" y2=\"\(y + 10)\"/>\n"
            + text(start + Self.trackWidth + 10, y + 4, "\(bar.verdict.symbol) \(figure)", "figure")
    }

    private func text(_ x: Double, _ y: Double, _ text: String, _ style: String, anchor: String = "start") -> String {
        "<text class=\"\(style)\" x=\"\(x)\" y=\"\(y)\" text-anchor=\"\(anchor)\">\(escape(text))</text>\n"
    }
}

extension Goal.Verdict {
    /// For who does not tell the colours apart.
    var symbol: String {
        switch self {
        case .missed: "✗"
        case .first: "✓"
        case .after: "✓✓"
        }
    }
}

/// Text as it is written in HTML.
func escape(_ text: String) -> String {
    text.replacing("&", with: "&amp;").replacing("<", with: "&lt;").replacing(">", with: "&gt;").replacing("\"", with: "&quot;")
}
