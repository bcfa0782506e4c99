internal import CLinux
internal import Glibc
internal import Synchronization
internal import System

/// A process that holds a lock of a store, as it wrote itself down in the lock file: 256 bytes.
///
///       0  text  process id, its PID namespace (the inode of /proc/self/ns/pid, 0: not known) and command, separated by spaces, filled up
///                with zeros
///     248  u64   how many locks it had taken when it took this one
struct LockHolder: Equatable {
    let process: pid_t
    let namespace: UInt64
    /// How many locks it had taken when it took this one: tells one time of holding it from another.
    let turn: UInt64
    let command: String

    static let byteCount = 256
    /// Where `turn` is.
    static let turnOffset = 248

    /// What this process is called, for ever; found out once.
    private static let me: (process: pid_t, namespace: UInt64, command: String, text: [UInt8]) = {
        var status = stat()
        // Without /proc it stays unknown.
        let namespace = unsafe stat("/proc/self/ns/pid", &status) == 0 ? UInt64(status.st_ino) : 0
        let process = clinux_process_id(), command = ownCommand()
        let text = Array("\(process) \(namespace) \(command)".utf8.prefix(turnOffset - 1))
        return (process, namespace, command, text + [UInt8](repeating: 0, count: turnOffset - text.count))
    }()
    private static let turns = Atomic<UInt64>(0)

    /// What this process writes down: its text, and the number of a lock that it has just taken.
    static var ownText: [UInt8] { me.text }
    static func nextTurn() -> UInt64 { turns.wrappingAdd(1, ordering: .relaxed).newValue }

    /// Nil: no holder is written down there. Anybody who may write to the store can write anything here.
    init?(_ record: [UInt8]) {
        guard record.count == Self.byteCount else { return nil }
        let text = String(decoding: record.prefix(Self.turnOffset).prefix { $0 != 0 }, as: UTF8.self)
        let words = text.split(separator: " ", maxSplits: 2)
        guard words.count == 3, let process = pid_t(words[0]), process > 0, let namespace = UInt64(words[1]) else { return nil }
        self.process = process
        self.namespace = namespace
        turn = record.rawBytes.load(at: Self.turnOffset)
        command = Self.printable(String(words[2]))
    }

    /// The command line, as far as it fits.
    private static func ownCommand() -> String {
        // Only a name is missing without /proc.
        guard let file = try? File(path: "/proc/self/cmdline") else { return "dedupdisk" }
        var bytes = [UInt8](repeating: 0, count: 200)
        // The same.
        let count = (try? bytes.withMutableBytes { (bytes) throws(Failure) in try file.read(at: 0, into: &bytes) }) ?? 0
        var words = bytes.prefix(count).split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
        if let program = words.first { words[0] = program.split(separator: "/").last.map(String.init) ?? program }
        return words.isEmpty ? "dedupdisk" : printable(words.joined(separator: " "))
    }

    private static func printable(_ text: String) -> String {
        String(String.UnicodeScalarView(text.unicodeScalars.map { $0.value < 0x20 || $0.value == 0x7f ? "?" : $0 }))
    }

    /// Whether its process id means the same here.
    private var isNear: Bool { namespace != 0 && namespace == Self.me.namespace }

    /// Whether it is stopped, by a signal or a debugger: the third word of /proc/PID/stat, behind the name in brackets.
    var isStopped: Bool {
        // Whoever is gone is not stopped; nor, as far as is known, whoever can't be looked at.
        guard isNear, let file = try? File(path: "/proc/\(process)/stat") else { return false }
        var bytes = [UInt8](repeating: 0, count: 512)
        // The same.
        let count = (try? bytes.withMutableBytes { (bytes) throws(Failure) in try file.read(at: 0, into: &bytes) }) ?? 0
        guard let bracket = bytes.prefix(count).lastIndex(of: UInt8(ascii: ")")), bracket + 2 < count else { return false }
        return bytes[bracket + 2] == UInt8(ascii: "T") || bytes[bracket + 2] == UInt8(ascii: "t")
    }

    /// `process 12 (dedupdisk gc)`, and what is the matter with it.
    var description: String {
        "process \(process) (\(command))\(isNear ? "" : " of another container")\(isStopped ? ", which is stopped" : "")"
    }

    /// What can be done about it.
    var remedy: String {
        if isStopped { return "continue it: kill -CONT \(process), or end it" }
        return isNear ? "wait until it is done, or end it" : "wait until it is done, or see to that container"
    }
}
