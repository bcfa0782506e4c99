import Foundation
import Hashing
import System
import TestSupport
import Volumes
import Workloads

/// What is known of a run: its calls, and what there was before. Where something is wrong it is kept, as threads make no two runs alike.
struct Recording {
    let trace: Trace
    /// The directory that was watched, what it had before, and the inode numbers of that.
    let root: String
    let start: Tree
    let numbers: [String: UInt64]
    /// The store's filter at the end, which is written through a map.
    let filter: [UInt8]

    private struct Facts: Codable {
        var root: String
        var numbers: [String: UInt64]
    }

    /// Files that are mapped to be written. What is in them does not outlive the machine's start.
    private static let mapped = ["/filter", "/lock", "/lock.mdb", ".dedupdisk-"]

    /// Runs a program, watched.
    /// - Parameters:
    ///   - store: where below the root its store is.
    ///   - place: path of the files that the recording is kept in, without the ends of their names.
    init(running arguments: [String], below root: String, store: String, _ place: String) throws {
        start = try Tree(at: root)
        numbers = try Tree.numbers(below: root)
        self.root = root
        let trace = try Trace(running: arguments, below: root, log: place + ".log")
        self.trace = trace
        for path in trace.mapped where !path.contains("#") && !Self.mapped.contains(where: path.contains) {
            throw Failure(.system, "follow", "a run", "it maps \(path) to be written, which is not followed")
        }
        try Self.expectAll(trace, start, numbers, root)
        // Some runs leave no filter.
        filter = (try? Files.bytes(root + store + "/filter")) ?? []
        try Files.write(place + ".filter", filter)
        try JSONEncoder().encode(Facts(root: root, numbers: numbers)).write(to: URL(fileURLWithPath: place + ".json"))
    }

    /// Fails unless what was recorded comes to what the run has left.
    private static func expectAll(_ trace: Trace, _ start: Tree, _ numbers: [String: UInt64], _ root: String) throws {
        var volume = Volume(trace, root: root, startingWith: start, numbers: numbers)
        volume.advance(to: trace.moments)
        var random = SeededGenerator(seed: 0)
        func unmapped(_ tree: Tree) -> [String: [UInt8]] { tree.files.filter { file in !mapped.contains { ("/" + file.key).contains($0) } } }
        let noted = unmapped(volume.cut(.posix, .allKept, &random)), there = try unmapped(Tree(at: root))
        for path in Set(noted.keys).union(there.keys).sorted() where noted[path] != there[path] {
            throw Failure(.system, "follow", "a run", "\(path) is not what was written to it, as far as is known")
        }
    }

    /// What was kept of a run.
    init(kept place: String, startingWith start: Tree) throws {
        let facts = try JSONDecoder().decode(Facts.self, from: Data(contentsOf: URL(fileURLWithPath: place + ".json")))
        (root, numbers) = (facts.root, facts.numbers)
        self.start = start
        trace = try Trace(log: place + ".log")
        filter = try Files.bytes(place + ".filter")
    }

    /// Keeps the recording of a run. One that can't be kept is made anew by who wants it.
    static func keep(_ run: String, of scratch: String, in place: String) {
        try? FileManager.default.createDirectory(atPath: place, withIntermediateDirectories: true)
        // What was read from there stays there.
        for end in ["log", "json", "filter"] where access("\(scratch)/\(run).\(end)", F_OK) == 0 {
            try? FileManager.default.removeItem(atPath: "\(place)/\(run).\(end)")
            try? FileManager.default.copyItem(atPath: "\(scratch)/\(run).\(end)", toPath: "\(place)/\(run).\(end)")
        }
    }

    /// A state with the filter as another start of the machine may find it: not there, as the calls or the page cache had it, or any pages of these.
    /// - Parameter isKnown: it has the name of this start, as a program believes that trusts any filter (`Plant.staleFilter`).
    func rebooted(_ tree: Tree, store: String, isKnown: Bool, _ random: inout SeededGenerator) -> Tree {
        let path = String((store + "/filter").dropFirst())
        guard let recorded = tree.files[path] else { return tree }
        var tree = tree
        var bytes = Bool.random(using: &random) ? recorded : filter
        switch Int.random(in: 0..<4, using: &random) {
        case 0:
            tree.replace(path, with: nil)
            return tree
        case 1:
            for page in stride(from: 0, to: bytes.count, by: 4096) where Bool.random(using: &random) {
                bytes.replaceSubrange(page..<min(page + 4096, bytes.count), with: repeatElement(0, count: min(4096, bytes.count - page)))
            }
        default: break
        }
        if bytes.count >= 80, !isKnown {
            // It says which start of the machine made it: docs/format.md.
            for place in 32..<48 { bytes[place] = .random(in: 0...255, using: &random) }
            let sum = checksum(bytes.rawBytes.extracting(0..<72))
            for place in 0..<8 { bytes[72 + place] = UInt8(truncatingIfNeeded: sum >> (8 * UInt64(place))) }
        }
        tree.replace(path, with: bytes)
        return tree
    }
}
