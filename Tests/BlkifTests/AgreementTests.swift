import Blkif
import TestSupport
import Testing

/// The same life of a ring, led by Xen's macros and by ours in every pairing, leaves the same bytes and asks for the
/// same events at every step.
@Suite struct AgreementTests {
    struct Case: CustomTestStringConvertible, Sendable {
        let abi: ABI
        let order: Int
        /// Where the indices start: nil for a new ring.
        let index: UInt32?
        let seed: UInt64
        var testDescription: String { "\(abi), order \(order), index \(index.map(String.init) ?? "new"), seed \(seed)" }
    }

    static let cases: [Case] = [ABI.x86_64, .x86_32].flatMap { abi in
        [0, 0, 0, 1, 4].enumerated().flatMap { round, order in
            [nil, 0, UInt32.max - 40, 0x7FFF_FFF0].enumerated().map { start, index in
                Case(abi: abi, order: order, index: index, seed: UInt64(round * 4 + start))
            }
        }
    }

    /// One memory and its two ends.
    final class Pair {
        let name: String
        let memory: RingMemory
        let front: any FrontEnd
        let back: any BackEnd

        init(_ c: Case, ourFront: Bool, ourBack: Bool) throws {
            name = "\(ourFront ? "our" : "C") front, \(ourBack ? "our" : "C") back"
            memory = RingMemory(order: c.order)
            if let index = c.index { memory.wind(to: index) }
            front = ourFront ? try OurFront(memory, c.abi, at: c.index) : ReferenceFront(memory, c.abi, at: c.index)
            back = ourBack ? try OurBack(memory, c.abi, at: c.index) : ReferenceBack(memory, c.abi, at: c.index)
        }
    }

    @Test(arguments: cases) func sameBytesAndEvents(_ c: Case) throws {
        let pairs = try [(false, false), (false, true), (true, false), (true, true)].map {
            try Pair(c, ourFront: $0.0, ourBack: $0.1)
        }
        var generator = SeededGenerator(seed: c.seed)
        var taken: [Request] = []
        for step in 0..<1500 {
            // Phases in which one of the ends is the quicker, so that the ring runs full and empty.
            let frontHeavy = (step / 100) % 2 == 0
            let action = Int.random(in: 0..<12, using: &generator)
            let request = Request.random(using: &generator)
            let answered = Int.random(in: 0..<max(1, taken.count), using: &generator)
            let status: Status = [.okay, .error, .unsupported][step % 3]
            let repeats = Int.random(in: 1...(frontHeavy == (action < 4) ? 12 : 3), using: &generator)

            var outcomes: [[UInt64]] = []
            for (n, pair) in pairs.enumerated() {
                var outcome: [UInt64] = []
                switch action {
                case 0...2: for _ in 0..<repeats { outcome.append(pair.front.post(request) ? 1 : 0) }
                case 3: outcome.append(pair.front.push() ? 1 : 0)
                case 4, 5:
                    for _ in 0..<repeats {
                        guard let next = try pair.back.nextRequest() else { break }
                        outcome += next.fields
                        if n == 0 { taken.append(next) }
                    }
                case 6, 7:
                    if taken.indices.contains(answered) {
                        let response = Response(
                            id: taken[answered].id, rawOperation: taken[answered].responseOperation, rawStatus: status.rawValue)
                        outcome.append(pair.back.respond(response) ? 1 : 0)
                    }
                case 8: outcome.append(pair.back.push() ? 1 : 0)
                case 9:
                    while let next = try pair.front.nextResponse() {
                        outcome += [next.id, UInt64(next.rawOperation), UInt64(bitPattern: Int64(next.rawStatus))]
                    }
                case 10: outcome.append(try pair.front.finalCheck() ? 1 : 0)
                default: outcome.append(try pair.back.finalCheck() ? 1 : 0)
                }
                outcomes.append(outcome)
            }
            if case 6...7 = action, taken.indices.contains(answered) { taken.remove(at: answered) }
            for (pair, outcome) in zip(pairs, outcomes).dropFirst() {
                try #require(outcome == outcomes[0], "step \(step), action \(action), \(pair.name)")
                try #require(pair.memory == pairs[0].memory, "step \(step), action \(action), \(pair.name)")
            }
        }
    }
}
