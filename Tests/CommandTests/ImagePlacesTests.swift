import Glibc
import System
import Testing
import TestSupport

/// Whatever a person may name to import from and export to, but for devices.
@Suite struct ImagePlacesTests {
    let tool: Tool
    let bytes: [UInt8]

    init() throws {
        tool = try Tool()
        bytes = try tool.disk("gold", [1, 0, 0, 2, 3] + [UInt64](repeating: 0, count: 40) + [4, 0])
    }

    /// What bash makes of `script`, in which $dd is the program and $0 the scratch directory.
    @discardableResult
    func bash(_ script: String, as user: Int? = nil, limit: Double = Child.patience) throws -> Child.Outcome {
        let environment = ["DEDUPDISK_STORE": tool.store, "dd": tool.executable]
        if let user {
            let identity = ["--reuid=\(user)", "--regid=\(user)", "--clear-groups"]
            return try Child("/usr/bin/setpriv", identity + ["/bin/bash", "-c", script, tool.scratch.path], environment: environment).wait(limit: limit)
        }
        return try Child("/bin/bash", ["-c", script, tool.scratch.path], environment: environment).wait(limit: limit)
    }

    func expect(_ name: String, is expected: [UInt8], location: SourceLocation = #_sourceLocation) throws {
        #expect(try tool.run("export", name, "-").output == expected, "\(name)", sourceLocation: location)
    }

    /// Entries of a directory.
    func entries(_ path: String) -> Set<String> { Set(File.names(in: path)) }

    // MARK: Streams

    @Test(arguments: [
        "cat $0/gold.raw | $dd import - new", "$dd import - new <$0/gold.raw", "$dd import <(cat $0/gold.raw) new", "$dd import /dev/fd/7 new 7<$0/gold.raw",
        "cat $0/gold.raw | $dd import /dev/stdin new", "$dd import /proc/self/fd/0 new <$0/gold.raw",
        "mkfifo $0/f; cat $0/gold.raw >$0/f & $dd import $0/f new",
        "ln -s /dev/stdin $0/l; ln -s l $0/m; cat $0/gold.raw | $dd import $0/m new",
    ]) func importOfWhat(script: String) throws {
        let outcome = try bash(script)
        #expect(outcome.status == 0 && outcome.errors == "", "\(outcome)")
        try expect("new", is: bytes)
    }

    @Test(arguments: [
        "$dd export gold - | cat >$0/out", "$dd export gold - >$0/out", "$dd export gold /dev/stdout >$0/out", "$dd export gold /dev/fd/9 9>$0/out",
        "mkfifo $0/f; cat $0/f >$0/out & $dd export gold $0/f; status=$?; wait; exit $status",
        "$dd export gold >(cat >$0/out); status=$?; wait $!; exit $status", "$dd export gold $0/out",
        "head -c 1M /dev/urandom >$0/out; $dd export gold $0/out", "head -c 1M /dev/urandom >$0/out; $dd export gold --in-place $0/out",
        "$dd export gold --in-place $0/out", "head -c 8K /dev/urandom >$0/out; $dd export gold - 1<>$0/out", "$dd export gold /dev/stdout >>$0/out",
        "ln -s /dev/stdout $0/l; $dd export gold $0/l >$0/out",
    ]) func exportToWhat(script: String) throws {
        let outcome = try bash(script)
        #expect(outcome.status == 0 && outcome.errors == "", "\(outcome)")
        #expect(try Files.bytes(tool.path("out")) == bytes)
        #expect(try File.isLink("/dev/stdout"), "the machine's own")
    }

    /// Sockets, and descriptors that do not block, both ways.
    @Test(arguments: [false, true], [false, true]) func descriptorsThatWereGiven(isSocket: Bool, blocks: Bool) throws {
        func ends() -> (Int32, Int32) {
            var ends: [Int32] = [-1, -1]
            _ = unsafe isSocket ? socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends) : pipe(&ends)
            for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
            if !blocks { for end in ends { _ = fcntl(end, F_SETFL, fcntl(end, F_GETFL) | O_NONBLOCK) } }
            return (ends[0], ends[1])
        }
        let (out, into) = ends()
        let exporter = try Child(tool.executable, ["export", "--store", tool.store, "gold", "/dev/fd/3"], inherited: [into])
        close(into)
        let (other, given) = ends()
        let importer = try Child(tool.executable, ["import", "--store", tool.store, "/dev/fd/3", "new"], inherited: [isSocket ? given : other])
        let (mine, its) = isSocket ? (other, given) : (given, other)
        close(its)
        var count = 0
        // Slowly: the other side finds nothing there, and no room.
        var chunk = [UInt8](repeating: 0, count: 10_000)
        var isRead = true
        for _ in 0..<1000 where isRead {
            var entry = pollfd(fd: out, events: Int16(POLLIN), revents: 0)
            guard unsafe poll(&entry, 1, 300_000) > 0 else { break }
            let got = unsafe read(out, &chunk, chunk.count)
            if got < 0, errno == EAGAIN { continue }
            guard got > 0 else { break }
            count += got
            var done = 0
            for _ in 0..<300_000 where done < got {
                let sent = unsafe chunk.withUnsafeBytes { unsafe write(mine, $0.baseAddress.map { unsafe $0 + done }, got - done) }
                if sent < 0, errno != EAGAIN {
                    isRead = false
                    break
                }
                if sent > 0 { done += sent } else { usleep(1000) }
            }
            if count < 50_000 { usleep(20_000) }
        }
        for end in [out, mine] { close(end) }
        #expect(exporter.wait().status == 0)
        let outcome = importer.wait()
        #expect(outcome.status == 0, "\(outcome)")
        #expect(count == bytes.count)
        try expect("new", is: bytes)
    }

    /// What was read before is not of the image, and what comes after it starts at its end.
    @Test(arguments: ["-", "/dev/stdin", "/dev/fd/0"]) func fromWhereTheDescriptorStands(name: String) throws {
        let skipped = try bash("(dd bs=1 count=5000 status=none of=/dev/null; $dd import \(name) part; cat | wc -c) <$0/gold.raw")
        #expect(skipped.text == "0\n" && skipped.errors == "", "\(skipped)")
        let rest = Array(bytes.dropFirst(5000))
        try expect("part", is: rest + [UInt8](repeating: 0, count: (512 - rest.count % 512) % 512))
        try tool.expectClean()
    }

    @Test func toWhereTheDescriptorStands() throws {
        for (redirection, name) in [(">", "-"), (">", "/dev/stdout"), (">>", "-")] {
            let outcome = try bash("echo before >$0/out; (printf more; $dd export gold \(name); echo after) >\(redirection == ">" ? "" : ">")$0/out")
            #expect(outcome.status == 0 && outcome.errors == "", "\(outcome)")
            let text = (redirection == ">" ? "" : "before\n") + "more"
            #expect(try Files.bytes(tool.path("out")) == Array(text.utf8) + bytes + Array("after\n".utf8))
        }
        // What lies behind the image in a file that was given stays.
        let more = bytes.count + 10_000
        let outcome = try bash("head -c \(more) /dev/zero | tr '\\0' Z >$0/out; $dd export gold - 1<>$0/out")
        #expect(outcome.status == 0)
        #expect(try Files.bytes(tool.path("out")) == bytes + [UInt8](repeating: UInt8(ascii: "Z"), count: 10_000))
    }

    @Test(.enabled(if: ErrorTests.canBecomeNobody, "needs root and setpriv")) func anotherUsersFileThatWasGiven() throws {
        unsafe chmod(tool.scratch.path, 0o777)
        unsafe chmod(tool.path("gold.raw"), 0o600)
        let script = "exec setpriv --reuid=65534 --regid=65534 --clear-groups $dd import - new --store $0/theirs <$0/gold.raw"
        let outcome = try bash(script)
        #expect(outcome.status == 0 && outcome.errors == "", "\(outcome)")
    }

    @Test func whatIsNoImage() throws {
        let socket = tool.path("socket")
        let server = try Server(tool, ["gold", "--read-only", "--socket", socket])
        try tool.fail("import", socket, "new", status: 64, naming: ["socket", "nbdcopy"])
        try tool.fail("export", "gold", socket, status: 64, naming: ["socket", "nbdcopy"])
        server.end()
        for device in ["/dev/zero", "/dev/full", "/dev/urandom", "/dev/random"] { try tool.fail("import", device, "new", status: 64, naming: ["no end"]) }
        try tool.fail("import", "/dev/null", "new", status: 64, naming: ["empty"])
        try tool.fail("export", "gold", tool.scratch.path, status: 64, naming: ["directory"])
        for name in ["/dev/fd/77", "/proc/self/fd/77"] {
            try tool.fail("import", name, "new", naming: [name, "Bad file descriptor"], remedy: false)
            try tool.fail("export", "gold", name, naming: [name, "Bad file descriptor"], remedy: false)
        }
        #expect(unsafe symlink("nowhere", tool.path("link")) == 0)
        try tool.fail("export", "gold", tool.path("link"), status: 64, naming: ["link"])
        #expect(!entries(tool.scratch.path).contains("nowhere"))
        #expect(try tool.succeed("list").split(separator: "\n").count == 2)
    }

    /// A number of this process's own files is not one that was given.
    @Test func noFileOfTheStoreIsOverwritten() throws {
        let outcome = try bash("for n in {3..250}; do eval \"exec $n>&-\"; done; for n in {3..20}; do $dd export gold /dev/fd/$n; done")
        #expect(outcome.errorLines.count == 18 && outcome.errorLines.allSatisfy { $0.contains("Bad file descriptor") }, "\(outcome)")
        try tool.expectClean()
    }

    @Test(.enabled(if: unsafe access("/usr/bin/script", X_OK) == 0, "needs script(1)")) func terminals() throws {
        for command in ["$dd import - new", "$dd export gold -", "$dd import /dev/tty new", "$dd export gold /dev/tty"] {
            let outcome = try bash("cd $0; script -qec '\(command)' /dev/null")
            #expect(outcome.status == 64 && outcome.text.contains("it is a terminal ("), "\(outcome)")
        }
    }

    // MARK: Replacing

    @Test func theLastOfTwoExportsStands() throws {
        try tool.disk("other", Array(100...200))
        let others = try Files.bytes(tool.path("other.raw"))
        for round in 0..<5 {
            let pair = try [tool.start(["export", "gold", tool.path("out")]), tool.start(["export", "other", tool.path("out")])]
            for exporter in pair { #expect(exporter.wait().status == 0, "round \(round)") }
            let found = try Files.bytes(tool.path("out"))
            #expect(found == bytes || found == others, "round \(round)")
        }
        #expect(entries(tool.scratch.path) == ["gold.raw", "other.raw", "out", "store"])
    }

    /// Names that could be foreseen are somebody else's.
    @Test func strangersNamesStay() throws {
        try Files.write(tool.path("victim"), [7])
        for name in ["out.partial", "out.new", "out.tmp", ".out"] { #expect(unsafe symlink("victim", tool.path(name)) == 0) }
        try tool.succeed("export", "gold", tool.path("out"))
        #expect(try Files.bytes(tool.path("victim")) == [7])
        #expect(try Files.bytes(tool.path("out")) == bytes)
        #expect(entries(tool.scratch.path) == ["gold.raw", "victim", "out", "out.partial", "out.new", "out.tmp", ".out", "store"])
        // The store's own file, likewise.
        unsafe unlink(tool.store + "/filter")
        #expect(unsafe symlink("../victim", tool.store + "/filter.new") == 0)
        try tool.disk("more", [50, 51])
        #expect(try Files.bytes(tool.path("victim")) == [7])
        try tool.expectClean()
    }

    @Test(arguments: [SIGKILL, SIGINT]) func anExportThatEndsEarlyLeavesNothing(signal: Int32) throws {
        try tool.disk("large", Array(1...4000))
        try Files.write(tool.path("old"), [1, 2, 3])
        var random = SeededGenerator(seed: 3)
        for name in ["out", "old"] {
            for _ in 0..<4 {
                let exporter = try tool.start(["export", "large", tool.path(name)])
                usleep(UInt32.random(in: 1000...30_000, using: &random))
                exporter.kill(signal)
                guard exporter.wait().status != 0 else { continue }
                #expect(entries(tool.scratch.path).subtracting(["gold.raw", "large.raw", "store", "old"]).isEmpty, "\(entries(tool.scratch.path))")
                if name == "old" { #expect(try Files.bytes(tool.path("old")) == [1, 2, 3]) }
            }
        }
    }

    @Test(.enabled(if: geteuid() == 0, "needs root")) func whatIsReplacedStaysWhose() throws {
        let (old, link) = (tool.path("old"), tool.path("link"))
        try Files.write(old, [1])
        #expect(unsafe symlink("old", link) == 0)
        for (mode, owner, group) in [(0o600, 65534, 0), (0o640, 1234, 4321), (0o604, 0, 65534)] as [(mode_t, uid_t, gid_t)] {
            unsafe chmod(old, mode)
            unsafe chown(old, owner, group)
            try tool.succeed("export", "gold", link)
            let status = try #require(try File.status(of: old))
            #expect(status.mode == UInt32(mode) && status.owner == owner && status.group == group)
            #expect(try File.isLink(link))
            #expect(try Files.bytes(old) == bytes)
        }
    }

    @Test(.enabled(if: geteuid() == 0 && (unsafe access("/usr/bin/setfacl", X_OK)) == 0, "needs root and the package acl")) func accessControlLists() throws {
        let outcome = try bash(
            """
            cd $0; mkdir d; echo x >d/old; chmod 640 d/old; setfacl -m u:77:rw,g:88:r d/old; getfacl -cp d/old >before
            echo x >d/plain; chmod 640 d/plain; setfacl -m d:u:77:rwx d; $dd export gold d/old && $dd export gold d/plain && $dd export gold d/new || exit 1
            getfacl -cp d/old | diff before - && getfacl -cp d/plain | grep -c : && getfacl -cpe d/new | grep user:77
            """)
        #expect(outcome.status == 0, "\(outcome)")
        #expect(outcome.text.hasPrefix("3\n") && outcome.text.contains("#effective:---"), "\(outcome)")
    }

    @Test func aNewImageIsItsOwnersAlone() throws {
        let outcome = try bash("cd $0; (umask 022; $dd export gold a); (umask 0277; $dd export gold b); stat -c %a a b")
        #expect(outcome.text == "600\n400\n", "\(outcome)")
    }

    @Test func severalNames() throws {
        try Files.write(tool.path("old"), [UInt8](repeating: 9, count: 1 << 20))
        #expect(unsafe link(tool.path("old"), tool.path("other")) == 0)
        try tool.fail("export", "gold", tool.path("old"), naming: ["2 names", "--in-place"])
        #expect(try Files.bytes(tool.path("other")).count == 1 << 20)
        try tool.succeed("export", "gold", "--in-place", tool.path("old"))
        #expect(try Files.bytes(tool.path("other")) == bytes)
    }

    @Test(.enabled(if: ErrorTests.canBecomeNobody, "needs root and setpriv")) func whoMayNotReplace() throws {
        let setUp = try bash(
            """
            cd $0; chmod 755 .; chown -R 65534 store; mkdir root sticky mine; chmod 1777 sticky; chown 65534 mine
            for d in root sticky mine; do echo x >$d/f; chmod 666 $d/f; done
            """)
        #expect(setUp.status == 0, "\(setUp)")
        for directory in ["root", "sticky", "mine"] {
            let refused = try bash("$dd export gold $0/\(directory)/f", as: 65534)
            tool.expectFailure(refused, naming: ["--in-place"])
            #expect(try Files.bytes(tool.path(directory + "/f")) == Array("x\n".utf8))
            let done = try bash("$dd export gold --in-place $0/\(directory)/f", as: 65534)
            #expect(done.status == 0, "\(done)")
            #expect(try Files.bytes(tool.path(directory + "/f")) == bytes)
            #expect(entries(tool.path(directory)) == ["f"])
        }
    }

    @Test func overwrittenInPlace() throws {
        for size in [0, 100, 4096, 100_000, 1 << 20] {
            try Files.write(tool.path("old"), [UInt8](repeating: 9, count: size))
            try tool.succeed("export", "gold", "--in-place", tool.path("old"))
            #expect(try Files.bytes(tool.path("old")) == bytes, "\(size)")
        }
        #expect(try File(path: tool.path("old")).allocatedBytes() < bytes.count)
    }

    /// A file that is served, or that QEMU writes to, is neither overwritten nor taken for whole.
    @Test func aFileInUse() throws {
        _ = try tool.image("used", [1, 2, 3])
        let server = try Server(tool, ["used", "--path", tool.path("used"), "--socket", tool.path("socket")])
        for command in [["export", "gold", tool.path("used")], ["export", "gold", "--in-place", tool.path("used")], ["import", tool.path("used"), "new"]] {
            tool.expectFailure(try tool.start(command).wait(), naming: ["in use", "dedupdisk (process \(server.child.process))", "--force"])
        }
        try tool.succeed("import", "--force", tool.path("used"), "new")
        server.end()
        try tool.succeed("export", "gold", tool.path("used"))
    }

    @Test(.enabled(if: Client.areInstalled, "needs the package qemu-utils")) func aFileThatQEMUWrites() throws {
        _ = try tool.image("used", [1, 2, 3])
        let user = try Child("/usr/bin/qemu-io", ["-f", "raw", tool.path("used")], input: .pipe)
        user.send(Array("write 0 512\n".utf8))
        _ = user.receive(limit: Child.patience)
        for command in [
            ["export", "gold", tool.path("used")], ["import", tool.path("used"), "new"],
            ["serve", "x", "--read-only", "--path", tool.path("used"), "--socket", tool.path("s")],
        ] {
            tool.expectFailure(try tool.start(command).wait(), naming: ["in use", "qemu-io", "--force"])
        }
        _ = user.wait()
        try tool.succeed("import", tool.path("used"), "new")
    }
}
