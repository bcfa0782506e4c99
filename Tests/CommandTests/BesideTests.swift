import Glibc
import Store
import System
import Testing
import TestSupport

/// `check` beside every command: 0 false alarms.
@Suite(.serialized) struct BesideTests {
    @Test func checkBesideAllThatChanges() throws {
        let tool = try Tool()
        try tool.disk("gold", Array(1...3000))
        for index in 0..<3 { try tool.image("i\(index)", Array(UInt64(10_000 * (index + 1))..<UInt64(10_000 * (index + 1) + 9000)) + Array(1...500)) }
        var random = SeededGenerator(seed: 3)
        var checks = 0
        var alarms: [String] = []
        var workers: [Child] = []
        var kills = 0
        var turn = 0
        let server = try Server(tool, ["served", "--size", "64M", "--socket", tool.path("socket")])
        // Bounded by rounds, not by time.
        while checks < 60 {
            while workers.count < 3 {
                turn += 1
                let name = "d\(turn % 4)"
                switch Int.random(in: 0..<8, using: &random) {
                case 0, 1: workers.append(try tool.start(["import", tool.path("i\(turn % 3)"), name]))
                case 2: workers.append(try tool.start(["delete", name]))
                case 3: workers.append(try tool.start(["resize", name, "\(40 + turn % 8)M", "--discard-data"]))
                case 4: workers.append(try tool.start(["create", "e\(turn)", "--size", "1M"]))
                default: workers.append(try tool.start(["gc"]))
                }
            }
            if Client.areInstalled, turn % 3 == 0 {
                _ = try Client.run(
                    "qemu-io", "-f", "raw", server.uri, "-c", "write -P \(turn % 251 + 1) \(turn % 60)M 1M", "-c", "discard \((turn + 7) % 60)M 512k", "-c",
                    "flush")
            }
            let check = try tool.run("check")
            checks += 1
            if check.status != 0 { alarms.append("check \(checks): \(check.errors)") }
            let worker = workers.remove(at: Int.random(in: 0..<workers.count, using: &random))
            if Bool.random(using: &random) {
                worker.kill(SIGKILL)
                kills += 1
            }
            let outcome = worker.wait()
            #expect(outcome.status != 3 && (outcome.signal == nil || outcome.signal == SIGKILL), "\(outcome)")
        }
        for worker in workers { _ = worker.wait() }
        server.end(telling: true)
        #expect(alarms == [], "\(kills) kills")
        #expect(kills > 10)
        try tool.expectClean()
        #expect(try tool.run("export", "gold", "-").output == (1...3000).flatMap { block(UInt64($0)) })
        // Nothing is left of what was killed but what gc takes.
        try tool.succeed("gc")
        let store = try Store(path: tool.store)
        let numbers = Set(try store.disks().map { "\($0.number)" })
        #expect(Set(try File.names(inDirectory: tool.store + "/journals")) == numbers)
        #expect(try store.statistics().reclaimableBytes == 0)
    }
}
