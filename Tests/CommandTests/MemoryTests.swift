import Glibc
import System
import Testing
import TestSupport

/// A store that is larger than the memory for looking at it: what is read is read about once.
@Suite(.serialized, .enabled(if: MemoryLimit.isAvailable, "limiting memory takes root and a cgroup hierarchy with the memory controller"))
struct MemoryTests {
    static let blocks = 40_000

    /// Bytes that a command brings from the disk under a limit of memory, with nothing of the store in memory before; but the program and
    /// its libraries are, on others' account: of them the kernel reads as much as the device reads ahead, which may be megabytes for a page.
    func bytesRead(_ tool: Tool, _ limit: MemoryLimit, _ command: [String], warm: Tool) throws -> UInt64 {
        let preparing = "sync; echo 3 >/proc/sys/vm/drop_caches; cat \"$1\" >/dev/null; \"$@\" >/dev/null 2>&1; true"
        _ = try Child("/usr/bin/env", ["bash", "-c", preparing, "bash", tool.executable] + command + ["--store", warm.store]).wait()
        // What its children read is added to what a process has read when they have ended.
        let script = "echo $$ >\(limit.path)/cgroup.procs && \"$@\" >&2 && grep ^read_bytes: /proc/$$/io"
        let outcome = try Child("/usr/bin/env", ["bash", "-c", script, "bash", tool.executable] + command + ["--store", tool.store]).wait()
        #expect(outcome.status == 0, "\(command): \(outcome)")
        return try #require(outcome.text.split(separator: " ").last.flatMap { UInt64($0.filter(\.isNumber)) })
    }

    @Test func eachCommandReadsWhatThereIsOnce() throws {
        let tool = try Tool(), warm = try Tool()
        try warm.disk("gold", [1])
        try tool.disk("gold", (0..<Self.blocks).map { UInt64($0 + 1) })
        try tool.image("one", [1 << 40])
        let limit = try MemoryLimit(megabytes: 48)
        let payload = UInt64(Self.blocks * 4096)
        for command in [["check"], ["stats"], ["gc"], ["import", tool.path("one"), "one"]] {
            unsafe unlink(tool.store + "/filter")
            let bytes = try bytesRead(tool, limit, command, warm: warm)
            // Directories, maps and index are a fiftieth.
            #expect(bytes < payload / 2, "\(command): \(bytes) of \(payload)")
        }
        let bytes = try bytesRead(tool, limit, ["check", "--read-data"], warm: warm)
        #expect(bytes > payload * 9 / 10 && bytes < payload * 2, "\(bytes) of \(payload)")
    }
}

/// A control group with a limit of memory: version 1 or 2 of the kernel's interface.
final class MemoryLimit {
    let path: String

    static var isAvailable: Bool { (try? MemoryLimit(megabytes: 64)) != nil }

    init(megabytes: Int) throws {
        let isFirst = unsafe access("/sys/fs/cgroup/memory", F_OK) == 0
        var random = SystemRandomNumberGenerator()
        path = (isFirst ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup") + "/dedupdisk-test-\(getpid())-\(random.next() as UInt32)"
        guard unsafe mkdir(path, 0o755) == 0 else { throw Failure(systemCall: "make", .file(path), errno: errno) }
        let file = path + (isFirst ? "/memory.limit_in_bytes" : "/memory.max")
        let descriptor = unsafe open(file, O_WRONLY)
        defer { close(descriptor) }
        var text = "\(megabytes << 20)"
        let count = text.withUTF8 { unsafe write(descriptor, $0.baseAddress, $0.count) }
        guard count > 0 else {
            unsafe rmdir(path)
            throw Failure(systemCall: "write", .file(file), errno: errno)
        }
    }

    deinit { unsafe rmdir(path) }
}
