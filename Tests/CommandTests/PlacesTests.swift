import Glibc
import System
import Testing
import TestSupport

/// Stores where people have them: in containers, on media that can't be written, as one user among others, under limits.
@Suite struct PlacesTests {
    let tool: Tool

    init() throws { tool = try Tool() }

    /// Mounts and PID namespaces of one's own.
    static let canUnshare: Bool = {
        let outcome = try? Child("/usr/bin/unshare", ["--mount", "--pid", "--fork", "--mount-proc", "true"]).wait()
        if outcome?.status != 0 { print("Containers can't be made here (unshare): tests with them are skipped") }
        return outcome?.status == 0
    }()
    static let isRoot = geteuid() == 0

    /// A script in a mount namespace of its own, where $D is the program.
    private func inNamespace(_ script: String) throws -> Child.Outcome {
        try Child("/usr/bin/unshare", ["--mount", "sh", "-ec", script], environment: ["DEDUPDISK_STORE": tool.store, "D": tool.executable]).wait()
    }

    /// A program as process 1 of a container.
    private func inContainer(_ arguments: String...) throws -> Child {
        try Child(
            "/usr/bin/unshare", ["--pid", "--fork", "--kill-child", "--mount-proc", tool.executable] + arguments, environment: ["DEDUPDISK_STORE": tool.store])
    }

    @Test(.enabled(if: canUnshare && Client.areInstalled)) func containersShareAStore() throws {
        for name in ["a", "b"] { try tool.succeed("create", name, "--size", "16M") }
        let servers = try ["a", "b"].map { try inContainer("serve", $0, "--socket", tool.path($0)) }
        for server in servers { #expect(server.receiveErrors(until: " is at ").contains(" is at ")) }
        for round in 0..<3 {
            let clients = try ["a", "b"].map {
                try Child(
                    "/usr/bin/qemu-io", ["-f", "raw", "-c", "write -P \(round + 1) \(round)M 1M", "-c", "flush", "nbd+unix:///\($0)?socket=\(tool.path($0))"])
            }
            for client in clients { #expect(client.wait().status == 0) }
            for arguments in [["list"], ["stats"], ["create", "c\(round)", "--size", "1M"], ["snapshot", "a@s\(round)"]] {
                let outcome = try Child(
                    "/usr/bin/unshare", ["--pid", "--fork", "--mount-proc", tool.executable] + arguments, environment: ["DEDUPDISK_STORE": tool.store]
                ).wait()
                #expect(outcome.status == 0, "\(outcome)")
            }
            try tool.succeed("stats")
        }
        for server in servers {
            for process in try Files.text("/proc/\(server.process)/task/\(server.process)/children").split(separator: " ").compactMap({ pid_t($0) }) {
                kill(process, SIGINT)
            }
            #expect(server.wait().status == 0)
        }
        try tool.expectClean()
        let expected = (1...3).flatMap { [UInt8](repeating: UInt8($0), count: 1 << 20) }
        for name in ["a", "b", "a@s2"] { #expect(try tool.run("export", name, "-").output.prefix(3 << 20) == expected[...]) }
        #expect(try tool.run("export", "a@s0", "-").output.prefix(3 << 20) == expected.prefix(1 << 20) + [UInt8](repeating: 0, count: 2 << 20))
    }

    // MARK: Media that can't be written

    private let readOnly = "mount --bind $DEDUPDISK_STORE $DEDUPDISK_STORE; mount -o remount,bind,ro $DEDUPDISK_STORE; "

    @Test(.enabled(if: canUnshare)) func aStoreThatCanOnlyBeRead() throws {
        let bytes = try tool.disk("d", Array(1...50))
        try tool.succeed("snapshot", "d@s")
        let outcome = try inNamespace(
            readOnly + "for c in list 'list --snapshots' 'list --json' stats get 'map d' 'map d@s' 'diff d@s' check 'check --read-data'; do "
                + "$D $c >/dev/null; done; $D export d -")
        #expect(outcome.status == 0 && outcome.errors == "", "\(outcome.errors)")
        #expect(outcome.output == bytes)
        #expect(try inNamespace(readOnly + "$D export d@s -").output == bytes)
        for command in [
            "create e --size 1M", "delete d", "gc", "maintain", "resize d 1G", "check --repair", "import /dev/null e", "snapshot d@t", "clone d@s e",
            "rollback d@s", "rename d e", "delete d@s", "set maintenance=off",
        ] {
            let outcome = try inNamespace(readOnly + "$D \(command)")
            tool.expectFailure(outcome, naming: ["read-only"])
        }
        try tool.expectClean()
    }

    /// What a server that was killed left in the journal is part of the disk.
    @Test(.enabled(if: canUnshare && Client.areInstalled)) func journalsAreReadWhereTheyAre() throws {
        try tool.disk("d", Array(1...50))
        let server = try Server(tool, ["d", "--socket", tool.path("s")])
        // Stopped, it commits nothing.
        try Client.succeed("qemu-io", "-f", "raw", "-c", "write -P 9 4k 8k", "-c", "discard 40k 8k", "-c", "flush", server.uri)
        server.child.kill(SIGKILL)
        _ = server.child.wait()
        let expected =
            block(1) + [UInt8](repeating: 9, count: 8192) + (4...10).flatMap { block($0) } + [UInt8](repeating: 0, count: 8192)
            + (13...50).flatMap { block($0) }
        let isTaken = try !Files.bytes(tool.store + "/journals/1").contains { $0 != 0 }
        for how in ["$D export d -", "$D export d $DEDUPDISK_STORE/../out; cat $DEDUPDISK_STORE/../out"] {
            let outcome = try inNamespace(readOnly + how)
            #expect(outcome.status == 0 && outcome.output == expected, "\(outcome.errors)")
        }
        let map = try inNamespace(readOnly + "$D map d")
        // Unless the commit of a second's time came in between.
        if !isTaken, map.status != 0 { tool.expectFailure(map, naming: ["journal"]) }
        #expect(try tool.run("export", "d", "-").output == expected)
        try tool.expectClean()
    }

    @Test(.enabled(if: isRoot)) func aUserWhoMayOnlyRead() throws {
        let bytes = try tool.disk("d", Array(1...50))
        _ = try Child("/bin/chmod", ["-R", "a+rX", tool.scratch.path]).wait()
        func asNobody(_ arguments: String...) throws -> Child.Outcome {
            try Child(
                "/usr/bin/setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups", tool.executable] + arguments,
                environment: ["DEDUPDISK_STORE": tool.store]
            ).wait()
        }
        // Programs of the tests are not everybody's.
        guard try Child("/usr/bin/setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups", "test", "-x", tool.executable]).wait().status == 0 else {
            print("Another user may not run \(tool.executable): this is not tested")
            return
        }
        #expect(try asNobody("list").status == 0)
        #expect(try asNobody("stats").status == 0)
        #expect(try asNobody("export", "d", "-").output == bytes)
        for arguments in [["create", "e", "--size", "1M"], ["snapshot", "d@s"], ["maintain"]] {
            tool.expectFailure(
                try Child(
                    "/usr/bin/setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups", tool.executable] + arguments,
                    environment: ["DEDUPDISK_STORE": tool.store]
                ).wait(), naming: ["Permission denied"])
        }
        let server = try Server(tool, ["d", "--socket", tool.path("s")])
        tool.expectFailure(try asNobody("list"), naming: ["the right to write"])
        server.end()
        #expect(try asNobody("list").status == 0)
    }

    @Test(.enabled(if: isRoot)) func rootLocksNobodyOut() throws {
        _ = unsafe chown(tool.scratch.path, 65534, 65534)
        func asNobody(_ script: String) throws -> Child.Outcome {
            try Child(
                "/usr/bin/setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-ec", script],
                environment: ["DEDUPDISK_STORE": tool.store, "D": tool.executable]
            ).wait()
        }
        guard try asNobody("test -x $D").status == 0 else {
            print("Another user may not run \(tool.executable): this is not tested")
            return
        }
        #expect(try asNobody("$D create a --size 8M").status == 0)
        try tool.disk("r", Array(1...50))
        try tool.succeed("gc")
        // A disk that root serves is asked for snapshots by the store's owner.
        let server = try Server(tool, ["r", "--socket", tool.path("s")])
        #expect(try asNobody("$D snapshot r@s; $D export r@s - | wc -c; $D delete r@s").status == 0)
        server.end()
        let owners = try Child("/usr/bin/find", [tool.store, "!", "-user", "nobody"]).wait()
        #expect(owners.text == "", "\(owners.text)")
        #expect(try asNobody("$D export r - | wc -c; $D delete r; head -c 8192 /dev/urandom | $D import - n; $D gc; $D check").status == 0)
        // A group's store stays the group's, whatever the umask.
        _ = unsafe chmod(tool.scratch.path, 0o755)
        _ = try Child("/bin/sh", ["-c", "chmod -R g+rwX \(tool.store)"]).wait()
        #expect(try asNobody("umask 077; $D create g --size 8M").status == 0)
        let closed = try Child("/usr/bin/find", [tool.store, "!", "-perm", "-060"]).wait()
        #expect(closed.text == "", "\(closed.text)")
    }

    /// A link in the place of a file that is to be made leads nobody to it.
    @Test func linksAreNotFollowed() throws {
        try tool.succeed("create", "a", "--size", "8M")
        try Files.write(tool.path("precious"), [1, 2, 3])
        _ = unsafe symlink(tool.path("precious"), tool.store + "/journals/2")
        try tool.fail("create", "b", "--size", "8M", naming: ["journals/2"], remedy: false)
        #expect(try Files.bytes(tool.path("precious")) == [1, 2, 3])
    }

    // MARK: Limits

    @Test func littleAddressSpace() throws {
        let script = "ulimit -v $1; shift; exec \"$@\""
        func limited(_ kibibytes: Int, _ arguments: String...) throws -> Child.Outcome {
            try Child("/bin/sh", ["-c", script, "sh", "\(kibibytes)", tool.executable] + arguments, environment: ["DEDUPDISK_STORE": tool.store]).wait()
        }
        try tool.disk("d", Array(1...50))
        // Where there are many processors, each has a thread that hashes, with a stack and the allocator's room for it.
        let processors = sysconf(Int32(_SC_NPROCESSORS_ONLN)), ofAThread = 80 << 10
        let little = (4 << 20) + max(0, processors - 8) * ofAThread
        #expect(try limited(little, "create", "e", "--size", "1G").status == 0)
        #expect(try limited(little, "export", "d", "-").output == (1...50).flatMap { block($0) })
        tool.expectFailure(try limited(120 << 10, "create", "f", "--size", "1G"), naming: ["120 MiB", "ulimit -v"])
        try tool.expectClean()
    }
}
