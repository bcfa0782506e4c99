import Glibc
import System
import Testing
import TestSupport

/// The built `dedupdisk`, with a store of its own.
struct Tool {
    let scratch: ScratchDirectory
    let executable: String
    var store: String
    var meta: String { store + "/meta/data.mdb" }
    var packs: String { store + "/packs/data.mdb" }

    init() throws {
        scratch = try ScratchDirectory()
        executable = try Child.built("dedupdisk")
        store = scratch.path + "/store"
    }

    func path(_ name: String) -> String { scratch.path + "/" + name }

    func start(_ arguments: [String], input: Child.Input = .nothing, output: Child.Output = .captured) throws -> Child {
        try Child(executable, arguments, environment: ["DEDUPDISK_STORE": store], input: input, output: output)
    }

    func run(_ arguments: String..., input: Child.Input = .nothing, output: Child.Output = .captured) throws -> Child.Outcome {
        try outcome { try start(arguments, input: input, output: output) }
    }

    /// How a command ends. A server that is asked for a copy of its disk has two seconds to answer, and holds still for a tenth of one beside others:
    /// where a busy machine takes longer, whoever asked is told to try again, and does.
    private func outcome(_ start: () throws -> Child) throws -> Child.Outcome {
        var outcome = try start().wait()
        let isTooBusy = ["it does not answer", "it could not hold still long enough"]
        for _ in 0..<50 where outcome.status == 1 && isTooBusy.contains(where: { outcome.errors.contains($0) }) { outcome = try start().wait() }
        return outcome
    }

    /// Lines of standard error, but for those of who waited for another's turn at the store: whether that took long enough to be told is the machine's
    /// business.
    static func told(_ outcome: Child.Outcome) -> [Substring] {
        outcome.errorLines.filter { !($0.contains(": waiting for ") && $0.contains(": held for ")) && !$0.contains(": no longer waiting for ") }
    }

    /// Runs what has to work; its output.
    @discardableResult
    func succeed(_ arguments: String..., location: SourceLocation = #_sourceLocation) throws -> String {
        let outcome = try outcome { try start(arguments) }
        #expect(outcome.status == 0, "\(arguments): \(outcome)", sourceLocation: location)
        #expect(Self.told(outcome) == [], sourceLocation: location)
        return outcome.text
    }

    /// Runs what has to fail: in that way, with one line that says what, why and, unless told otherwise, what to do.
    func fail(
        _ arguments: String..., status: Int32 = 1, naming words: [String] = [], remedy: Bool = true, input: Child.Input = .nothing,
        output: Child.Output = .captured, location: SourceLocation = #_sourceLocation
    ) throws {
        try fail(contentsOf: arguments, status: status, naming: words, remedy: remedy, input: input, output: output, location: location)
    }

    func fail(
        contentsOf arguments: [String], status: Int32 = 1, naming words: [String] = [], remedy: Bool = true, input: Child.Input = .nothing,
        output: Child.Output = .captured, location: SourceLocation = #_sourceLocation
    ) throws {
        let outcome = try start(arguments, input: input, output: output).wait()
        expectFailure(outcome, status: status, naming: words, remedy: remedy, location: location)
    }

    func expectFailure(
        _ outcome: Child.Outcome, status: Int32 = 1, naming words: [String] = [], remedy: Bool = true,
        location: SourceLocation = #_sourceLocation
    ) {
        #expect(outcome.status == status, "\(outcome)", sourceLocation: location)
        let lines = Self.told(outcome)
        #expect(lines.count == 1, "\(outcome.errors)", sourceLocation: location)
        #expect(outcome.errors.hasSuffix("\n"), sourceLocation: location)
        let line = lines.first ?? ""
        #expect(line.hasPrefix("dedupdisk: "), "\(line)", sourceLocation: location)
        #expect(line.dropFirst(11).contains(": "), "\(line)", sourceLocation: location)
        if remedy { #expect(line.hasSuffix(")") && line.contains(" ("), "\(line)", sourceLocation: location) }
        for word in words { #expect(line.contains(word), "'\(word)' in: \(line)", sourceLocation: location) }
    }

    /// Nothing is wrong with the store, and every blob is what its name says.
    func expectClean(location: SourceLocation = #_sourceLocation) throws {
        let outcome = try run("check", "--read-data")
        #expect(outcome.status == 0 && Self.told(outcome) == [] && outcome.text.hasSuffix(": no damage\n"), "\(outcome)", sourceLocation: location)
    }

    /// An image of these blocks (see `block`), in a file.
    @discardableResult
    func image(_ name: String, _ blocks: [UInt64]) throws -> [UInt8] {
        let bytes = blocks.flatMap { block($0) }
        try Files.write(path(name), bytes)
        return bytes
    }

    /// A disk of these blocks.
    @discardableResult
    func disk(_ name: String, _ blocks: [UInt64]) throws -> [UInt8] {
        let bytes = try image(name + ".raw", blocks)
        try succeed("import", path(name + ".raw"), name)
        return bytes
    }
}
