import Glibc
import System
import Testing
import TestSupport

/// Programs that are started with standard descriptors closed: what has to be said goes nowhere, least of all into a store.
@Suite struct DescriptorTests {
    let tool: Tool

    init() throws {
        tool = try Tool()
        try tool.disk("gold", Array(1...300))
    }

    /// Every choice of descriptors 0 to 2.
    static let choices: [[Int]] = (1...7).map { bits in (0...2).filter { bits >> $0 & 1 == 1 } }

    /// Starts a program without these descriptors: sh(1) closes them.
    func start(_ executable: String, _ arguments: [String], without closed: [Int]) throws -> Child {
        let redirections = closed.map { " \($0)>&-" }.joined()
        return try Child("/bin/sh", ["-c", "exec \"$0\" \"$@\"\(redirections)", executable] + arguments, environment: ["DEDUPDISK_STORE": tool.store])
    }

    @Test(arguments: choices) func aServerHarmsNoStore(closed: [Int]) throws {
        let socket = tool.path("socket")
        let server = try start(tool.executable, ["serve", "gold", "--socket", socket], without: closed)
        #expect(waitUntil { unsafe access(socket, F_OK) == 0 })
        for descriptor in 0...2 { #expect(unsafe access("/proc/\(server.process)/fd/\(descriptor)", F_OK) == 0) }
        // Its last message comes when the disk is closed.
        server.kill(SIGINT)
        #expect(server.wait().status == 0)
        try tool.expectClean()
    }

    @Test(arguments: choices) func aCommandHarmsNoStore(closed: [Int]) throws {
        for command in [["list"], ["stats", "--json"], ["export", "gold", "-"], ["map", "gold"]] {
            let outcome = try start(tool.executable, command, without: closed).wait()
            // What should have been printed was not.
            #expect(outcome.status == (closed.contains(1) ? 1 : 0), "\(command): \(outcome)")
            if closed.contains(1), !closed.contains(2) { tool.expectFailure(outcome, naming: ["standard output", "Bad file descriptor"], remedy: false) }
        }
        // Nothing is a disk of nothing.
        let imported = try start(tool.executable, ["import", "-", "new"], without: closed).wait()
        #expect(closed.contains(0) ? imported.status == 1 : imported.status == 64, "\(imported)")
        // A message about a store that is open.
        #expect(try start(tool.executable, ["map", "none"], without: closed).wait().status == 1)
        try tool.succeed("create", "made", "--size", "1M")
        #expect(try tool.succeed("list").split(separator: "\n").count == 3)
        try tool.expectClean()
    }

    /// Opened anew, a descriptor that was closed is not a place that takes everything.
    @Test func theirPathsLeadNowhere() throws {
        #expect(try start(tool.executable, ["export", "gold", "/proc/self/fd/1"], without: [1]).wait().status == 1)
        #expect(try start(tool.executable, ["import", "/proc/self/fd/0", "new"], without: [0]).wait().status == 1)
        try tool.expectClean()
    }

    /// It writes to a store, and a byte to standard output behind each step.
    @Test(arguments: choices.filter { $0.contains(1) }) func aProgramOfTheTests(closed: [Int]) throws {
        let writer = try start(try Child.built("CrashWriter"), [tool.store, "gold", "1"], without: closed)
        #expect(writer.wait().status == 0)
        try tool.expectClean()
    }

    /// What begins every program is linked by what depends on it.
    @Test func everyProgramBeginsThatWay() throws {
        let root = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }
        let manifest = String(decoding: try Files.bytes(root + "/Package.swift"), as: UTF8.self)
        let programs = manifest.split(separator: ".executableTarget(").dropFirst()
        #expect(programs.count == 4)
        for program in programs { #expect(program.prefix { $0 != "]" }.contains("\"CProcess\""), "\(program)") }
        // The nested packages' programs have it from a product.
        #expect(manifest.contains("\"DedupDiskProcess\", targets: [\"CProcess\"]"))
        for nested in ["Benchmarks", "Fuzz"] {
            let manifest = try Files.text("\(root)/\(nested)/Package.swift")
            #expect(manifest.contains("DedupDiskProcess") || manifest.contains("\"Process\""))
        }
        #expect(String(decoding: try Files.bytes(root + "/tools/lab/images"), as: UTF8.self).contains("$start/start.c"))
    }
}
