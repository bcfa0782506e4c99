import Control
import Disk
import Glibc
import Store
import System
import Testing
import TestSupport

/// Each thing that users get wrong, or find in the way, is one line that says so, and an exit status.
@Suite struct ErrorTests {
    let tool: Tool

    init() throws { tool = try Tool() }

    /// Commands that look at a store that has to be there.
    static let lookers = [["list"], ["stats"], ["check"], ["map", "d"], ["export", "d", "-"], ["delete", "d"]]

    @Test(arguments: lookers) func thereIsNoStore(command: [String]) throws {
        let outcome = try tool.start(command).wait()
        tool.expectFailure(outcome, naming: [tool.store, "there is none", "dedupdisk create"])
        #expect(unsafe access(tool.store, F_OK) != 0, "a look made a store")
    }

    @Test(arguments: lookers) func aDirectoryThatIsNoStore(command: [String]) throws {
        unsafe mkdir(tool.store, 0o755)
        try Files.write(tool.store + "/letter.txt", [65])
        tool.expectFailure(try tool.start(command).wait(), naming: [tool.store, "not a store"])
    }

    @Test func aStrangersFilesAreLeftAlone() throws {
        unsafe mkdir(tool.store, 0o755)
        try Files.write(tool.store + "/letter.txt", [65])
        try tool.fail("create", "d", "--size", "1M", naming: ["not empty"])
        try tool.image("i", [1])
        try tool.fail("import", tool.path("i"), "d", naming: ["not empty"])
        #expect(unsafe access(tool.store + "/meta", F_OK) != 0)
    }

    @Test func aFileWhereTheStoreShouldBe() throws {
        try Files.write(tool.store, [65])
        for command in Self.lookers { tool.expectFailure(try tool.start(command).wait(), naming: [tool.store]) }
        try tool.fail("create", "d", "--size", "1M", naming: [tool.store])
        #expect(try Files.bytes(tool.store) == [65])
    }

    @Test func disksThatAreNotThere() throws {
        try tool.disk("d", [1])
        for command in [["map", "x"], ["export", "x", "-"], ["delete", "x"], ["stats", "x"]] {
            tool.expectFailure(try tool.start(command).wait(), naming: ["disk x", "there is none", "dedupdisk list"])
        }
        try tool.fail("export", "x", tool.path("out"), naming: ["disk x"])
        #expect(unsafe access(tool.path("out"), F_OK) != 0)
    }

    @Test func disksThatAreThereAlready() throws {
        let bytes = try tool.disk("d", [1, 2, 3])
        try tool.image("other", [7])
        try tool.fail("create", "d", "--size", "1M", naming: ["disk d", "there is one"])
        try tool.fail("import", tool.path("other"), "d", naming: ["disk d", "there is one"])
        #expect(try tool.run("export", "d", "-").output == bytes)
        try tool.expectClean()
    }

    @Test(arguments: ["3x", "0", "100", "200T", "-5", "1e3", "", "99999999999999999999", "1.5", "513", "."])
    func wrongSizes(size: String) throws {
        let outcome = try tool.run("create", "d", "--size=\(size)")
        tool.expectFailure(outcome, status: 64, naming: ["size"], remedy: false)
        #expect(unsafe access(tool.store + "/journals/1", F_OK) != 0)
    }

    @Test(arguments: ["512", "1K", "4KiB", "1.5M", "20g", "128T"]) func rightSizes(size: String) throws {
        try tool.succeed("create", "d", "--size", size)
        let bytes = ["512": 512, "1K": 1024, "4KiB": 4096, "1.5M": 1_572_864, "20g": 20 << 30, "128T": 128 << 40][size]
        #expect(try tool.succeed("list", "--json").contains("\"size\" : \(bytes ?? 0)"))
        try tool.expectClean()
    }

    @Test(arguments: ["a/b", "-d", ".d", "two words", "", String(repeating: "n", count: 256), "tab\tbed", "line\nfeed"])
    func wrongNames(name: String) throws {
        // After "--", so that a name is not taken for an option.
        let outcome = try tool.run("create", "--size", "1M", "--", name)
        tool.expectFailure(outcome, status: 64, naming: ["name"], remedy: false)
    }

    @Test func aDiskInUse() throws {
        try tool.disk("d", [1, 2])
        let store = try Store(path: tool.store)
        let disk = try StoreDisk(store, "d")
        try tool.fail("export", "d", "-", naming: ["disk d", "in use"])
        try tool.fail("delete", "d", naming: ["disk d", "in use"])
        #expect(try tool.succeed("stats", "--json").contains("\"attached\" : true"))
        // Nobody can be asked for a copy of it.
        try tool.fail("map", "d", naming: ["disk d", "in use"])
        ControlServer.start(for: disk, of: store)
        // What others may do meanwhile.
        try tool.succeed("export", "d", tool.path("copy"))
        try tool.succeed("list")
        try tool.succeed("map", "d")
        try tool.disk("other", [2, 3])
        try disk.close()
        try tool.succeed("export", "d", tool.path("out"))
        #expect(try tool.succeed("stats", "--json").contains("\"attached\" : true") == false)
    }

    @Test func aDiskThatIsBeingImported() throws {
        try tool.disk("other", [1])
        let importer = try tool.start(["import", "-", "d"], input: .pipe)
        importer.send(block(7))
        // Its lock shows that it is there.
        waitUntil { unsafe access(tool.store + "/journals/2", F_OK) == 0 }
        #expect(!(try tool.succeed("list")).contains("d "))
        try tool.fail("export", "d", "-", naming: ["disk d"])
        try tool.image("i", [1])
        try tool.fail("import", tool.path("i"), "d", naming: ["disk d", "in use"])
        try tool.fail("create", "d", "--size", "1M", naming: ["disk d", "in use"])
        let outcome = importer.wait()
        #expect(outcome.status == 0 && outcome.errors == "", "\(outcome)")
        #expect(try tool.run("export", "d", "-").output == block(7))
    }

    @Test(.enabled(if: Self.canBecomeNobody, "needs root and setpriv"))
    func noPermission() throws {
        try tool.disk("d", [1])
        unsafe chmod(tool.scratch.path, 0o755)
        let start = ["--reuid=65534", "--regid=65534", "--clear-groups", tool.executable]
        for command in Self.lookers + [["create", "x", "--size", "1M"]] {
            let child = try Child(Self.setpriv, start + command, environment: ["DEDUPDISK_STORE": tool.store])
            tool.expectFailure(child.wait(), naming: ["ermission"])
        }
        // A store that can be looked at and not changed.
        for part in ["", "/meta", "/packs", "/journals"] { unsafe chmod(tool.store + part, 0o755) }
        for command in [["create", "x", "--size", "1M"], ["list"]] {
            let child = try Child(Self.setpriv, start + command, environment: ["DEDUPDISK_STORE": tool.store])
            tool.expectFailure(child.wait(), naming: ["ermission"])
        }
        try tool.expectClean()
    }

    static let setpriv = "/usr/bin/setpriv"
    static var canBecomeNobody: Bool { geteuid() == 0 && (unsafe access(setpriv, X_OK)) == 0 }

    @Test(.enabled(if: unsafe access("/dev/xen/xenbus", F_OK) != 0 && access("/proc/xen/xenbus", F_OK) != 0, "there is a Xen here"))
    func noXen() throws {
        try tool.fail("connect", "vm", naming: ["Xen"])
        #expect(unsafe access(tool.store, F_OK) != 0)
    }

    @Test(arguments: [
        ["frobnicate"], ["list", "--frobnicate"], ["create", "d"], ["create", "--size", "1M"], ["import", "x"], ["export", "d"],
        ["list", "d", "surplus"], ["connect", "vm", "--path", "x", "--discard"], ["connect", "vm", "--discard"], ["connect", "vm", "--device", "floppy"],
        ["map", "d", "--offset", "x"], ["serve"], ["serve", "d", "--socket", "s", "--listen", "127.0.0.1:0"], ["serve", "d", "--path", "x", "--size", "1M"],
        ["serve", "d", "--listen", "0.0.0.0:10809"], ["serve", "d", "--listen", "10809"], ["serve", "d", "--discard"],
        ["serve", "", "--discard", "--size", "1M"], ["serve", "d", "--force", "--socket", "no/s"], ["connect", "vm", "--force"],
        ["serve", "d", "--discard", "--size", "1M", "--force", "--socket", "no/s"],
        ["serve", "d", "--discard", "--size", "1M", "--ephemeral", "--socket", "no/s"], ["connect", "vm", "--discard", "--size", "1M", "--ephemeral"],
    ]) func wrongUsage(command: [String]) throws {
        let outcome = try tool.start(command).wait()
        #expect(outcome.status == 64, "\(outcome)")
        #expect(outcome.text == "")
        #expect(outcome.errorLines.count == 1 && outcome.errors.hasPrefix("dedupdisk: "), "\(outcome.errors)")
    }

    /// systemd's journal takes a line's priority from its beginning; a file that only has its name in the environment gets none.
    @Test(arguments: [("$(stat -c %d:%i FILE)", "<3>dedupdisk: "), ("1:2", "dedupdisk: ")]) func prioritiesAreTheJournals(stream: String, start: String) throws
    {
        let file = tool.path("said")
        let script = "touch FILE; JOURNAL_STREAM=\(stream) exec '\(tool.executable)' list 2>FILE".split(separator: "FILE", omittingEmptySubsequences: false)
        #expect(try Child("/bin/sh", ["-c", script.joined(separator: "'\(file)'")], environment: ["DEDUPDISK_STORE": tool.store]).wait().status == 1)
        #expect(try Files.text(file).hasPrefix(start))
    }

    /// A slip says where it is told how to do it.
    @Test func wrongUsageTellsWhoHelps() throws {
        #expect(try tool.start(["conect", "vm"]).wait().errors == "dedupdisk: conect: no such command (see: dedupdisk help)\n")
        #expect(try tool.start(["list", "--frobnicate"]).wait().errors.hasSuffix("(see: dedupdisk help list)\n"))
        for command in [["--frobnicate"], ["help", "--frobnicate"]] {
            let errors = try tool.start(command).wait().errors
            #expect(errors.contains("--frobnicate") && errors.hasSuffix("(see: dedupdisk help)\n"), "\(errors)")
        }
    }

    @Test(arguments: [
        "connect", "serve", "create", "delete", "list", "import", "export", "map", "stats", "check", "snapshot", "clone", "rollback", "rename", "prune", "diff",
    ])
    func everyCommandHasHelp(command: String) throws {
        for arguments in [[command, "--help"], ["help", command]] {
            let outcome = try tool.start(arguments).wait()
            #expect(outcome.status == 0 && outcome.errors == "", "\(outcome)")
            #expect(outcome.text.contains("USAGE: dedupdisk \(command)") && outcome.text.contains("--store"), "\(outcome.text)")
        }
        #expect(try tool.succeed("--help").contains("  \(command)"))
    }

    @Test func importOfWhatIsNoImage() throws {
        try tool.fail("import", tool.path("nothing"), "d", naming: [tool.path("nothing"), "No such file"])
        try tool.fail("import", tool.scratch.path, "d", naming: ["a directory"])
        try Files.write(tool.path("empty"), [])
        for _ in 0..<2 { #expect(try tool.run("import", tool.path("empty"), "d").status == 64) }
        #expect(try tool.run("import", "-", "d", input: .pipe).status == 64)
        try tool.succeed("create", "d", "--size", "1M")
        try tool.expectClean()
    }

    @Test(arguments: [["list"], ["list", "--json"], ["stats"], ["stats", "--json"], ["map", "d"], ["export", "d", "-"], ["check"]])
    func standardOutputIsFull(command: [String]) throws {
        try tool.disk("d", [1, 2, 3])
        tool.expectFailure(try tool.start(command, output: .file("/dev/full")).wait(), naming: ["No space left"], remedy: false)
    }

    @Test func exportToWhereItCannotGo() throws {
        try tool.disk("d", [1, 2, 3])
        try tool.fail("export", "d", tool.path("no/such/directory"), naming: ["No such file"])
        try tool.fail("export", "d", "/dev/full", remedy: false)
    }
}
