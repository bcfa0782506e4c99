import BlockModel
import Disk
import Glibc
import Store
import System
import Testing
import TestSupport

/// A writer that is killed at any instant, a hundred times over the same store.
@Suite struct CrashTests {
    static let sectors = 24 * 2048 + 3

    /// What the disk may hold after the writer's death: the model, or, where a step was on its way, something else.
    struct Expectation {
        var model = ModelDisk(sectors: CrashTests.sectors)
        /// What sectors may also be: those of steps that were not acknowledged.
        var alternatives: [Int: [[UInt8]]] = [:]

        mutating func acknowledge(_ step: RandomStep) {
            guard step.operation == .write || step.operation == .discard else { return }
            model.write(at: step.sector, Self.data(step))
            for sector in step.sector..<step.sector + step.count { alternatives[sector] = nil }
        }

        mutating func mayHaveDone(_ step: RandomStep) {
            guard step.operation == .write || step.operation == .discard else { return }
            let data = Self.data(step)
            for index in 0..<step.count {
                alternatives[step.sector + index, default: []].append(Array(data[index * sectorSize..<(index + 1) * sectorSize]))
            }
        }

        private static func data(_ step: RandomStep) -> [UInt8] {
            step.operation == .write ? step.data : [UInt8](repeating: 0, count: step.count * sectorSize)
        }

        /// Takes over what is there.
        /// - Returns: the first sector that is neither, or nil.
        mutating func settle(_ found: [UInt8]) -> Int? {
            for (sector, others) in alternatives {
                let range = sector * sectorSize..<(sector + 1) * sectorSize
                let now = Array(found[range])
                guard now == Array(model.bytes[range]) || others.contains(now) else { return sector }
                model.write(at: sector, now)
            }
            alternatives.removeAll()
            guard model.bytes != found else { return nil }
            return (0..<CrashTests.sectors).first { model.read(at: $0, count: 1) != Array(found[$0 * sectorSize..<($0 + 1) * sectorSize]) }
        }
    }

    @Test(.timeLimit(.minutes(60)), arguments: [11]) func whatWasAcknowledgedIsThere(seed: UInt64) throws {
        let scratch = try ScratchDirectory()
        let store = try Store(path: scratch.path + "/store", creating: true)
        try store.create("d", byteCount: UInt64(Self.sectors * sectorSize))
        let writer = try Child.built("CrashWriter")
        var random = SeededGenerator(seed: seed)
        var expectation = Expectation()
        var steps = 0
        for round in 0..<100 {
            let roundSeed = random.next() as UInt64
            let child = try Child(writer, [store.path, "d", "\(roundSeed)"])
            // From the first instant, with recovery at work, to well behind a few commits: of half of them, once some of it was written.
            let isEarly = Bool.random(using: &random)
            var output: [UInt8] = []
            while !isEarly, output.count < 50 {
                let more = child.receive(limit: Child.patience)
                if more.isEmpty { break }
                output += more
            }
            usleep(UInt32.random(in: 0...(isEarly ? 40_000 : 250_000), using: &random))
            child.kill(SIGKILL)
            let outcome = child.wait()
            #expect(outcome.signal == SIGKILL, "seed \(seed), round \(round): \(outcome.text) \(outcome.errors)")
            output += outcome.output
            var replay = SeededGenerator(seed: roundSeed)
            for _ in output { expectation.acknowledge(RandomStep(&replay, sectors: Self.sectors, longest: 200)) }
            expectation.mayHaveDone(RandomStep(&replay, sectors: Self.sectors, longest: 200))
            steps += output.count
            // Not every round, so that the next writer meets what this one left, and may be killed over it.
            guard round % 3 == 2 || round == 99 else { continue }
            let disk = try StoreDisk(store, "d", journalBytes: 4 << 20)
            if let sector = expectation.settle(try disk.contents()) {
                Issue.record("seed \(seed), round \(round): sector \(sector) is neither old nor new")
                return
            }
            try disk.close()
            let report = try store.check(readData: round % 9 == 2 || round == 99, repair: false) { _, _ in }
            #expect(report.problems == [], "seed \(seed), round \(round)")
        }
        #expect(steps > 1000, "the writer hardly wrote")
    }
}
