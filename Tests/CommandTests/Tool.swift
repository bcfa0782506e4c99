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
        try start(arguments, input: input, output: output).wait()
    }

    /// Runs what has to work; its output.
    @discardableResult
    func succeed(_ arguments: String..., location: SourceLocation = #_sourceLocation) throws -> String {
        let outcome = try start(arguments).wait()
        #expect(outcome.status == 0, "\(arguments): \(outcome)", sourceLocation: location)
        #expect(outcome.errors == "", sourceLocation: location)
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
        #expect(outcome.errorLines.count == 1, "\(outcome.errors)", sourceLocation: location)
        #expect(outcome.errors.hasSuffix("\n"), sourceLocation: location)
        let line = outcome.errorLines.first ?? ""
        #expect(line.hasPrefix("dedupdisk: "), "\(line)", sourceLocation: location)
        #expect(line.dropFirst(11).contains(": "), "\(line)", sourceLocation: location)
        if remedy { #expect(line.hasSuffix(")") && line.contains(" ("), "\(line)", sourceLocation: location) }
        for word in words { #expect(line.contains(word), "'\(word)' in: \(line)", sourceLocation: location) }
    }

    /// Nothing is wrong with the store, and every blob is what its name says.
    func expectClean(location: SourceLocation = #_sourceLocation) throws {
        let outcome = try run("check", "--read-data")
        #expect(outcome.status == 0 && outcome.errors == "" && outcome.text.hasSuffix(": no damage\n"), "\(outcome)", sourceLocation: location)
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
