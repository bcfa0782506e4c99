import Glibc
import Store
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

    /// What proc(5) says of a process: its state, and how often it has gone to sleep.
    private struct State: Equatable {
        let letter: Character
        let sleeps: Int

        init?(_ process: pid_t) {
            guard let lines = (try? Files.text("/proc/\(process)/status"))?.split(separator: "\n") else { return nil }
            func value(_ key: String) -> Substring? { lines.first { $0.hasPrefix(key + ":\t") }?.dropFirst(key.utf8.count + 2) }
            guard let letter = value("State")?.first, let sleeps = value("voluntary_ctxt_switches").flatMap({ Int($0) }) else { return nil }
            (self.letter, self.sleeps) = (letter, sleeps)
        }
    }

    /// Whether a process is stopped, and not only until strace(1) has looked at it: that sleeps, and nothing wakes it.
    private func isStopped(_ process: pid_t, under strace: pid_t) -> Bool {
        guard let before = State(strace), before.letter == "S", let found = State(process), "Tt".contains(found.letter) else { return false }
        usleep(50_000)
        return State(strace) == before && State(process) == found
    }

    /// Waits until a child of strace's, the program, is stopped; its process id.
    private func stoppedChild(of child: Child) throws -> pid_t {
        var found: pid_t?
        try waitUntil {
            // strace has children of its own for a moment, too.
            let children = try Files.text("/proc/\(child.process)/task/\(child.process)/children")
            guard let process = children.split(separator: " ").first.flatMap({ pid_t($0) }), isStopped(process, under: child.process) else { return false }
            found = process
            return true
        }
        guard let found else { throw Failure(.busy, "wait for a child to stop", "it does not") }
        return found
    }

    /// A writer that is stopped in the middle of its commit.
    private func stoppedWriter() throws -> (Child, pid_t) {
        let writer = try tool.startTraced("fdatasync", 1, signal: "SIGSTOP", ["create", "late", "--size", "8M"])
        return (writer, try stoppedChild(of: writer))
    }

    private func go(_ writer: Child, _ process: pid_t) throws {
        kill(process, SIGCONT)
        #expect(writer.wait().status == 0)
        #expect(try tool.succeed("list").contains("late"))
        try tool.expectClean()
    }

    @Test func aCommandGivesUpAndNamesTheHolder() throws {
        let (writer, process) = try stoppedWriter()
        var outcome = try tool.run("create", "e", "--size", "8M")
        // Behind a second it tells that it waits, and behind two why it waits no more; not before that who comes to it that late.
        for _ in 0..<5 where outcome.errorLines.count == 1 { outcome = try tool.run("create", "e", "--size", "8M") }
        #expect(outcome.status == 1)
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
        try waitUntil { try tool.succeed("list").contains("late") }
        try tool.succeed("create", "e", "--size", "8M")
        let children = try Files.text("/proc/\(writer.process)/task/\(writer.process)/children")
        if let process = children.split(separator: " ").first.flatMap({ pid_t($0) }) { kill(process, SIGCONT) }
        #expect(writer.wait().status == 0)
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
            let outcome = writer.wait()
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
        let outcome = server.child.wait()
        #expect(outcome.status == 1)
        #expect(outcome.errors.contains("its last writes wait in its journal") && outcome.errors.contains("process \(process) ("), "\(outcome)")
        try go(writer, process)
        let bytes = try tool.run("export", "d", "-").output
        #expect(bytes == [UInt8](repeating: 9, count: 65536) + (17...50).flatMap { block(UInt64($0)) })
    }

    /// The second request waits for nothing. Without it, who has the lock and is not stopped is waited for for ten seconds: the request and its second
    /// are within these.
    @Test(.enabled(if: Client.areInstalled)) func aServerEndsAtOnceWhenAskedTwice() throws {
        let server = try Server(tool, ["d", "--socket", tool.path("s")])
        let store = try Store(path: tool.store)
        let state = Monitor((hasIt: false, mayEnd: false))
        let holder = try Thread("holder") {
            let end = monotonicSeconds() + 600
            // Whoever waits for it to have the lock is told when it has not.
            try? store.change { _ in
                state.with { $0.hasIt = true }
                state.wait { $0.mayEnd || monotonicSeconds() > end ? .done(()) : .atMost(1) }
            }
        }
        #expect(waitUntil { state.with { $0.hasIt } })
        try Client.succeed("qemu-io", "-f", "raw", "-c", "write -P 9 0 64k", "-c", "flush", server.uri)
        server.child.kill(SIGINT)
        // Two that come before it has looked are one. When nobody is let in any more, it is about to close the disk; what comes then is the second.
        waitUntil { unsafe access(tool.path("s"), F_OK) != 0 }
        for _ in 0..<20 {
            usleep(100_000)
            server.child.kill(SIGINT)
        }
        let outcome = server.child.wait()
        #expect(outcome.status == 0 && outcome.errors.contains("journal"), "\(outcome)")
        state.with { $0.mayEnd = true }
        state.notify()
        holder.join()
        try tool.expectClean()
        #expect(try tool.run("export", "d", "-").output.prefix(65536) == [UInt8](repeating: 9, count: 65536)[...])
    }

    /// A guest's requests wait, and end well, when more comes than the journal takes.
    @Test(.enabled(if: Client.areInstalled)) func aGuestWaits() throws {
        try tool.succeed("create", "big", "--size", "128M")
        let server = try Server(tool, ["big", "--socket", tool.path("s")])
        let (writer, process) = try stoppedWriter()
        let client = try Child("/usr/bin/qemu-io", ["-f", "raw", "-c", "write -P 7 0 100M", "-c", "flush", server.uri])
        // The log names the holder.
        var said = server.child.receiveErrors(until: "process \(process) (")
        #expect(said.contains("waiting for the store's write lock") && said.contains("process \(process) ("), "\(said)")
        kill(process, SIGCONT)
        #expect(writer.wait().status == 0)
        #expect(client.wait().status == 0)
        said = server.child.receiveErrors(until: "no longer waiting")
        #expect(said.contains("no longer waiting"), "\(said)")
        server.child.kill(SIGINT)
        #expect(server.child.wait().status == 0)
        try tool.expectClean()
    }
}
