public import BlobModel
public import System

extension MapTrees {
    /// Calls `body` with each block, in order, that two maps have other blobs for, and those. What both share is not looked at.
    public func forEachDifference(
        _ old: MapRoot, _ new: MapRoot, _ reading: Nodes.Reading, _ body: (UInt64, BlobNumber, BlobNumber) throws(Failure) -> Void
    ) throws(Failure) {
        let old = Subtree(node: old.node, level: old.height), new = Subtree(node: new.node, level: new.height)
        try compare(old, new, level: max(old.level, new.level), base: 0, reading, body)
    }

    /// A node, or nothing. One of a lower level than is asked for is all that the first part of a higher one has.
    private struct Subtree: Equatable {
        let node: UInt64
        let level: Int
    }

    private func compare(
        _ old: Subtree, _ new: Subtree, level: Int, base: UInt64, _ reading: Nodes.Reading,
        _ body: (UInt64, BlobNumber, BlobNumber) throws(Failure) -> Void
    ) throws(Failure) {
        if old == new || old.node == 0 && new.node == 0 { return }
        let before = try parts(old, level: level, reading), after = try parts(new, level: level, reading)
        if level > 0 { nodes.expect((0..<MapNode.fanout).filter { before[$0] != after[$0] }.flatMap { [before[$0], after[$0]] }.filter { $0 != 0 }, reading) }
        for index in 0..<MapNode.fanout where before[index] != after[index] {
            let first = base + UInt64(index) * MapNode.entrySpan(level: level)
            if level == 0 {
                try body(first, BlobNumber(rawValue: before[index]), BlobNumber(rawValue: after[index]))
            } else {
                let below = level - 1
                try compare(
                    Subtree(node: before[index], level: min(old.level, below)), Subtree(node: after[index], level: min(new.level, below)), level: below,
                    base: first, reading, body)
            }
        }
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
