internal import CLinux
internal import Glibc
internal import Synchronization
internal import System

/// A process that holds a lock of a store, as it wrote itself down in the lock file: 256 bytes, filled up with zeros:
///
///     process id, its PID namespace (the inode of /proc/self/ns/pid, 0: not known), the number of the lock's taking by it, command
///
/// separated by spaces, as text.
struct LockHolder: Equatable {
    let process: pid_t
    let namespace: UInt64
    /// Which of its times to hold the lock this is.
    let turn: UInt64
    let command: String

    private static let byteCount = 256

    /// What this process is called, for ever; found out once.
    private static let me: (process: pid_t, namespace: UInt64, command: String) = {
        var status = stat()
        // Without /proc it stays unknown.
        let namespace = unsafe stat("/proc/self/ns/pid", &status) == 0 ? UInt64(status.st_ino) : 0
        return (clinux_process_id(), namespace, ownCommand())
    }()
    private static let turns = Atomic<UInt64>(0)

    /// This process, holding the lock from now on.
    static var own: LockHolder {
        let turn = turns.wrappingAdd(1, ordering: .relaxed).newValue
        return LockHolder(process: me.process, namespace: me.namespace, turn: turn, command: me.command)
    }

    private init(process: pid_t, namespace: UInt64, turn: UInt64, command: String) {
        (self.process, self.namespace, self.turn, self.command) = (process, namespace, turn, command)
    }

    /// Nil: nobody has written down who it is. Anybody who may write to the store can write anything here.
    init?(_ record: [UInt8]) {
        let text = String(decoding: record.prefix { $0 != 0 }, as: UTF8.self)
        let words = text.split(separator: " ", maxSplits: 3)
        guard words.count == 4, let process = pid_t(words[0]), process > 0, let namespace = UInt64(words[1]), let turn = UInt64(words[2]) else { return nil }
        self.init(process: process, namespace: namespace, turn: turn, command: Self.printable(String(words[3])))
    }

    var encoded: [UInt8] {
        var bytes = Array("\(process) \(namespace) \(turn) \(command)".utf8.prefix(Self.byteCount - 1))
        bytes += [UInt8](repeating: 0, count: Self.byteCount - bytes.count)
        return bytes
    }

    /// The command line, as far as it fits.
    private static func ownCommand() -> String {
        guard let file = try? File(path: "/proc/self/cmdline") else { return "dedupdisk" }
        var bytes = [UInt8](repeating: 0, count: 200)
        // Only a name is missing where it can't be read.
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
        guard isNear, let file = try? File(path: "/proc/\(process)/stat") else { return false }
        var bytes = [UInt8](repeating: 0, count: 512)
        // Whoever is gone is not stopped.
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
