import Glibc
import System
import Testing
import TestSupport

/// How the program begins where little is there, and how it ends while something is going on.
@Suite struct EndTests {
    let tool: Tool

    init() throws { tool = try Tool() }

    func bash(_ script: String, limit: Double = Child.patience) throws -> Child.Outcome {
        try Child("/bin/bash", ["-c", script], environment: ["DEDUPDISK_STORE": tool.store, "P": tool.executable, "T": tool.scratch.path, "TERM": "xterm"])
            .wait(limit: limit)
    }

    // MARK: Without /proc, as in a chroot or an initramfs

    static let hidesProc = "mount -t tmpfs none /proc"
    static var canHideProc: Bool { (try? Child("/usr/bin/unshare", ["-m", "sh", "-c", hidesProc]).wait().status) == 0 }

    @Test(.enabled(if: canHideProc, "a mount namespace takes root")) func withoutProc() throws {
        let bytes = try tool.image("i", [1, 2, 3])
        func run(_ arguments: String..., without more: String = "") throws -> Child.Outcome {
            try Child(
                "/usr/bin/unshare", ["-m", "sh", "-c", "\(Self.hidesProc)\(more); exec \"$0\" \"$@\"", tool.executable] + arguments,
                environment: ["DEDUPDISK_STORE": tool.store]
            ).wait()
        }
        for more in ["", "; mount -t tmpfs none /sys", "; mount -t tmpfs none /dev"] {
            #expect(try run("import", tool.path("i"), "d", without: more).status == 0)
            #expect(try run("list", without: more).text.contains("d "))
            #expect(try run("export", "d", "-", without: more).output == bytes)
            #expect(try run("check", "--read-data", without: more).status == 0)
            #expect(try run("delete", "d", without: more).status == 0)
        }
        tool.expectFailure(try run("map", "d"), naming: ["disk d"])
        for (arguments, status) in [(["frobnicate"], 64), (["list", "--frobnicate"], 64), (["list", "--help"], 0), (["--version"], 0)] as [([String], Int32)] {
            let outcome = try Child("/usr/bin/unshare", ["-m", "sh", "-c", "\(Self.hidesProc); exec \"$0\" \"$@\"", tool.executable] + arguments).wait()
            #expect(outcome.status == status, "\(arguments): \(outcome)")
        }
        try tool.expectClean()
    }

    // MARK: Threads that are at work

    static let compiler = ["/usr/bin/cc", "/usr/bin/gcc", "/usr/bin/clang"].first { unsafe access($0, X_OK) == 0 }

    /// The hashing threads are late: each waits within OpenSSL until the process is ending.
    @Test(.enabled(if: compiler != nil, "there is no C compiler")) func aHashingThreadIsLate() throws {
        let source = #filePath.split(separator: "/").dropLast().reduce("") { $0 + "/" + $1 } + "/late-hashing.c"
        let library = tool.path("late.so")
        let built = try Child(Self.compiler ?? "", ["-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"]).wait()
        try #require(built.status == 0, "\(built.errors)")
        try tool.image("i", Array(1...2000))
        for number in 0..<12 {
            let outcome = try Child(
                tool.executable, ["import", tool.path("i"), "d\(number)"], environment: ["DEDUPDISK_STORE": tool.store, "LD_PRELOAD": library]
            ).wait()
            #expect(outcome.status == 0 && outcome.errors == "", "\(outcome)")
        }
        // A program that ends by exit(3).
        for _ in 0..<4 {
            let writer = try Child(try Child.built("CrashWriter"), [tool.store, "d0", "1"], environment: ["LD_PRELOAD": library])
            usleep(300_000)
            writer.kill(SIGPIPE)
            #expect([SIGPIPE, nil].contains(writer.wait().signal))
        }
        try tool.expectClean()
    }

    // MARK: Signals

    /// `stty tostop`: output of a background job stops it.
    @Test func progressFromTheBackground() throws {
        try tool.image("i", Array(1...20_000))
        // A job that was stopped ends this wait, too.
        try Files.write(tool.path("back.sh"), Array("stty tostop; $P import $T/i back & wait $!; echo status=$?\n".utf8))
        let back = try bash("script -qec \"bash -m $T/back.sh\" /dev/null")
        #expect(back.text.contains("status=0") && !back.text.contains("imported"), "\(back)")
        let front = try bash("script -qec \"$P import $T/i front\" /dev/null")
        #expect(front.status == 0 && front.text.contains("imported"), "\(front)")
        try tool.expectClean()
    }

    @Test func aReaderThatGoes() throws {
        try tool.disk("d", Array(1...5000))
        let outcome = try bash("$P export d - | head -c 1 >/dev/null; echo ${PIPESTATUS[0]}; $P map d | head -n 1 >/dev/null; echo ${PIPESTATUS[0]}")
        // Of SIGPIPE, without a word.
        #expect(outcome.text == "141\n141\n" && outcome.errors == "", "\(outcome)")
        // Where that signal is ignored, as under systemd, of the error.
        let ignoring = try bash("trap '' PIPE; { $P map d; echo $? >$T/status; } | head -n 1 >/dev/null; cat $T/status")
        #expect(ignoring.text == "1\n" && ignoring.errors.contains("Broken pipe"), "\(ignoring)")
        try tool.expectClean()
    }

    /// `ulimit -f`, in KiB: what is larger is an error, at whatever file it is reached.
    @Test(arguments: [1, 100, 1024, 4000, 16_000, 40_000]) func aLimitOfFiles(kibibytes: Int) throws {
        let kept = try tool.disk("kept", Array(1...100))
        try tool.image("i", Array(1000...12_000))
        let outcome = try bash("ulimit -f \(kibibytes); exec $P import $T/i large")
        tool.expectFailure(outcome, naming: ["File too large", "ulimit -f"])
        #expect(try tool.succeed("list").split(separator: "\n").count == 2)
        try tool.expectClean()
        #expect(try tool.run("export", "kept", "-").output == kept)
        try tool.succeed("import", tool.path("i"), "large")
        try tool.expectClean()
    }

    @Test func aLimitOfProcessorTimeIsLikeAKill() throws {
        try tool.image("i", Array(1...100_000))
        _ = try bash("ulimit -t 1; for name in a b c d e f; do $P import $T/i $name || break; done")
        try tool.expectClean()
    }
}
