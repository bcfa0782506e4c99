import BlockModel
import System
import TestSupport

/// What a disk or a snapshot holds: a number for each sector, zeros behind the last. Whatever was copied from one another shares one, which never
/// changes.
final class Content {
    /// Nil: not known before somebody reads it.
    private(set) var values: [UInt64]?
    /// Where it was copied from, if a writer was at work there.
    let capture: Capture?
    private var knownBlocks: [Int]?

    init(_ values: [UInt64]) {
        self.values = values
        capture = nil
    }

    init(_ capture: Capture) { self.capture = capture }

    /// Somebody has read it.
    /// - Returns: what is wrong with that, or nil.
    func settle(_ found: [UInt64]) -> String? {
        if let values {
            for sector in 0..<max(values.count, found.count) {
                let wanted = sector < values.count ? values[sector] : 0, has = sector < found.count ? found[sector] : 0
                if wanted != has { return "sector \(sector) is \(has), not \(wanted)" }
            }
            return nil
        }
        values = found
        return capture?.settle(found)
    }

    /// Its blocks that are not zeros, each by a number that equal ones share.
    func blocks(_ numbers: inout BlockNumbers) -> [Int] {
        if let knownBlocks { return knownBlocks }
        let values = values ?? []
        var blocks: [Int] = []
        for first in stride(from: 0, to: values.count, by: sectorsPerBlock) {
            var block = SIMD8<UInt64>()
            var isZero = true
            for index in 0..<min(sectorsPerBlock, values.count - first) where values[first + index] != 0 {
                block[index] = values[first + index]
                isZero = false
            }
            if !isZero { blocks.append(numbers[block]) }
        }
        knownBlocks = blocks
        return blocks
    }
}

/// A number for each different block.
struct BlockNumbers {
    private var numbers: [SIMD8<UInt64>: Int] = [:]

    subscript(block: SIMD8<UInt64>) -> Int {
        mutating get {
            if let number = numbers[block] { return number }
            numbers[block] = numbers.count
            return numbers.count - 1
        }
    }
}

/// What a writer does to disks, and what these held before.
final class WriterHistory {
    let id: Int
    let worker: Int
    let seed: UInt64
    let load: SectorLoad
    let log: String
    let bases: [[UInt64]]

    init(id: Int, worker: Int, seed: UInt64, log: String, bases: [[UInt64]]) {
        (self.id, self.worker, self.seed, self.log, self.bases) = (id, worker, seed, log, bases)
        load = SectorLoad(seed: seed, sectors: bases.map(\.count))
    }
}

/// A copy of a writer's disk, as of some moment within a time.
///
/// A writer has one step at work at a time. So its disk is at every moment what so many steps have made of it, and perhaps, sector by sector, a part of
/// the next one; and each number of steps is possible for a while: since the last of them began, until the one behind it is answered.
final class Capture: CustomStringConvertible {
    let writer: WriterHistory
    let disk: Int
    private let from, to: Double
    /// When it can have been; nil: not known.
    private(set) var moments: [ClosedRange<Double>]?

    /// - Parameters:
    ///   - from: what was answered before then is in it. Infinite, with `to`: it is what the writer left at its end.
    ///   - to: what began later is not in it.
    init(_ writer: WriterHistory, disk: Int, from: Double, to: Double) { (self.writer, self.disk, self.from, self.to) = (writer, disk, from, to) }

    var description: String {
        "disk \(disk) of writer \(writer.id), which worker \(writer.worker) has, between \(from) and \(to): \(moments.map { "\($0)" } ?? "unknown")"
    }

    /// - Returns: what is wrong, when it was at no moment what was found.
    func settle(_ found: [UInt64]) -> String? {
        do throws(Failure) {
            let moments = try self.moments(of: found)
            self.moments = moments
            return moments.isEmpty ? "it is what disk \(disk) of writer \(writer.id) was at no moment between \(from) and \(to)" : nil
        } catch {
            return "\(error)"
        }
    }

    private func moments(of found: [UInt64]) throws(Failure) -> [ClosedRange<Double>] {
        let (begun, ended) = try StepLog.times(writer.log)
        let least = ended.count { $0 < from }, most = begun.count { $0 < to }
        var load = writer.load
        var state = writer.bases[disk]
        let length = max(state.count, found.count)
        state += [UInt64](repeating: 0, count: length - state.count)
        let found = found + [UInt64](repeating: 0, count: length - found.count)
        var different = 0
        var moments: [ClosedRange<Double>] = []
        for done in 0...max(least, most) {
            let step = done < most || done < least ? load.next() : nil
            if done == least { different = state.indices.count { state[$0] != found[$0] } }
            if done >= least {
                let answered = done < ended.count ? ended[done] : .infinity
                if different == 0 {
                    append(done > 0 ? begun[done - 1] : -.infinity, answered, to: &moments)
                } else if let step, step.disk == disk, different <= step.count {
                    let explained = step.range.count { state[$0] != found[$0] && found[$0] == step.value(at: $0) }
                    if explained == different { append(begun[done], answered, to: &moments) }
                }
            }
            guard let step, step.disk == disk, step.operation != .flush else { continue }
            for sector in step.range {
                let value = step.value(at: sector)
                if done >= least { different += (value != found[sector] ? 1 : 0) - (state[sector] != found[sector] ? 1 : 0) }
                state[sector] = value
            }
        }
        return moments
    }

    private func append(_ first: Double, _ last: Double, to moments: inout [ClosedRange<Double>]) {
        // What a writer left at its end has no time.
        let first = from.isInfinite ? first : max(first, from), last = to.isInfinite ? last : min(last, to)
        if first <= last { moments.append(first...last) }
    }

    /// Whether copies, as far as they are known, can all be of one moment.
    static func areOfOneMoment(_ captures: [Capture]) -> Bool {
        let known = captures.compactMap(\.moments)
        // If there is one, then one of those at which something begins to be possible.
        return known.count < 2 || known.joined().contains { begin in known.allSatisfy { $0.contains { $0.contains(begin.lowerBound) } } }
    }
}

/// A disk or a snapshot.
struct Image {
    /// In sectors.
    var sectors: Int
    var content: Content
}

/// A disk with its snapshots.
final class Family {
    var name: String
    var disk: Image
    /// The oldest first.
    var snapshots: [(name: String, image: Image)] = []
    /// The worker that may change it.
    var owner: Int
    /// Whoever writes to the disk, and its place there.
    var writer: (history: WriterHistory, place: Int)?

    /// Sizes that the disk has had, the last one perhaps not yet.
    var sizes: [Int]
    var isGrowing = false
    /// Somebody does what nobody else may be in the way of.
    var isTaken = false
    /// Copies that are being made of it, and attempts at what is refused.
    var copies = 0, attempts = 0

    var isFree: Bool { !isTaken && copies == 0 && attempts == 0 && !isGrowing }

    init(_ name: String, _ disk: Image, owner: Int) {
        (self.name, self.disk, self.owner) = (name, disk, owner)
        sizes = [disk.sectors]
    }

    func image(_ snapshot: String?) -> Image? { snapshot == nil ? disk : snapshots.first { $0.name == snapshot }?.image }

    func setSize(_ sectors: Int) {
        disk.sectors = sectors
        sizes.append(sectors)
    }

    /// What a copy of the disk holds that is made in this time.
    func content(copiedFrom from: Double, to: Double) -> Content {
        guard let writer else { return disk.content }
        return Content(Capture(writer.history, disk: writer.place, from: from, to: to))
    }

    /// Its writer is gone.
    func endWriting() {
        guard writer != nil else { return }
        disk.content = content(copiedFrom: .infinity, to: .infinity)
        writer = nil
    }
}
