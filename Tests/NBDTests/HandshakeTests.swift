import NBD
import System
import Testing
import TestSupport

/// The handshake, over bytes.
@Suite struct HandshakeTests {
    static let ack: UInt64 = 1, info: UInt64 = 3
    static let unsupported: UInt64 = 0x8000_0001, invalid: UInt64 = 0x8000_0003, unknown: UInt64 = 0x8000_0006, tooBig: UInt64 = 0x8000_0009
    static let export = Export(name: "gold", byteCount: 1 << 30, isReadOnly: false)

    /// What a conversation has come to.
    struct Outcome: Equatable {
        var output: [UInt8] = []
        var session: Session?
        var isAborted = false
        var violation: String?
        /// Input that was not used.
        var rest: [UInt8] = []
        var answers: [OptionAnswer] { OptionAnswer.all(output) ?? [] }
        var kinds: [UInt64] { answers.map(\.kind) }
    }

    /// Gives the handshake `input`, `step` more bytes each time it wants some.
    func talk(_ input: [UInt8], flags: UInt64? = 3, export: Export = export, step: Int = .max) -> Outcome {
        var handshake = Handshake(export)
        var outcome = Outcome()
        let all = (flags.map { u32($0) } ?? []) + input
        var start = 0, end = min(step, all.count)
        while true {
            let progress: Handshake.Progress
            do throws(Violation) {
                progress = try handshake.receive(all.rawBytes.extracting(start..<end), &outcome.output)
            } catch {
                outcome.violation = "\(error)"
                return outcome
            }
            switch progress {
            case .consumed(let count): start += count
            case .incomplete:
                guard end < all.count else {
                    outcome.rest = Array(all[start...])
                    return outcome
                }
                end = min(all.count, end + step)
            case .transmission(let session, let consumed):
                outcome.session = session
                outcome.rest = Array(all[(start + consumed)...])
                return outcome
            case .aborted:
                outcome.isAborted = true
                return outcome
            }
        }
    }

    @Test func theGreeting() {
        #expect(Handshake.greeting == text("NBDMAGICIHAVEOPT") + u16(3))
    }

    @Test(arguments: [4, 8, 1 << 31, 0xffff_ffff] as [UInt64]) func unknownClientFlags(flags: UInt64) {
        #expect(talk(option(3), flags: flags).violation != nil)
    }

    // MARK: EXPORT_NAME

    @Test(arguments: ["gold", ""]) func exportName(name: String) {
        let flags = 0x1 | 0x4 | 0x8 | 0x20 | 0x40 | 0x100 | 0x800
        let outcome = talk(option(1, text(name)) + [7, 7])
        #expect(outcome.output == u64(1 << 30) + u16(flags))
        #expect(outcome.session == Session())
        #expect(outcome.rest == [7, 7])
        let old = talk(option(1, text(name)), flags: 1)
        #expect(old.output == u64(1 << 30) + u16(flags) + [UInt8](repeating: 0, count: 124))
        #expect(talk(option(1, text(name)), flags: 0).session != nil)
    }

    @Test(arguments: ["gol", "golden", "Gold", "gold\0", "silver", "\0", " gold"]) func exportsThatAreNotThere(name: String) {
        #expect(talk(option(1, text(name))).violation != nil)
        for number in [6, 7] as [UInt64] {
            let outcome = talk(option(number, wish(name)))
            #expect(outcome.kinds == [Self.unknown] && outcome.session == nil)
        }
        #expect(talk(option(8) + option(10, contexts(name, ["base:allocation"]))).kinds == [Self.ack, Self.unknown])
    }

    @Test func aReadOnlyExport() {
        let export = Export(name: "gold", byteCount: 512, isReadOnly: true)
        #expect(talk(option(1), export: export).output == u64(512) + u16(0x1 | 0x2 | 0x4 | 0x8 | 0x100))
    }

    // MARK: Options

    @Test func listing() {
        let outcome = talk(option(3))
        #expect(
            outcome.answers == [
                OptionAnswer(option: 3, kind: 2, data: counted("gold")), OptionAnswer(option: 3, kind: Self.ack, data: []),
            ])
        #expect(talk(option(3, [0])).kinds == [Self.invalid])
    }

    @Test(arguments: ["gold", ""]) func infoAndGo(name: String) {
        let size = u16(0) + u64(1 << 30) + u16(0x1 | 0x4 | 0x8 | 0x20 | 0x40 | 0x100 | 0x800)
        let blocks = u16(3) + u32(512) + u32(4096) + u32(32 << 20)
        let info = talk(option(6, wish(name)))
        #expect(info.answers.map(\.data) == [size, blocks, []])
        #expect(info.kinds == [Self.info, Self.info, Self.ack])
        #expect(info.session == nil && info.violation == nil)
        // A description is not there to be had.
        let go = talk(option(7, wish(name, [1, 2, 3, 77])) + [1, 2, 3])
        #expect(go.answers.map(\.data) == [size, u16(1) + text("gold"), blocks, []])
        #expect(go.answers.allSatisfy { $0.option == 7 })
        #expect(go.session == Session() && go.rest == [1, 2, 3])
    }

    @Test(arguments: [
        [], [0], [0, 0, 0, 4], u32(4) + text("gold"), u32(0) + u16(1), u32(0) + u16(0) + [0], u32(0) + u16(1) + u16(3) + [0],
        u32(0xffff_ffff) + text("gold") + u16(0), u32(5) + text("gold") + u16(0), u32(0) + u16(0xffff),
    ]) func malformedInfoAndGo(data: [UInt8]) {
        for number in [6, 7] as [UInt64] {
            let outcome = talk(option(number, data) + option(2))
            #expect(outcome.kinds == [Self.invalid, Self.ack])
            #expect(outcome.isAborted)
        }
    }

    @Test func structuredReplies() {
        #expect(talk(option(8) + option(7, wish("gold"))).session == Session(isStructured: true))
        let invalid = talk(option(8, [1]) + option(7, wish("gold")))
        #expect(invalid.kinds.first == Self.invalid && invalid.session == Session())
        // Only then is DF offered.
        let flags = talk(option(8) + option(6, wish(""))).answers[1].data.suffix(2)
        #expect(number(flags) & 0x80 != 0)
    }

    @Test(arguments: [0, 4, 5, 11, 12, 99, 0xffff_ffff] as [UInt64]) func unknownOptions(number: UInt64) {
        let outcome = talk(option(number, [1, 2, 3]) + option(2))
        #expect(
            outcome.answers == [
                OptionAnswer(option: number, kind: Self.unsupported, data: []), OptionAnswer(option: 2, kind: Self.ack, data: []),
            ])
    }

    @Test func optionsThatAreTooLarge() {
        let large = [UInt8](repeating: 9, count: 70_000)
        for step in [Int.max, 1000] {
            let outcome = talk(option(7, large) + option(99, large) + option(3), step: step)
            #expect(outcome.kinds == [Self.tooBig, Self.tooBig, 2, Self.ack])
        }
        #expect(talk(option(1, large)).violation != nil)
        #expect(talk(option(99, Array(large.prefix(1 << 16)))).kinds == [Self.unsupported])
        // Nobody waits for four gigabytes before saying so.
        #expect(talk(text("IHAVEOPT") + u32(1) + u32(0xffff_ffff)).violation != nil)
    }

    @Test func whatIsNoOption() {
        #expect(talk([UInt8](repeating: 0, count: 16)).violation != nil)
        #expect(talk(text("IHAVEOPX") + u32(3) + u32(0)).violation != nil)
        #expect(talk(request(0, length: 512)).violation != nil)
    }

    // MARK: Contexts

    @Test func contextsAreListed() {
        let found = OptionAnswer(option: 9, kind: 4, data: u32(0) + text("base:allocation"))
        let end = OptionAnswer(option: 9, kind: Self.ack, data: [])
        for queries in [[], ["base:"], ["base:allocation"], ["qemu:", "base:allocation", "base:"]] {
            #expect(talk(option(8) + option(9, contexts("gold", queries))).answers.dropFirst() == [found, end], "\(queries)")
        }
        for queries in [["qemu:"], ["base:allocatio"], ["base"], [""], ["x", "y"]] {
            #expect(talk(option(8) + option(9, contexts("gold", queries))).answers.dropFirst() == [end], "\(queries)")
        }
    }

    @Test func aContextIsChosen() {
        let go = option(7, wish("gold"))
        let chosen = talk(option(8) + option(10, contexts("gold", ["x:y", "base:allocation", "base:allocation"])) + go)
        #expect(chosen.answers[1] == OptionAnswer(option: 10, kind: 4, data: u32(1) + text("base:allocation")))
        #expect(chosen.answers[2] == OptionAnswer(option: 10, kind: Self.ack, data: []))
        #expect(chosen.session == Session(isStructured: true, hasAllocation: true))
        // A choice names it in full, and replaces the one before.
        for queries in [[], ["base:"], ["x:y"]] {
            let outcome = talk(option(8) + option(10, contexts("", ["base:allocation"])) + option(10, contexts("", queries)) + go)
            #expect(outcome.session == Session(isStructured: true, hasAllocation: false), "\(queries)")
        }
    }

    @Test(arguments: [
        [], u32(4), u32(4) + text("gold"), u32(0) + u32(1), u32(0) + u32(1) + u32(5) + text("base"), u32(0) + u32(0) + [0],
        u32(0) + u32(0xffff_ffff), u32(0) + u32(2) + counted("base:allocation"), u32(0xffff_ffff),
    ]) func malformedContexts(data: [UInt8]) {
        for number in [9, 10] as [UInt64] {
            let outcome = talk(option(8) + option(number, data) + option(7, wish("")))
            #expect(outcome.kinds.prefix(2) == [Self.ack, Self.invalid])
            #expect(outcome.session == Session(isStructured: true))
        }
    }

    @Test func contextsNeedStructuredReplies() {
        for number in [9, 10] as [UInt64] {
            #expect(talk(option(number, contexts("gold", ["base:allocation"]))).kinds == [Self.invalid])
        }
    }

    // MARK: Any input

    static let conversation =
        option(99, [1, 2, 3]) + option(8) + option(9, contexts("gold", [])) + option(10, contexts("gold", ["base:allocation"])) + option(3)
        + option(6, wish("gold", [1, 3])) + option(7, wish("gold", [3]))

    @Test func bytesMayComeOneByOne() {
        let whole = talk(Self.conversation)
        #expect(whole.session == Session(isStructured: true, hasAllocation: true))
        for step in 1...40 { #expect(talk(Self.conversation, step: step) == whole, "step \(step)") }
        // Every beginning waits for the rest.
        for count in 0..<Self.conversation.count {
            let outcome = talk(Array(Self.conversation.prefix(count)))
            #expect(outcome.session == nil && outcome.violation == nil && !outcome.isAborted)
        }
    }

    @Test(arguments: 0..<8 as Range<UInt64>) func anyBytesAreTaken(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        for _ in 0..<200 {
            var input = Self.conversation
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                let place = Int.random(in: 0..<input.count, using: &random)
                switch Int.random(in: 0..<4, using: &random) {
                case 0: input[place] = UInt8.random(in: 0...255, using: &random)
                case 1: input[place] ^= 1 << UInt8.random(in: 0...7, using: &random)
                case 2: input.remove(at: place)
                default: input.insert(UInt8.random(in: 0...255, using: &random), at: place)
                }
            }
            let step = Int.random(in: 1...64, using: &random)
            let outcome = talk(input, step: step)
            #expect(outcome.output.count < 4096, "seed \(seed)")
            #expect(outcome == talk(input), "seed \(seed)")
        }
    }
}
