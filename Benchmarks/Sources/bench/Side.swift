import Foundation
import Glibc
import System
import TestSupport

/// A revision's benchmark, run once in a process of its own.
struct Side {
    enum Age: String { case old, new }
    /// A row's measurement, or all of a section, that takes longer is stuck.
    private static let patience = 1200.0

    let age: Age
    /// What it found, when it has ended.
    private(set) var report: Report?
    private let benchmark: String
    private let arguments: [String]
    private let output: String
    private let takesTurns: Bool
    private var child: Child?
    /// To the process, which waits for its turn there; -1: it takes none any more.
    private var socket: Int32 = -1

    init(_ age: Age, _ benchmark: String, _ arguments: [String], output: String, takesTurns: Bool) throws {
        self.age = age
        self.benchmark = benchmark
        self.arguments = arguments + ["--output", output] + (takesTurns ? ["--turns"] : [])
        self.output = output
        self.takesTurns = takesTurns
    }

    mutating func start() throws {
        guard takesTurns else {
            child = try Child(benchmark, arguments)
            return
        }
        var ends: [Int32] = [-1, -1]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
            throw Failure(systemCall: "make", "a socket", errno: errno)
        }
        defer { close(ends[1]) }
        socket = ends[0]
        child = try Child(benchmark, arguments, inherited: [ends[1]])
    }

    /// Waits for its end, and reads what it found.
    mutating func finish() throws {
        defer { endTurns() }
        guard let outcome = child?.wait(limit: Self.patience) else { return }
        guard outcome.status == 0 else {
            let said = outcome.errorLines.suffix(3).joined(separator: "; ")
            throw Failure(.system, "the \(age) benchmark", outcome.hasTimedOut ? "took longer than \(Int(Self.patience)) s" : "failed: \(said)")
        }
        report = try Report(from: output + "/bench.json")
    }

    /// Runs it with nobody beside it.
    /// - Parameter counting: for rows that have no counts of their own, as an older benchmark makes none, what the whole run took is
    ///   added.
    mutating func runToEnd(counting: Bool) throws {
        let before = Counters.shared.now()
        try start()
        try finish()
        let effort = Counters.shared.now() - before
        if counting { report?.addToUncounted(effort) }
    }

    /// Runs all of them at once, of which one at a time has its turn; in each other round of turns the last comes first.
    static func takeTurns(_ sides: inout [Side]) throws {
        for index in sides.indices { try sides[index].start() }
        var round = 0
        while sides.contains(where: { $0.socket >= 0 }) {
            for index in sides.indices { sides[round % 2 == 0 ? index : sides.count - 1 - index].giveTurn() }
            round += 1
        }
        for index in sides.indices { try sides[index].finish() }
    }

    /// Lets it go on until it has measured a row, or has ended.
    private mutating func giveTurn() {
        guard socket >= 0 else { return }
        var byte: UInt8 = 0
        var entry = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
        guard send(socket, &byte, 1, Int32(MSG_NOSIGNAL)) == 1 else { return endTurns() }
        if poll(&entry, 1, Int32(Self.patience * 1000)) == 0 { child?.kill(SIGKILL) }
        if recv(socket, &byte, 1, 0) != 1 { endTurns() }
    }

    private mutating func endTurns() {
        if socket >= 0 { close(socket) }
        socket = -1
    }
}

extension Report {
    /// What a benchmark wrote.
    init(from path: String) throws {
        let decoder = JSONDecoder()
        decoder.nonConformingFloatDecodingStrategy = .convertFromString(positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
        self = try decoder.decode(Report.self, from: Data(contentsOf: URL(fileURLWithPath: path)))
    }

    fileprivate mutating func addToUncounted(_ effort: Effort) {
        for section in sections.indices {
            for row in sections[section].rows.indices where sections[section].rows[row].effort == nil { sections[section].rows[row].effort = effort }
        }
    }
}
