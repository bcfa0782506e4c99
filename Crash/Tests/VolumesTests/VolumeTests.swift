import Glibc
import Testing

@testable import Volumes

/// What a cut leaves of calls that are made up.
@Suite struct VolumeTests {
    struct Random: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return state ^ state >> 29
        }
    }

    /// Calls that follow one on the other: each is at work at one moment, and over at the next, which is the next one's beginning.
    private func trace(_ kinds: [(Call.Kind, UInt64, [UInt8])]) -> Trace {
        let calls = kinds.enumerated().map { index, call in Call(kind: call.0, file: call.1, data: call.2, began: 2 * index, ended: 2 * index + 2) }
        return Trace(calls: calls, moments: 2 * calls.count)
    }

    private func volume(_ kinds: [(Call.Kind, UInt64, [UInt8])]) -> (Volume, Int) {
        let trace = trace(kinds)
        return (Volume(trace, root: "/r", startingWith: Tree(), numbers: ["": 1]), trace.moments)
    }

    private func cuts(_ kinds: [(Call.Kind, UInt64, [UInt8])], at moment: Int? = nil, _ promise: Promise = .posix) -> [Tree] {
        var found: [Tree] = []
        for seed in 0..<200 {
            var random = Random(state: UInt64(seed))
            var (volume, end) = volume(kinds)
            volume.advance(to: moment ?? end)
            let tree = volume.cut(promise, Fate.allCases.randomElement(using: &random) ?? .allKept, &random)
            if !found.contains(tree) { found.append(tree) }
        }
        return found
    }

    private func files(_ trees: [Tree]) -> Set<[String: [UInt8]]> { Set(trees.map(\.files)) }

    private let a = [UInt8](repeating: 1, count: 512), b = [UInt8](repeating: 2, count: 512)

    @Test func whatIsNotSyncedIsThereOrNot() {
        let calls: [(Call.Kind, UInt64, [UInt8])] = [(.made(path: "/r/f"), 2, []), (.write(offset: 0, durable: false), 2, a)]
        #expect(files(cuts(calls)) == [[:], ["f": []], ["f": a], ["f": [UInt8](repeating: 0, count: 512)]])
        // The file is durable, its name is not.
        #expect(files(cuts(calls + [(.sync, 2, [])])) == [[:], ["f": a]])
        #expect(files(cuts(calls + [(.sync, 2, []), (.sync, 1, [])])) == [["f": a]])
        // A name without what is in it.
        #expect(files(cuts(calls + [(.sync, 1, [])])).contains(["f": []]))
        // A sync that is at work.
        #expect(files(cuts(calls + [(.sync, 2, []), (.sync, 1, [])], at: 7)).contains([:]))
    }

    @Test func eachSectorIsOldOrNew() {
        let calls: [(Call.Kind, UInt64, [UInt8])] = [
            (.made(path: "/r/f"), 2, []), (.write(offset: 0, durable: false), 2, a + a), (.sync, 2, []), (.sync, 1, []),
            (.write(offset: 0, durable: false), 2, b + b),
        ]
        #expect(files(cuts(calls)) == [["f": a + a], ["f": a + b], ["f": b + a], ["f": b + b]])
        let durable = calls.dropLast() + [(.write(offset: 0, durable: true), 2, b + b)]
        #expect(files(cuts(Array(durable))) == [["f": b + b]])
    }

    @Test func aRenameIsOneThing() {
        let calls: [(Call.Kind, UInt64, [UInt8])] = [
            (.made(path: "/r/f"), 2, []), (.write(offset: 0, durable: false), 2, a), (.sync, 2, []), (.made(path: "/r/g"), 3, []), (.sync, 1, []),
            (.rename(from: "/r/f", to: "/r/g", exchanging: false), 0, []),
        ]
        #expect(files(cuts(calls)) == [["f": a, "g": []], ["g": a]])
        #expect(files(cuts(calls + [(.sync, 1, [])])) == [["g": a]])
    }

    @Test func directoriesAreNamesToo() {
        let calls: [(Call.Kind, UInt64, [UInt8])] = [
            (.makeDirectory(path: "/r/d"), 2, []), (.made(path: "/r/d/f"), 3, []), (.sync, 3, []), (.sync, 2, []),
        ]
        let trees = cuts(calls)
        #expect(trees.contains { $0.directories.isEmpty && $0.files.isEmpty } && trees.contains { $0.files == ["d/f": []] })
        #expect(cuts(calls + [(.sync, 1, [])]).allSatisfy { $0.files == ["d/f": []] })
    }

    /// In order, nothing is there without what came before it.
    @Test func anOrderedFilesystem() {
        let calls: [(Call.Kind, UInt64, [UInt8])] = [
            (.made(path: "/r/f"), 2, []), (.write(offset: 0, durable: false), 2, a), (.made(path: "/r/g"), 3, []), (.resize(100), 3, []),
            (.unlink(path: "/r/f"), 0, []),
        ]
        let empty = [UInt8](repeating: 0, count: 100)
        #expect(files(cuts(calls, .ordered)) == [[:], ["f": []], ["f": a], ["f": a, "g": []], ["f": a, "g": empty], ["g": empty]])
        // Whoever syncs the last one has all of it.
        #expect(files(cuts(calls.dropLast() + [(.sync, 3, [])], .ordered)) == [["f": a, "g": empty]])
    }

    @Test func sizesAndHoles() {
        let calls: [(Call.Kind, UInt64, [UInt8])] = [
            (.made(path: "/r/f"), 2, []), (.write(offset: 0, durable: false), 2, a + a), (.sync, 2, []), (.sync, 1, []),
            (.allocate(mode: 3, offset: 0, count: 512), 2, []), (.allocate(mode: 0, offset: 1024, count: 512), 2, []),
        ]
        let hole = [UInt8](repeating: 0, count: 512)
        #expect(files(cuts(calls)) == [["f": a + a], ["f": hole + a], ["f": a + a + hole], ["f": hole + a + hole]])
        #expect(files(cuts(calls + [(.dataSync, 2, [])])) == [["f": hole + a + hole]])
    }

    /// A program's calls, seen by who watches it: what it made and changed, and what it started did, is what was written down.
    @Test func aProgramThatIsWatched() throws {
        let place = "/tmp/volume-tests-\(getpid())", root = place + "/root"
        try Tree().write(to: place)
        try Tree().write(to: root)
        defer { try? Tree.remove(place) }
        var start = Tree()
        start.files = ["old": a, "gone": b]
        try start.write(to: root)
        let numbers = try Tree.numbers(below: root)
        let script = """
            cd "$0"; mkdir d; printf abc >d/new; printf x >>d/new; (printf y >>d/new); mv d/new d/f; ln d/f link; rm gone; echo said; head -c 3000 /bin/ls >big
            dd if=/bin/ls of=old bs=512 count=3 seek=1 conv=notrunc,fsync status=none; truncate -s 700 d/g; fallocate -p -o 0 -l 512 old; : >big
            """
        let trace = try Trace(running: ["/bin/bash", "-c", script, root], below: root, log: place + "/log")
        var volume = Volume(trace, root: root, startingWith: start, numbers: numbers)
        volume.advance(to: trace.moments)
        var random = Random(state: 1)
        let all = volume.cut(.posix, .allKept, &random), there = try Tree(at: root)
        #expect(all == there && all.fingerprint == there.fingerprint)
        let synced = volume.cut(.posix, .noneKept, &random)
        #expect(synced.files.keys.sorted() == ["gone", "old"] && synced.files["old"]?.count == 2048)
        #expect(trace.calls.filter { $0.kind == .say }.map(\.data) == [Array("said\n".utf8)])
    }

    /// It ends before the call that it is told, and all before it were made.
    @Test func aProgramThatIsKilled() throws {
        let place = "/tmp/volume-tests-killed-\(getpid())", root = place + "/root"
        defer { try? Tree.remove(place) }
        for last in 1...3 {
            try Tree.remove(place)
            try Tree().write(to: place)
            try Tree().write(to: root)
            _ = try Trace(running: ["/bin/bash", "-c", "cd \"$0\"; : >a; : >b; : >c", root], below: root, log: place + "/log", killedAt: last)
            #expect(try Tree(at: root).files.keys.sorted() == Array(["a", "b", "c"].prefix(last - 1)))
        }
    }

    /// A program that has a fault is made of one that has none.
    @Test func whatIsPlanted() {
        let calls: [(Call.Kind, UInt64, [UInt8])] = [
            (.made(path: "/r/f"), 2, []), (.made(path: "/r/g"), 3, []), (.sync, 1, []), (.write(offset: 0, durable: false), 2, a), (.dataSync, 2, []),
            (.write(offset: 0, durable: true), 3, b),
        ]
        let (_, end) = volume(calls)
        let trace = trace(calls)
        func left(_ trace: Trace, at moment: Int) -> [String: [UInt8]] {
            var random = Random(state: 1), volume = Volume(trace, root: "/r", startingWith: Tree(), numbers: ["": 1])
            volume.advance(to: moment)
            return volume.cut(.posix, .noneKept, &random).files
        }
        #expect(left(trace, at: end) == ["f": a, "g": b])
        #expect(left(trace.forgettingSyncs([:]) { $0.hasSuffix("f") }, at: end) == ["f": [], "g": b])
        #expect(left(trace.forgettingSyncs([:]) { $0.hasSuffix("g") }, at: end) == ["f": a, "g": []])
        let late = trace.delayingSyncs([:], of: { $0.hasSuffix("f") }, behindWritesTo: { $0.hasSuffix("g") })
        #expect(left(late, at: end) == ["f": [], "g": b])
        let early = Trace(calls: trace.calls + [Call(kind: .dataSync, file: 3, began: end, ended: end + 1)], moments: end + 3)
        let over = early.writingOver([:], { $0.hasSuffix("f") }, beforeSyncsOf: { $0.hasSuffix("g") })
        #expect(left(over, at: end) == ["f": a, "g": b] && left(over, at: end + 1) == ["f": [UInt8](repeating: 0, count: 512), "g": b])
    }
}
