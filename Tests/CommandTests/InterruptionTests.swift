import Disk
import Glibc
import Store
import System
import Testing
import TestSupport

/// Imports that end before their end.
@Suite struct InterruptionTests {
    let tool: Tool

    init() throws {
        tool = try Tool()
        try tool.disk("other", Array(1...50))
    }

    /// An import that has committed some of the disk and waits for more of it.
    func importHalfDone() throws -> Child {
        let importer = try tool.start(["import", "-", "d"], input: .pipe)
        // More than a commit's worth, and some more on its way.
        let bytes = (1...500).flatMap { block(UInt64($0)) }
        for _ in 0..<20 { #expect(importer.send(bytes)) }
        return importer
    }

    func expectNothingHalfDone() throws {
        #expect(try tool.succeed("list").split(separator: "\n").count == 2)
        #expect(try tool.run("export", "d", "-").status == 1)
        try tool.expectClean()
        // The name is free, and what was left of it is gone.
        try tool.disk("d", Array(40...60))
        #expect(try tool.run("export", "d", "-").output == (40...60).flatMap { block(UInt64($0)) })
        try tool.expectClean()
        let statistics = try Store(path: tool.store).statistics()
        #expect(statistics.uniqueBytes == 60 * 4096)
        #expect(statistics.mappedBytes == 71 * 4096)
        let store = try Store(path: tool.store)
        #expect(try store.disks().map(\.name) == ["d", "other"])
    }

    @Test(arguments: [SIGINT, SIGTERM, SIGHUP]) func aSignalAsksForTheEnd(signal: Int32) throws {
        let importer = try importHalfDone()
        importer.kill(signal)
        // Not the end of the pipe: the reader is waiting in it. It may have had some before it hears of the signal.
        waitUntil {
            usleep(50_000)
            return !importer.send([UInt8](repeating: 1, count: 4096))
        }
        let outcome = importer.wait()
        tool.expectFailure(outcome, status: 1, naming: ["import", "interrupted"])
        try expectNothingHalfDone()
    }

    @Test func killedInTheMiddle() throws {
        let importer = try importHalfDone()
        importer.kill(SIGKILL)
        #expect(importer.wait().signal == SIGKILL)
        try expectNothingHalfDone()
    }

    @Test func killedAgainAndAgainAtAnyTime() throws {
        try tool.image("i", Array(1...3000))
        let whole = (1...3000).flatMap { block(UInt64($0)) }
        var random = SeededGenerator(seed: 5)
        for round in 0..<12 {
            let importer = try tool.start(["import", tool.path("i"), "d"])
            usleep(UInt32.random(in: 1_000...120_000, using: &random))
            importer.kill(SIGKILL)
            let outcome = importer.wait()
            let check = try tool.run("check", "--read-data")
            #expect(check.status == 0, "round \(round): \(check)")
            // A kill that came after the last commit leaves a disk, and a whole one.
            let export = try tool.run("export", "d", "-")
            if outcome.status == 0 { #expect(export.status == 0, "round \(round)") }
            if export.status == 0 {
                #expect(export.output == whole, "round \(round)")
                try tool.succeed("delete", "d")
            }
        }
        try expectNothingHalfDone()
    }

    @Test func anExportThatIsInterruptedLeavesNothing() throws {
        try tool.succeed("create", "large", "--size", "100G")
        // Sequential: a hundred gigabytes of zeros, into a pipe that nobody empties once it is at work.
        let exporter = try tool.start(["export", "large", "-"])
        #expect(!exporter.receive(limit: Child.patience).isEmpty)
        exporter.kill(SIGINT)
        let outcome = exporter.wait()
        tool.expectFailure(outcome, status: 1, naming: ["interrupted"], remedy: false)
    }
}

/// A filesystem that fills up.
@Suite(.serialized, .enabled(if: Volume.isAvailable(.tmpfs), "mounting a tmpfs takes root"))
struct FullFilesystemTests {
    @Test func importsFailWholeAndDeletingWorks() throws {
        let volume = try Volume(.tmpfs, megabytes: 24)
        var tool = try Tool()
        tool.store = volume.path + "/store"
        let kept = try tool.disk("kept", Array(1...1000))
        // 40 MiB into 24.
        try tool.image("large", Array(2000...12000))
        try tool.fail("import", tool.path("large"), "large", naming: ["No space left", "free"])
        #expect(try tool.succeed("list").split(separator: "\n").count == 2)
        try tool.expectClean()
        #expect(try tool.run("export", "kept", "-").output == kept)
        // Now to the last byte.
        volume.fill()
        try tool.image("small", Array(20_000...20_100))
        try tool.fail("import", tool.path("small"), "small", naming: ["No space left"])
        #expect(try tool.run("export", "kept", "-").output == kept)
        try tool.succeed("delete", "kept")
        #expect(try tool.succeed("list") == "")
        try tool.expectClean()
        // What was deleted made room by itself, though the rest of the filesystem stays full.
        volume.empty()
        try tool.disk("small", Array(20_000...20_100))
        try tool.expectClean()
        let again = try tool.disk("again", Array(1...1000))
        #expect(try tool.run("export", "again", "-").output == again)
    }

    @Test func aFullStoreTakesNoWriteAndLosesNone() throws {
        let scene = try StoreOnVolume(.tmpfs, megabytes: 24, diskByteCount: 256 << 20)
        var disk = try scene.disk()
        var acknowledged: [UInt64: UInt64] = [:]
        var number: UInt64 = 0
        var refusal: Failure?
        while refusal == nil, number < 20_000 {
            do {
                try disk.write(at: number * 8, block(number + 1))
                acknowledged[number] = number + 1
                number += 1
            } catch { refusal = error }
        }
        #expect(refusal?.kind == .noSpace, "\(String(describing: refusal))")
        #expect(acknowledged.count > 2000)
        for (place, number) in acknowledged { #expect(try disk.sectors(at: place * 8, count: 8) == block(number)) }
        #expect(throws: Failure.self) { try disk.close() }
        // With some room it all goes in.
        scene.volume.grow(to: 64)
        disk = try scene.disk()
        for (place, number) in acknowledged { #expect(try disk.sectors(at: place * 8, count: 8) == block(number)) }
        try disk.close()
        try scene.expectClean()
    }
}
