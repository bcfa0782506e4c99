import Glibc
import System

/// What a process has in memory, by /proc/PID/smaps (proc(5)): bytes.
struct ResidentMemory {
    /// Memory of its own: anonymous pages. Nothing but its end gives it back.
    var own = 0.0
    /// The store's LMDB files, mapped: page cache, which all processes share and the kernel takes back.
    var database = 0.0
    /// Other files of the store that are mapped.
    var tables = 0.0
    /// The program and its libraries.
    var program = 0.0

    var all: Double { own + database + tables + program }

    init(of process: pid_t, store: String) throws {
        let text = try procText("/proc/\(process)/smaps")
        var path = "", resident = 0.0
        for line in text.split(separator: "\n") {
            let words = line.split(separator: " ", omittingEmptySubsequences: true)
            guard let first = words.first else { continue }
            if first.hasSuffix(":"), words.count > 1, let value = Double(words[1]).map({ $0 * 1024 }) {
                if first == "Rss:" { resident = value }
                // It comes after Rss.
                if first == "Anonymous:" { add(path, resident, anonymous: value, store) }
            } else if words.count >= 5, first.contains("-") {
                path = words.dropFirst(5).joined(separator: " ")
            }
        }
    }

    private mutating func add(_ path: String, _ resident: Double, anonymous: Double, _ store: String) {
        own += anonymous
        let mapped = resident - anonymous
        if path.hasPrefix(store), path.hasSuffix("data.mdb") {
            database += mapped
        } else if path.hasPrefix(store) {
            tables += mapped
        } else {
            program += mapped
        }
    }
}
