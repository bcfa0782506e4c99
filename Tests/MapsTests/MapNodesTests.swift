import System
import Testing
import TestSupport

@testable import Maps

enum Kind: CaseIterable {
    case lmdb, memory

    func make(_ path: String) throws -> any MapPlace { self == .lmdb ? try LMDBPlace(path) : MemoryPlace() }
}

/// What keeps nodes does this, whatever it keeps them in.
@Suite struct MapNodesTests {
    let scratch: ScratchDirectory

    init() throws { scratch = try ScratchDirectory() }

    private struct Dropped: Error {}

    private static func bytes<Nodes: MapNodes>(_ nodes: Nodes, _ number: UInt64, _ reading: Nodes.Reading) throws -> [UInt8]? {
        guard let span = try nodes.bytes(of: number, reading) else { return nil }
        return [UInt8](count: span.byteCount) { $0.copy(span, to: 0) }
    }

    private static func expect(_ model: [UInt64: [UInt8]], _ place: some MapPlace, location: SourceLocation = #_sourceLocation) throws {
        try place.read { (reading, _) throws in
            #expect(try place.nodes.count(reading) == model.count, sourceLocation: location)
            for (number, content) in model { #expect(try bytes(place.nodes, number, reading) == content, "\(number)", sourceLocation: location) }
            // What is not there is asked for all the same.
            place.nodes.expect(Array(model.keys) + [1 << 40], reading)
            #expect(try bytes(place.nodes, 1 << 40, reading) == nil, sourceLocation: location)
        }
    }

    private static func content(_ random: inout SeededGenerator) -> [UInt8] {
        (0..<MapNode.byteCount).map { _ in UInt8.random(in: 0...255, using: &random) }
    }

    /// Makes, writes over where that may be, and releases, against a dictionary.
    @Test(arguments: Kind.allCases, 0..<3 as Range<UInt64>) func whatIsMadeIsThere(kind: Kind, seed: UInt64) throws {
        try Self.whatIsMadeIsThere(kind.make(scratch.path), seed)
    }

    private static func whatIsMadeIsThere(_ place: some MapPlace, _ seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        var model: [UInt64: [UInt8]] = [:]
        var next: UInt64 = 1
        for _ in 0..<20 {
            var changed = model
            var last = next
            let isDropped = Int.random(in: 0..<4, using: &random) == 0
            do {
                try place.write { (writing) throws in
                    for _ in 0..<12 {
                        let content = content(&random)
                        let old = changed.keys.sorted().randomElement(using: &random)
                        if let old, Bool.random(using: &random) {
                            try place.nodes.release(old, &writing)
                            changed[old] = nil
                        } else if let old, try place.nodes.isOwn(old, writing) {
                            try place.nodes.replace(old, count: content.count, &writing) { $0.copy(content.rawBytes, to: 0) }
                            changed[old] = content
                        } else {
                            last += UInt64.random(in: 1...1000, using: &random)
                            try place.nodes.add(last, count: content.count, &writing) { $0.copy(content.rawBytes, to: 0) }
                            changed[last] = content
                            #expect(try place.nodes.isOwn(last, writing))
                        }
                        // It sees what it does.
                        for number in [old ?? last, last] {
                            let seen = try bytes(place.nodes, number, place.nodes.reading(writing))
                            #expect(seen == changed[number], "seed \(seed)")
                        }
                    }
                    if isDropped { throw Dropped() }
                }
                model = changed
                next = last
            } catch is Dropped {}
            try expect(model, place)
        }
    }

    /// What somebody reads stays what it was, where it was.
    @Test(arguments: Kind.allCases) func aReadingShowsItsMoment(kind: Kind) throws { try Self.aReadingShowsItsMoment(kind.make(scratch.path)) }

    private static func aReadingShowsItsMoment(_ place: some MapPlace) throws {
        var random = SeededGenerator(seed: 1)
        var model: [UInt64: [UInt8]] = [:]
        for number in 1...9 as ClosedRange<UInt64> { model[number] = content(&random) }
        try place.write { (writing) throws in
            for (number, content) in model { try place.nodes.add(number, count: content.count, &writing) { $0.copy(content.rawBytes, to: 0) } }
        }
        try place.read { (reading, state) throws -> Void in
            guard let first = try place.nodes.bytes(of: 1, reading) else {
                Issue.record("it is gone")
                return
            }
            try place.write { (writing) throws in
                for number in 1...4 as ClosedRange<UInt64> { try place.nodes.release(number, &writing) }
                for number in 5...9 as ClosedRange<UInt64> where try place.nodes.isOwn(number, writing) {
                    try place.nodes.replace(number, count: 64, &writing) { $0.store(number, at: 0) }
                }
            }
            #expect(try place.nodes.count(reading) == 9)
            for (number, content) in model { #expect(try bytes(place.nodes, number, reading) == content) }
            #expect([UInt8](count: first.byteCount) { $0.copy(first, to: 0) } == model[1])
            #expect(try place.read { (_, later) in later } != state)
        }
        try place.read { (reading, _) throws in #expect(try place.nodes.count(reading) == 5) }
    }
}
