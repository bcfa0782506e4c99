import BlockModel
import Foundation
import Glibc
import System

/// What a run does, and where.
struct Plan: Sendable {
    /// A directory of a filesystem in memory, and one on a disk. Both are made for this run and removed after it.
    var memory: String
    var disk: String
    /// The program `dedupdisk`; nil: what needs it is missing.
    var program: String?
    var rounds = 3
    /// Small sizes: shows that everything runs, and says nothing of speed.
    var isShort = false
    /// Sizes are divided by this.
    var share = 1
    /// Dedupdisk alone, neither beside limits nor beside others: for a comparison with another revision of it.
    var isAlone = false
    /// Of the engine, those shapes of requests alone whose name has this in it; nil: all, and what else there is of it.
    var like: String?
    /// Blobs of the larger store of the growth measurement.
    var blobs = 1 << 20
    /// Bytes of the sustained durable write.
    var durableBytes = 4 << 30

    /// `full`, or what stands for it in a short run.
    func size(_ full: Int, short: Int) -> Int { isShort ? short : max(1, full / share) }

    /// Seconds in which all that was written gets committed; nil: that is of no interest.
    var rest: Double? { isShort ? nil : isAlone ? 1.25 : 2 }

    /// How often limit and subject take turns in a round, where a few long ones would tell less than many short ones.
    var turns: Int { isShort ? 1 : isAlone ? 2 : 5 }

    static var cores: Int { max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN)))) }
    /// Threads for a deep load: enough that a core never waits for a request; more would only show what switching between them
    /// costs.
    static var deep: Int { min(32, 2 * cores) }

    /// Requests of so many blocks that come together from a guest or client who has 32 under way: what one thread of a ring or
    /// a socket takes at once, which are four mebibytes at most.
    static func together(requestBlocks: Int) -> Int { min(32, (4 << 20) / (requestBlocks * blockSize)) }

    static var lastLevelCacheBytes: Int { max(8 << 20, sysconf(Int32(_SC_LEVEL3_CACHE_SIZE))) }
}

/// Bytes that the filesystem of `path` has left.
func availableBytes(_ path: String) -> Int {
    var status = statvfs()
    guard statvfs(path, &status) == 0 else { return 0 }
    return Int(clamping: UInt64(status.f_bavail) * UInt64(status.f_frsize))
}

/// Bytes of memory that programs can still have.
func availableMemory() -> Int {
    let lines = (try? procText("/proc/meminfo"))?.split(separator: "\n") ?? []
    for line in lines where line.hasPrefix("MemAvailable:") {
        return line.split(separator: " ").dropFirst().first.flatMap { Int($0) }.map { $0 << 10 } ?? 0
    }
    return 0
}

/// Says on standard error what is being done.
func say(_ text: String) { FileHandle.standardError.write(Data("bench: \(text)\n".utf8)) }
