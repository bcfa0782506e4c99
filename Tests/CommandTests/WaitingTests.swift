import Glibc
import System
import Testing
import TestSupport

/// Commands and servers beside one that holds the store's lock and does not go on.
@Suite(.enabled(if: Tool.canTrace)) struct WaitingTests {
    let tool: Tool

    init() throws {
        tool = try Tool()
        try tool.disk("d", Array(1...50))
    }

    private func isStopped(_ process: pid_t) -> Bool {
        // strace(1) has children of its own for a moment, too.
        guard let text = try? Files.text("/proc/\(process)/stat") else { return false }
        let state = text.split(separator: ")").last?.dropFirst().first
        return state == "T" || state == "t"
    }

    /// Waits until a child of strace's, the program, is stopped; its process id.
    private func stoppedChild(of child: Child) throws -> pid_t {
        for _ in 0..<1000 {
            let children = try Files.text("/proc/\(child.process)/task/\(child.process)/children")
            if let process = children.split(separator: " ").first.flatMap({ pid_t($0) }), isStopped(process) {
                // Not only for strace's own work.
                usleep(50_000)
                if isStopped(process) { return process }
            }
            usleep(10_000)
        }
        throw Failure(.busy, "wait for a child to stop", "it does not")
    }

    /// A writer that is stopped in the middle of its commit.
    private func stoppedWriter() throws -> (Child, pid_t) {
        let writer = try tool.startTraced("fdatasync", 1, signal: "SIGSTOP", ["create", "late", "--size", "8M"])
        return (writer, try stoppedChild(of: writer))
    }

    private func go(_ writer: Child, _ process: pid_t) throws {
        kill(process, SIGCONT)
        #expect(writer.wait(limit: 60).status == 0)
        #expect(try tool.succeed("list").contains("late"))
        try tool.expectClean()
    }

    @Test func aCommandGivesUpAndNamesTheHolder() throws {
        let (writer, process) = try stoppedWriter()
        let outcome = try tool.run("create", "e", "--size", "8M")
        #expect(outcome.status == 1)
        // It has told that it waits, then that it waits no more.
        #expect(outcome.errorLines.count == 2, "\(outcome)")
        let last = outcome.errorLines.last ?? ""
        for word in ["process \(process) (dedupdisk create late", "stopped", "kill -CONT \(process)"] { #expect(last.contains(word), "\(last)") }
        // Who only reads waits for nobody.
        try tool.succeed("list")
        try tool.succeed("stats")
        #expect(try tool.run("export", "d", "-").output == (1...50).flatMap { block(UInt64($0)) })
        try go(writer, process)
    }

    /// The terminal's stop waits until the lock is given up.
    @Test func aStopFromTheTerminalWaits() throws {
        let writer = try tool.startTraced("fdatasync", 1, signal: "SIGTSTP", ["create", "late", "--size", "8M"])
        // A process group whose parents are in another session is not stopped by a terminal (setpgid(2)): then it just goes on.
        for _ in 0..<300 where try !tool.succeed("list").contains("late") { usleep(20_000) }
        try tool.succeed("create", "e", "--size", "8M")
        let children = try Files.text("/proc/\(writer.process)/task/\(writer.process)/children")
        if let process = children.split(separator: " ").first.flatMap({ pid_t($0) }) { kill(process, SIGCONT) }
        #expect(writer.wait(limit: 60).status == 0)
        try tool.expectClean()
    }

    /// A stop that waits for a lock to be given up is over when somebody continues the process before it has come.
    @Test func aStopThatIsTakenBack() throws {
        try Files.write(tool.path("image"), (1...8192).flatMap { block(UInt64($0)) })
        for round in 0..<24 {
            let writer = try tool.start(["import", tool.path("image"), "d\(round)"])
            usleep(UInt32(20_000 + round % 8 * 15_000))
            writer.kill(SIGTSTP)
            if round % 3 > 0 { usleep(UInt32(round % 3 * 700)) }
            writer.kill(SIGCONT)
            let outcome = writer.wait(limit: 60)
            #expect(outcome.status == 0, "round \(round): \(outcome)")
            try tool.succeed("delete", "d\(round)")
        }
        try tool.expectClean()
    }

    /// Nobody writes to the disk: what is written goes beside the store when there can be no copy in it.
    @Test(.enabled(if: Client.areInstalled)) func anEphemeralDiskNeedsNobody() throws {
        let (writer, process) = try stoppedWriter()
        let server = try Server(tool, ["d", "--ephemeral", "--socket", tool.path("s")])
        try Client.succeed("qemu-io", "-f", "raw", "-c", "write -P 9 0 64k", "-c", "flush", "-c", "read -P 9 0 64k", server.uri)
        server.end(telling: true)
        try go(writer, process)
        #expect(try tool.run("export", "d", "-").output == (1...50).flatMap { block(UInt64($0)) })
    }

    @Test(.enabled(if: Client.areInstalled)) func aServerEndsWithoutIt() throws {
        let server = try Server(tool, ["d", "--socket", tool.path("s")])
        let (writer, process) = try stoppedWriter()
        try Client.succeed("qemu-io", "-f", "raw", "-c", "write -P 9 0 64k", "-c", "flush", server.uri)
        server.child.kill(SIGINT)
        let outcome = server.child.wait(limit: 60)
        #expect(outcome.status == 1)
        #expect(outcome.errors.contains("its last writes wait in its journal") && outcome.errors.contains("process \(process) ("), "\(outcome)")
        try go(writer, process)
        let bytes = try tool.run("export", "d", "-").output
        #expect(bytes == [UInt8](repeating: 9, count: 65536) + (17...50).flatMap { block(UInt64($0)) })
    }

    /// The second request waits for nothing.
    @Test(.enabled(if: Client.areInstalled)) func aServerEndsAtOnceWhenAskedTwice() throws {
        let server = try Server(tool, ["d", "--socket", tool.path("s")])
        let (writer, process) = try stoppedWriter()
        try Client.succeed("qemu-io", "-f", "raw", "-c", "write -P 9 0 64k", "-c", "flush", server.uri)
        server.child.kill(SIGINT)
        usleep(100_000)
        server.child.kill(SIGINT)
        let outcome = server.child.wait(limit: 60)
        #expect(outcome.status == 0 && outcome.errors.contains("journal"), "\(outcome)")
        try go(writer, process)
        #expect(try tool.run("export", "d", "-").output.prefix(65536) == [UInt8](repeating: 9, count: 65536)[...])
    }

    /// A guest's requests wait, and end well, when more comes than the journal takes.
    @Test(.enabled(if: Client.areInstalled)) func aGuestWaits() throws {
        try tool.succeed("create", "big", "--size", "128M")
        let server = try Server(tool, ["big", "--socket", tool.path("s")])
        let (writer, process) = try stoppedWriter()
        let client = try Child("/usr/bin/qemu-io", ["-f", "raw", "-c", "write -P 7 0 100M", "-c", "flush", server.uri])
        // The log names the holder.
        var said = ""
        for _ in 0..<60 where !said.contains("process \(process) (") { said += server.child.receiveErrors(limit: 1) }
        #expect(said.contains("waiting for the store's write lock") && said.contains("process \(process) ("), "\(said)")
        kill(process, SIGCONT)
        #expect(writer.wait(limit: 60).status == 0)
        #expect(client.wait(limit: 120).status == 0)
        said = ""
        for _ in 0..<60 where !said.contains("no longer waiting") { said += server.child.receiveErrors(limit: 1) }
        #expect(said.contains("no longer waiting"), "\(said)")
        server.child.kill(SIGINT)
        #expect(server.child.wait(limit: 60).status == 0)
        try tool.expectClean()
    }
}
