import FoundationEssentials
import Glibc
import System

/// What people and scripts see.
enum Console {
    /// A line on standard error, with the program's name, behind those that wait. One line, whatever a name or a path has in it.
    static func complain(_ text: String, _ priority: Event.Priority = .error) {
        lines.drain()
        writeAll(line(text, priority), to: 2)
    }

    /// What a server tells of its course. It does not wait for who reads it.
    static func log(_ text: String) { lines.append(line(text, .info)) }

    private static let lines = LineQueue(missed: { line("\($0) more lines found no room, as nobody read those before", .warning) }) { writeAll($0, to: 2) }

    private static func line(_ text: String, _ priority: Event.Priority) -> String {
        "\(isJournal ? "<\(priority.rawValue)>" : "")dedupdisk: \(PathText.shown(text))\n"
    }

    /// Ends the process, when what it has told is written, without exit(3), which would tear down what threads still use.
    static func end(_ status: Int32) -> Never {
        lines.drain()
        _exit(status)
    }

    /// Waits until what was told is written, or for a second.
    static func drain() { lines.drain() }

    /// What the store and its disks tell. A server prints all of it. Other commands print only why they take long (waits for a lock, hashing one by
    /// one) and that the store is upgraded: their results say the rest.
    static let events = Events { event in
        guard unsafe isServing || (event.kind == .lockWait && event.failure == nil) || event.kind == .hashing || event.kind == .upgrade else { return }
        lines.append(line("\(event.advised)", event.priority))
    }

    /// Whether standard error is systemd's journal, which finds a line's priority in front of it: systemd.exec(5), $JOURNAL_STREAM, and
    /// sd-daemon(3).
    private static let isJournal: Bool = {
        var status = stat()
        guard let stream = CommandLineText.variable("JOURNAL_STREAM"), unsafe fstat(2, &status) == 0 else { return false }
        return stream == "\(status.st_dev):\(status.st_ino)"
    }()

    /// A line on standard output.
    /// - Throws: when nobody can take it, a full disk behind a redirection for one.
    static func print(_ text: String) throws(Failure) { try put(text + "\n") }

    /// Lines on standard output, as they are, to a file or a program. On a terminal, what it would not show, or would take for a control sequence, is shown as
    /// `complain` shows it.
    /// - Throws: when they can't be written.
    static func put(_ text: String) throws(Failure) {
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        guard writeAll(isatty(1) == 1 ? lines.map { PathText.shown(String($0)) }.joined(separator: "\n") : text, to: 1) else {
            throw Failure(systemCall: "write to", "standard output", errno: errno)
        }
    }

    @discardableResult
    private static func writeAll(_ text: String, to descriptor: Int32) -> Bool {
        var text = text
        return text.withUTF8 { bytes in
            var done = 0
            while done < bytes.count {
                let count = unsafe write(descriptor, bytes.baseAddress.map { unsafe $0 + done }, bytes.count - done)
                if count < 0, errno != EINTR { return false }
                done += max(0, count)
            }
            return true
        }
    }

    /// A value as JSON on standard output.
    static func printJSON(_ value: some Encodable) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        try print(String(decoding: try encoder.encode(value), as: UTF8.self))
    }

    /// `1 blob`, `2 blobs`.
    static func count(_ number: some BinaryInteger, _ noun: String) -> String { "\(number) \(noun)\(number == 1 ? "" : "s")" }

    /// Bytes for people: three significant digits, and a unit that is a power of 1024. 1536 MiB is `1.50 GiB`.
    static func size(_ bytes: UInt64) -> String {
        if bytes < 1024 { return "\(bytes) B" }
        var value = Double(bytes)
        var unit = -1
        while value >= 999.5, unit < 5 {
            value /= 1024
            unit += 1
        }
        return "\(fixed(value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0)) \(["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][unit])"
    }

    /// `value` with that many digits after the point.
    static func fixed(_ value: Double, _ digits: Int) -> String {
        var scale = 1.0
        for _ in 0..<digits { scale *= 10 }
        let scaled = UInt64(max(0, (value * scale).rounded()))
        guard digits > 0 else { return "\(scaled)" }
        let text = String(scaled)
        let padded = String(repeating: "0", count: max(0, digits + 1 - text.count)) + text
        return "\(padded.dropLast(digits)).\(padded.suffix(digits))"
    }

    /// Rows of cells in aligned columns; the first column to the left, the others to the right.
    static func table(_ rows: [[String]]) -> String {
        let columns = rows.map(\.count).max() ?? 0
        let widths = (0..<columns).map { column in rows.map { column < $0.count ? $0[column].count : 0 }.max() ?? 0 }
        return rows.map { row in
            var line = ""
            for (column, cell) in row.enumerated() {
                let space = String(repeating: " ", count: widths[column] - cell.count)
                line += (column == 0 ? cell + space : "  " + space + cell)
            }
            while line.hasSuffix(" ") { line.removeLast() }
            return line + "\n"
        }.joined()
    }
}

/// A line on a terminal's standard error that says how far long work is; nothing when it is not a terminal.
final class Progress {
    private let verb: String
    private let isShown: Bool
    private let began = seconds()
    private var shown = 0.0

    init(_ verb: String) {
        self.verb = verb
        let terminal = CommandLineText.variable("TERM")
        isShown = isatty(2) == 1 && terminal != nil && terminal != "dumb"
    }

    private static func seconds() -> Double {
        var now = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &now)
        return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
    }

    /// - Parameter unit: how to write an amount; bytes unless said otherwise.
    func update(_ done: UInt64, of total: UInt64?, unit: (UInt64) -> String = Console.size) {
        let now = Self.seconds()
        guard isShown, now - shown > 0.2, Self.isInForeground else { return }
        shown = now
        let rate = Double(done) / max(now - began, 0.001)
        var line = "\(verb) \(unit(done))"
        if let total, total > 0 {
            line += " of \(unit(total)) (\(done * 100 / total)%), \(unit(UInt64(rate)))/s"
            if rate > 0, done < total { line += ", \(Int(Double(total - done) / rate) + 1) s left" }
        } else {
            line += ", \(unit(UInt64(rate)))/s"
        }
        fputs(line)
    }

    /// Clears the line.
    func end() { if isShown, shown > 0, Self.isInForeground { fputs("") } }

    /// Whether the terminal is this process's at the moment, and not that of another job: tcgetpgrp(3). One that is not the
    /// session's belongs to nobody.
    private static var isInForeground: Bool {
        let group = tcgetpgrp(2)
        return group < 0 || group == getpgrp()
    }

    private func fputs(_ line: String) {
        let text = "\r\(line)\u{1b}[K"
        var bytes = text
        _ = bytes.withUTF8 { unsafe write(2, $0.baseAddress, $0.count) }
    }
}
