import Glibc
import System
import Testing
import TestSupport

/// `dedupdisk serve`, seen through the programs that people use with it (libnbd-bin, qemu-utils, fio).
@Suite(.enabled(if: Client.areInstalled, "needs the packages libnbd-bin, qemu-utils and fio"))
struct ServeTests {
    let tool: Tool
    var socket: String { tool.path("socket") }

    init() throws { tool = try Tool() }

    // MARK: The command

    @Test(arguments: [SIGINT, SIGTERM, SIGHUP]) func aNewDisk(signal: Int32) throws {
        let server = try Server(tool, ["gold", "--size", "64M", "--socket", socket])
        #expect(server.uri == "nbd+unix:///gold?socket=\(socket)")
        let info = try Client.succeed("nbdinfo", server.uri)
        for line in [
            "export=\"gold\"", "export-size: 67108864", "base:allocation", "is_read_only: false", "can_flush: true", "can_fua: true", "can_trim: true",
            "can_zero: true", "can_multi_conn: true", "can_df: true", "can_fast_zero: true", "block_size_minimum: 512",
            "block_size_preferred: 4096", "block_size_maximum: 33554432",
        ] {
            #expect(info.contains(line), "\(info)")
        }
        #expect(try Client.succeed("nbdinfo", "--list", "nbd+unix://?socket=\(socket)").contains("export=\"gold\""))
        #expect(try Client.run("nbdinfo", "nbd+unix:///silver?socket=\(socket)").status != 0)
        server.end(signal)
        #expect(unsafe access(socket, F_OK) != 0)
        #expect(try tool.succeed("list").contains("gold"))
        try tool.expectClean()
    }

    @Test func overTCP() throws {
        let server = try Server(tool, ["gold", "--size", "1M", "--listen", "127.0.0.1:0"])
        #expect(server.uri.hasPrefix("nbd://127.0.0.1:") && server.uri.hasSuffix("/gold"))
        try Client.succeed("qemu-io", "-f", "raw", server.uri, "-c", "write -P 3 512 1024", "-c", "flush")
        server.end()
        #expect(try tool.run("export", "gold", "-").output[512..<1536].allSatisfy { $0 == 3 })
    }

    @Test func disksThatCanNotBeServed() throws {
        try tool.fail("serve", "gold", "--socket", socket, naming: [tool.store, "there is none"])
        #expect(unsafe access(tool.store, F_OK) != 0)
        try tool.disk("d", [1, 2])
        try tool.fail("serve", "gold", "--socket", socket, naming: ["disk gold", "there is none", "--size"])
        try tool.fail("serve", "d", "--size", "1M", "--socket", socket, status: 64, naming: ["disk d", "8192 bytes"])
        try tool.fail("serve", "d", "--socket", tool.path("no/socket"), naming: ["no/socket", "No such file"])
        try tool.fail("serve", "d", "--path", tool.path("nothing"), "--socket", socket, naming: ["No such file"])
        #expect(unsafe access(socket, F_OK) != 0)
        let server = try Server(tool, ["d", "--socket", socket])
        try tool.fail("serve", "d", "--socket", tool.path("other"), naming: ["disk d", "in use"])
        try tool.disk("other", [3])
        try tool.fail("serve", "other", "--socket", socket, naming: [socket, "another server"])
        server.end()
    }

    @Test func killedAndStartedAgain() throws {
        let server = try Server(tool, ["gold", "--size", "1M", "--socket", socket])
        try Client.succeed("qemu-io", "-f", "raw", server.uri, "-c", "write -P 7 4096 8192")
        server.child.kill(SIGKILL)
        #expect(server.child.wait().signal == SIGKILL)
        #expect(unsafe access(socket, F_OK) == 0)
        // Acknowledged, and so still there; the dead one's socket is in nobody's way.
        let again = try Server(tool, ["gold", "--socket", socket])
        try Client.succeed("qemu-io", "-f", "raw", again.uri, "-c", "read -P 7 4096 8192", "-c", "read -P 0 0 4096")
        again.end()
        try tool.expectClean()
    }

    @Test func readOnlyAndEphemeral() throws {
        let bytes = try tool.disk("gold", Array(1...50))
        let first = try Server(tool, ["gold", "--read-only", "--socket", socket])
        // Any number of readers.
        let second = try Server(tool, ["gold", "--ephemeral", "--socket", tool.path("second")])
        #expect(try Client.succeed("nbdinfo", first.uri).contains("is_read_only: true"))
        #expect(try Client.run("qemu-io", "-f", "raw", first.uri, "-c", "write 0 512").status != 0)
        try Client.succeed("qemu-io", "-f", "raw", second.uri, "-c", "write -P 9 0 8192", "-c", "read -P 9 0 8192")
        try Client.succeed("nbdcopy", "--connections=1", first.uri, tool.path("out"))
        #expect(try Files.bytes(tool.path("out")) == bytes)
        first.end()
        second.end()
        #expect(try tool.run("export", "gold", "-").output == bytes)
    }

    /// What is read-only is so, whatever it is a disk of.
    @Test func readOnlyWhateverItIs() throws {
        try tool.disk("gold", [1, 2, 3])
        let file = ["--path", tool.path("gold.raw")]
        for options in [file, file + ["--ephemeral"], ["--ephemeral"], ["--discard", "--size", "1M"]] {
            let server = try Server(tool, ["gold", "--read-only", "--socket", socket] + options)
            #expect(try Client.succeed("nbdinfo", server.uri).contains("is_read_only: true"), "\(options)")
            #expect(try Client.run("qemu-io", "-f", "raw", server.uri, "-c", "write 0 512").status != 0, "\(options)")
            server.end()
        }
        // It would not be made.
        try tool.fail("serve", "new", "--size", "1M", "--read-only", "--socket", socket, naming: ["disk new", "there is none", "create it first"])
    }

    /// Who watches over it, as systemd does, sees how it ended.
    @Test(arguments: [
        (SIGSEGV, "memory was touched that cannot be"), (SIGABRT, "memory was touched that cannot be"), (SIGBUS, "a page of it cannot be read"),
    ]) func aFaultIsSaidAndStaysASignal(signal: Int32, words: String) throws {
        let server = try Server(tool, ["gold", "--size", "1M", "--socket", socket])
        server.child.kill(signal)
        let outcome = server.child.wait()
        #expect(outcome.signal == signal)
        #expect(outcome.errors.contains(words), "\(outcome.errors)")
    }

    @Test func aSecondSignalForces() throws {
        let server = try Server(tool, ["gold", "--discard", "--size", "1G", "--socket", socket])
        server.child.kill(SIGTERM)
        server.child.kill(SIGTERM)
        let outcome = server.child.wait()
        #expect(outcome.status == 0, "\(outcome)")
        #expect(unsafe access(socket, F_OK) != 0)
    }

    // MARK: Clients

    @Test func copiesInAndOut() throws {
        // Data, zeros, data.
        let image = try tool.image("image", Array(1...700) + [UInt64](repeating: 0, count: 700) + Array(500...900))
        let server = try Server(tool, ["gold", "--size", "\(image.count)", "--socket", socket])
        try Client.succeed("nbdcopy", "--connections=1", "--flush", tool.path("image"), server.uri)
        try Client.succeed("nbdcopy", "--connections=1", server.uri, tool.path("copy"))
        #expect(try Files.bytes(tool.path("copy")) == image)
        try Client.succeed("qemu-img", "compare", "-f", "raw", "-F", "raw", server.uri, tool.path("image"))
        try Client.succeed("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", tool.path("image"), server.uri)
        try Client.succeed("qemu-img", "convert", "-f", "raw", "-O", "qcow2", server.uri, tool.path("copy.qcow2"))
        try Client.succeed("qemu-img", "compare", tool.path("copy.qcow2"), server.uri)
        server.end()
        #expect(try tool.run("export", "gold", "-").output == image)
        try tool.expectClean()
    }

    /// A file with holes, and several connections.
    @Test func aFileOverSeveralConnections() throws {
        let image = try tool.image("image", Array(1...4000) + [UInt64](repeating: 0, count: 2000))
        #expect(unsafe truncate(tool.path("image"), off_t(image.count + 64 << 20)) == 0)
        let server = try Server(tool, ["file", "--path", tool.path("image"), "--socket", socket])
        let map = try Client.succeed("nbdinfo", "--map", server.uri)
        #expect(map.contains("hole,zero") && map.contains("data"), "\(map)")
        try Client.succeed("nbdcopy", "--connections=4", "--requests=16", server.uri, tool.path("copy"))
        try Client.succeed("qemu-img", "compare", "-f", "raw", "-F", "raw", server.uri, tool.path("copy"))
        #expect(try Array(Files.bytes(tool.path("copy")).prefix(image.count)) == image)
        try Client.succeed("nbdcopy", "--connections=4", "--flush", tool.path("copy"), server.uri)
        server.end()
        #expect(try Files.bytes(tool.path("image")) == Files.bytes(tool.path("copy")))
    }

    @Test func whatQEMUAsksFor() throws {
        let server = try Server(tool, ["gold", "--size", "64M", "--socket", socket])
        try Client.succeed(
            "qemu-io", "-f", "raw", server.uri, "-c", "write -P 1 0 4M", "-c", "write -P 2 512 512", "-c", "read -P 1 0 512", "-c", "read -P 2 512 512",
            "-c", "read -P 1 1024 4193280", "-c", "write -z 1M 1M", "-c", "read -P 0 1M 1M", "-c", "write -z -u 2M 4k", "-c", "read -P 0 2M 4k",
            "-c", "discard 3M 1M", "-c", "flush", "-c", "write -f -P 4 33M 20M", "-c", "read -P 4 33M 20M", "-c", "aio_write -P 5 0 64k",
            "-c", "aio_read 32M 64k", "-c", "aio_flush")
        #expect(try Client.run("qemu-io", "-f", "raw", server.uri, "-c", "read 64M 512").status != 0)
        server.end()
        try tool.expectClean()
    }

    /// fio writes with deep queues, flushes now and then, and reads back what it wrote.
    @Test(arguments: [["--bs=4k", "--iodepth=32", "--fsync=7"], ["--bsrange=512-300k", "--bs_unaligned=0", "--iodepth=8", "--fsync=3"]])
    func fioVerifies(arguments: [String]) throws {
        let server = try Server(tool, ["gold", "--size", "32M", "--socket", socket])
        let common = [
            "--name=job", "--ioengine=nbd", "--uri=\(server.uri)", "--rw=randwrite", "--size=32M", "--io_size=24M", "--verify=crc32c", "--verify_fatal=1",
            "--verify_state_save=0", "--randseed=7",
        ]
        let outcome = try Child("/usr/bin/fio", common + arguments).wait()
        #expect(outcome.status == 0, "\(outcome.errors) \(outcome.text)")
        server.end()
        try tool.expectClean()
    }
}
