public import BlobModel
public import System

extension MapTrees {
    /// Calls `body` with each block, from one on, for which two maps have different blobs, and with both blobs, in order, until it says false. Nodes
    /// that both share are not looked at.
    public func forEachDifference(
        _ old: MapRoot, _ new: MapRoot, from first: UInt64 = 0, _ reading: Nodes.Reading,
        _ body: (UInt64, BlobNumber, BlobNumber) throws(Failure) -> Bool
    ) throws(Failure) {
        let old = Subtree(node: old.node, level: old.height), new = Subtree(node: new.node, level: new.height)
        _ = try compare(old, new, level: max(old.level, new.level), base: 0, from: first, reading, body)
    }

    /// A node, or nothing. A node of a lower level stands for a higher one of which it is the first child, and the only one.
    private struct Subtree: Equatable {
        let node: UInt64
        let level: Int
    }

    private func compare(
        _ old: Subtree, _ new: Subtree, level: Int, base: UInt64, from start: UInt64, _ reading: Nodes.Reading,
        _ body: (UInt64, BlobNumber, BlobNumber) throws(Failure) -> Bool
    ) throws(Failure) -> Bool {
        if old == new || old.node == 0 && new.node == 0 { return true }
        let before = try parts(old, level: level, reading), after = try parts(new, level: level, reading)
        if level > 0 { nodes.expect((0..<MapNode.fanout).filter { before[$0] != after[$0] }.flatMap { [before[$0], after[$0]] }.filter { $0 != 0 }, reading) }
        let span = MapNode.entrySpan(level: level)
        for index in 0..<MapNode.fanout where before[index] != after[index] {
            let first = base + UInt64(index) * span
            guard first + span > start else { continue }
            let goesOn: Bool
            if level == 0 {
                goesOn = try body(first, BlobNumber(rawValue: before[index]), BlobNumber(rawValue: after[index]))
            } else {
                let below = level - 1
                goesOn = try compare(
                    Subtree(node: before[index], level: min(old.level, below)), Subtree(node: after[index], level: min(new.level, below)), level: below,
                    base: first, from: start, reading, body)
            }
            guard goesOn else { return false }
        }
        return true
    }

    private func parts(_ tree: Subtree, level: Int, _ reading: Nodes.Reading) throws(Failure) -> [UInt64] {
        var parts = [UInt64](repeating: 0, count: MapNode.fanout)
        if tree.level < level {
            parts[0] = tree.node
        } else if tree.node != 0 {
            let bytes = try nodes.node(tree.node, level: level, reading)
            for index in parts.indices { parts[index] = MapNode.entry(bytes, index) }
        }
        return parts
    }
}
