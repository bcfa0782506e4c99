/// Which changes a cut leaves of those that were not durable.
public enum Fate: String, CaseIterable, Sendable {
    case allKept, noneKept, someKept, mostKept, fewKept, oneMissing, oneKept
    /// All changes up to one; of that one, if it is a write, the first sectors.
    case firstKept
    /// All changes of some files, and none of the others.
    case someFiles
}

/// Decides which changes are kept of those that were not durable.
struct Dice<Random: RandomNumberGenerator> {
    private let fate: Fate
    private let chosen: Int
    private let salt: UInt64
    var random: Random

    /// - Parameter orders: the numbers of these changes.
    init(_ fate: Fate, _ orders: [Int], _ random: Random) {
        var random = random
        self.fate = fate
        chosen = orders.randomElement(using: &random) ?? 0
        salt = random.next()
        self.random = random
    }

    private mutating func oneIn(_ count: Int) -> Bool { Int.random(in: 0..<count, using: &random) == 0 }

    /// Whether a change is kept.
    /// - Parameters:
    ///   - order: its number.
    ///   - file: the file that it is of; 0 for names.
    mutating func keeps(_ order: Int, of file: Int) -> Bool {
        switch fate {
        case .allKept: true
        case .noneKept: false
        case .someKept: oneIn(2)
        case .mostKept: !oneIn(10)
        case .fewKept: oneIn(10)
        case .oneMissing: order != chosen
        case .oneKept: order == chosen
        case .firstKept: order <= chosen
        case .someFiles: (salt ^ UInt64(file) &* 0x9e37_79b9_7f4a_7c15) &* 0xbf58_476d_1ce4_e5b9 >> 63 == 0
        }
    }

    /// Which sectors of a write are kept.
    mutating func sectors(_ count: Int, of order: Int, _ file: Int) -> Sectors {
        switch fate {
        // Sector by sector, or all of it.
        case .someKept, .mostKept, .fewKept: if oneIn(2) { return .each }
        case .firstKept where order == chosen: return .first(Int.random(in: 0...count, using: &random))
        default: break
        }
        return .first(keeps(order, of: file) ? count : 0)
    }

    enum Sectors {
        case each
        case first(Int)
    }
}

extension Volume {
    /// What a cut at this moment leaves: what is durable, and of the rest what the promise allows and the fate chooses.
    public mutating func cut(_ promise: Promise, _ fate: Fate, _ random: inout some RandomNumberGenerator) -> Tree {
        let orders = pendingNames.map(\.order) + files.flatMap { file in file.pending.compactMap { $0.isDurable ? nil : $0.order } }
        var seeded = Seeded(state: random.next())
        // A filesystem's journal may have been written further than the last sync has made sure.
        let last = Int.random(in: committedOrder...max(committedOrder, order), using: &seeded)
        let end = fate == .allKept ? order : fate == .noneKept ? committedOrder : last
        var dice = Dice(fate, orders, seeded)
        var names = durableNames
        for change in pendingNames where promise == .ordered ? change.order <= end : dice.keeps(change.order, of: 0) { Self.apply(change, to: &names) }
        var directories: Set<String> = []
        var found: [String: [UInt8]] = [:], hashes: [String: UInt64] = [:]
        var contents: [FileID: [UInt8]] = [:]
        var children: [FileID: [(name: String, file: FileID)]] = [:]
        for (entry, file) in names { children[entry.directory, default: []].append((entry.name, file)) }
        var waiting: [(directory: FileID, prefix: String)] = [(0, "")]
        while let (directory, prefix) = waiting.popLast() {
            for (name, file) in (children[directory] ?? []).sorted(by: { $0.name < $1.name }) {
                if files[file].isDirectory {
                    directories.insert(prefix + name)
                    waiting.append((file, prefix + name + "/"))
                } else {
                    let bytes = contents[file] ?? bytes(of: file, promise == .ordered ? end : nil, &dice)
                    contents[file] = bytes
                    found[prefix + name] = bytes
                    if files[file].pending.isEmpty {
                        let hash = files[file].hash ?? Bytes.hash(bytes)
                        files[file].hash = hash
                        hashes[prefix + name] = hash
                    }
                }
            }
        }
        return Tree(directories, found, hashes)
    }

    /// The bytes of a file that a cut leaves.
    /// - Parameter end: up to which change an ordered filesystem has names and sizes; nil: it is not ordered.
    private func bytes(of file: FileID, _ end: Int?, _ dice: inout Dice<Seeded>) -> [UInt8] {
        var bytes = files[file].bytes
        for change in files[file].pending {
            if change.isDurable {
                Self.apply(change, to: &bytes)
            } else if case .write(let offset, _) = change.kind {
                let grows = Int(offset) + change.data.count > bytes.count
                // Whether the file has grown is decided by itself; in an ordered filesystem its data is there then.
                let isGrown = grows && (end.map { change.order <= $0 } ?? dice.keeps(change.order, of: file))
                if isGrown { Self.resize(&bytes, to: Int(offset) + change.data.count) }
                // No write lies in more sectors.
                let count = change.data.count / 512 + 2
                let kept = isGrown && end != nil ? .first(count) : dice.sectors(count, of: change.order, file)
                Self.write(change.data, at: Int(offset), to: &bytes, kept, &dice)
            } else if end.map({ change.order <= $0 }) ?? dice.keeps(change.order, of: file) {
                Self.apply(change, to: &bytes)
            }
        }
        return bytes
    }

    /// Sectors of a write, as far as the file reaches.
    private static func write(_ data: [UInt8], at start: Int, to bytes: inout [UInt8], _ kept: Dice<Seeded>.Sectors, _ dice: inout Dice<Seeded>) {
        let reach = min(data.count, bytes.count - start)
        guard reach > 0 else { return }
        if case .first(let count) = kept {
            // Up to the end of a sector of the disk.
            let end = count == 0 ? 0 : min(reach, (start / 512 + count) * 512 - start)
            if end > 0 { bytes.replaceSubrange(start..<start + end, with: data[..<end]) }
            return
        }
        var offset = 0
        while offset < reach {
            let next = min(reach, ((start + offset) / 512 + 1) * 512 - start)
            if Bool.random(using: &dice.random) { bytes.replaceSubrange(start + offset..<start + next, with: data[offset..<next]) }
            offset = next
        }
    }
}

/// SplitMix64.
struct Seeded: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
        return z ^ z >> 31
    }
}
