import Foundation
import PairedStatistics

/// A row that both revisions have, and its figures of each pair.
struct PairedRow: Codable, Sendable {
    struct Figures: Codable, Sendable {
        let old, new: Double
        let oldEffort, newEffort: Effort?
    }
    let name: String
    let unit: Unit
    let isLessBetter: Bool
    private(set) var pairs: [Figures] = []
    /// By callgrind, of small runs.
    private(set) var countedInstructions: Interval?
    /// Whether these pairs stand for others, by which it looked worse.
    var isSecond = false

    init(_ row: Row) {
        name = row.name
        unit = row.unit
        isLessBetter = row.isLessBetter
    }

    mutating func add(_ old: Row, _ new: Row) {
        pairs.append(Figures(old: old.value.median, new: new.value.median, oldEffort: old.effort, newEffort: new.effort))
    }

    /// Takes what valgrind counted in some runs. The lowest counts are compared: what comes in a thread's way makes it do more, never
    /// less.
    mutating func set(instructions old: [Double], _ new: [Double]) {
        guard let lowest = old.min(), let lowestNew = new.min(), lowest > 0, lowestNew > 0 else { return }
        let ratio = lowest / lowestNew
        countedInstructions = Interval(estimate: ratio, low: ratio, high: ratio, pairs: min(old.count, new.count))
    }

    /// Whether that makes it worse.
    var looksWorseByInstructions: Bool { judgement.verdict == .worseByCounts && (countedInstructions?.high ?? 1) < Judgement.allowed }

    /// Whether neither the processor nor valgrind has counted its instructions.
    var lacksInstructions: Bool { countedInstructions == nil && !pairs.contains { $0.oldEffort?.instructions != nil } }

    var judgement: Judgement {
        Judgement(ratios: pairs.map { Self.ratio(isLessBetter ? $0.old : $0.new, isLessBetter ? $0.new : $0.old) }, counts: counts)
    }

    /// Both zero are alike.
    private static func ratio(_ one: Double, _ other: Double) -> Double { one == other ? 1 : one / other }

    private var counts: [Judgement.Count] {
        let instructions = countedInstructions.map { Judgement.Count(name: "instructions", ratio: $0) } ?? count("instructions", few: 1e5, \.instructions)
        return [
            // The next best thing, where instructions can't be counted.
            instructions ?? count("processor time", few: 1e-4) { $0.processorTime },
            count("system calls", few: 100) { $0.calls },
            count("bytes", few: 65536) { $0.bytes },
        ].compactMap { $0 }
    }

    /// - Parameter few: added to both sides, so that a difference that is small beside it is none.
    private func count(_ name: String, few: Double, _ value: (Effort) -> Double?) -> Judgement.Count? {
        let ratios = pairs.compactMap { pair -> Double? in
            guard let old = pair.oldEffort.flatMap(value), let new = pair.newEffort.flatMap(value) else { return nil }
            return (old + few) / (new + few)
        }
        // An effort without a number is that of a whole run.
        let isOfRow = pairs.allSatisfy { $0.oldEffort?.part != nil && $0.newEffort?.part != nil }
        return Interval(ratios: ratios).map { Judgement.Count(name: name, ratio: $0, isOfRow: isOfRow) }
    }

    private enum CodingKeys: String, CodingKey { case name, unit, isLessBetter, isSecond, pairs, countedInstructions, ratio, verdict, counts }

    init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        name = try values.decode(String.self, forKey: .name)
        unit = try values.decode(Unit.self, forKey: .unit)
        isLessBetter = try values.decode(Bool.self, forKey: .isLessBetter)
        isSecond = try values.decode(Bool.self, forKey: .isSecond)
        pairs = try values.decode([Figures].self, forKey: .pairs)
        countedInstructions = try values.decodeIfPresent(Interval.self, forKey: .countedInstructions)
    }

    /// With what follows from the figures.
    func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(name, forKey: .name)
        try values.encode(unit, forKey: .unit)
        try values.encode(isLessBetter, forKey: .isLessBetter)
        try values.encode(isSecond, forKey: .isSecond)
        try values.encode(pairs, forKey: .pairs)
        try values.encodeIfPresent(countedInstructions, forKey: .countedInstructions)
        let judgement = judgement
        try values.encodeIfPresent(judgement.ratio, forKey: .ratio)
        try values.encode(judgement.verdict, forKey: .verdict)
        try values.encode(judgement.counts, forKey: .counts)
    }
}

extension Row {
    var isLessBetter: Bool {
        switch unit {
        case .seconds, .bytes, .percent: true
        case .bytesPerSecond, .operationsPerSecond: false
        case .ratio: goal?.isCeiling ?? false
        }
    }
}

/// The rows of a section of both revisions.
struct PairedSection: Codable, Sendable {
    let name: String
    private(set) var title = ""
    private(set) var rows: [PairedRow] = []
    /// Rows that one revision alone has.
    private(set) var onlyOld: [String] = []
    private(set) var onlyNew: [String] = []
    /// What either could not measure.
    private(set) var missing: [String] = []

    init(name: String) { self.name = name }

    mutating func add(_ old: Report, _ new: Report) {
        let olds = old.sections.flatMap(\.rows), news = new.sections.flatMap(\.rows)
        title = new.sections.first?.title ?? title
        for row in news {
            guard let before = olds.first(where: { $0.name == row.name && $0.unit == row.unit }) else {
                Self.insert(row.name, into: &onlyNew)
                continue
            }
            let index = rows.firstIndex { $0.name == row.name } ?? rows.count
            if index == rows.count { rows.append(PairedRow(row)) }
            rows[index].add(before, row)
        }
        for row in olds where !news.contains(where: { $0.name == row.name && $0.unit == row.unit }) { Self.insert(row.name, into: &onlyOld) }
        for text in (old.sections + new.sections).flatMap(\.missing) { Self.insert(text, into: &missing) }
    }

    private static func insert(_ name: String, into names: inout [String]) { if !names.contains(name) { names.append(name) } }

    /// Takes other pairs in the place of those of some rows.
    mutating func replace(_ names: [String], by other: PairedSection) {
        for index in rows.indices where names.contains(rows[index].name) {
            guard let row = other.rows.first(where: { $0.name == rows[index].name }) else { continue }
            rows[index] = row
            rows[index].isSecond = true
        }
    }

    mutating func set(_ old: [InstructionCount], _ new: [InstructionCount]) {
        for index in rows.indices {
            rows[index].set(instructions: old.compactMap { $0.rows[rows[index].name] }, new.compactMap { $0.rows[rows[index].name] })
        }
    }
}
