import Glibc
import System
import Testing
import TestSupport

/// `dedupdisk serve` at work, and how to reach it.
struct Server {
    let child: Child
    let uri: String
    /// What it said before that, a line each.
    let told: [String]

    /// What it may say of the machine that the tests run on.
    private static let filling = ": its filesystem is "

    /// Starts it, and waits until it says where the disk is.
    init(_ tool: Tool, _ arguments: [String]) throws {
        child = try tool.start(["serve"] + arguments)
        var said = ""
        var words: [Substring] = []
        for _ in 0..<50 where words.isEmpty {
            said += child.receiveErrors(limit: 10)
            // What the store told first is told before.
            let lines = said.split(separator: "\n", omittingEmptySubsequences: false).dropLast().map { $0.split(separator: " ") }
            words = lines.first { $0.count == 6 && $0.prefix(5) == ["dedupdisk:", "disk", $0[2], "is", "at"] } ?? []
        }
        try #require(words.count == 6, "\(said)")
        told = said.split(separator: "\n").map(String.init).filter { !$0.contains(" is at ") && !$0.contains(Self.filling) }
        uri = String(words[5])
    }

    /// Asks for the end, as people do, and sees it come.
    /// - Parameter telling: the store may have something to tell meanwhile.
    func end(_ signal: Int32 = SIGINT, telling: Bool = false, location: SourceLocation = #_sourceLocation) {
        child.kill(signal)
        let outcome = child.wait()
        #expect(outcome.status == 0, "\(outcome)", sourceLocation: location)
        let told = Tool.told(outcome).dropLast().filter { !$0.contains(Self.filling) }
        #expect(told.allSatisfy { telling && ($0.hasPrefix("dedupdisk: store ") || $0.hasPrefix("dedupdisk: disk ")) }, "\(outcome)", sourceLocation: location)
        #expect(telling ? outcome.errors.contains(" is closed\n") : outcome.errors.hasSuffix(" is closed\n"), "\(outcome)", sourceLocation: location)
    }
}

/// Programs of others that speak NBD.
enum Client {
    static let areInstalled = ["nbdinfo", "nbdcopy", "qemu-img", "qemu-io", "fio"].allSatisfy { unsafe access("/usr/bin/" + $0, X_OK) == 0 }

    static func run(_ name: String, _ arguments: String...) throws -> Child.Outcome {
        try Child("/usr/bin/" + name, arguments).wait()
    }

    /// Runs what has to work; its output.
    @discardableResult
    static func succeed(_ name: String, _ arguments: String..., location: SourceLocation = #_sourceLocation) throws -> String {
        let outcome = try Child("/usr/bin/" + name, arguments).wait()
        #expect(outcome.status == 0, "\(name) \(arguments): \(outcome.errors) \(outcome.text)", sourceLocation: location)
        return outcome.text
    }
}
