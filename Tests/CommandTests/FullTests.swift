import BlockModel
import Disk
import Glibc
import OldStores
import Store
import System
import Testing
import TestSupport

/// Every way out of a filesystem that is full to the last byte.
@Suite(.serialized, .enabled(if: !Volume.available.isEmpty, "\(Volume.why)"))
struct FullTests {
    /// A store on a volume of its own.
    func tool(on volume: Volume) throws -> Tool {
        var tool = try Tool()
        tool.store = volume.path + "/store"
        return tool
    }

    func reserve(_ tool: Tool) throws -> UInt64 { try File.allocatedBytes(ofFile: tool.store + "/reserve") ?? 0 }

    /// The reserve is all there, but for what a filesystem's own bookkeeping took.
    func expectReserve(_ tool: Tool, location: SourceLocation = #_sourceLocation) throws {
        #expect(try reserve(tool) >= 1216 << 10, sourceLocation: location)
    }

    @Test(arguments: Volume.available) func everyCommandWorks(kind: Volume.Kind) throws {
        let volume = try Volume(kind, megabytes: 64)
        let tool = try tool(on: volume)
        let kept = try tool.disk("kept", Array(1...2000))
        try tool.disk("gone", Array(1...4000))
        try tool.succeed("create", "empty", "--size", "1G")
        volume.fill()
        try tool.fail("create", "x", "--size", "1M", naming: ["No space left"])
        volume.fill()
        #expect(try tool.succeed("list").split(separator: "\n").count == 4)
        try tool.succeed("stats")
        try tool.expectClean()
        #expect(try tool.run("export", "kept", "-").output == kept)
        for how in [["--read-only"], ["--ephemeral"], []] {
            try Server(tool, ["kept", "--socket", tool.path("socket")] + how).end(telling: true)
            volume.fill()
        }
        try tool.succeed("resize", "empty", "2G")
        try tool.succeed("resize", "empty", "512M")
        try tool.succeed("resize", "gone", "4M", "--discard-data")
        volume.fill()
        for command in [
            ["snapshot", "kept@s"], ["diff", "kept@s"], ["clone", "kept@s", "copy"], ["rename", "copy", "other"], ["rollback", "kept@s"],
            ["prune", "kept", "--keep-last", "1"], ["set", "full=wait"], ["set", "full=fail"], ["delete", "other"], ["delete", "kept@s"],
        ] {
            let outcome = try tool.start(command).wait()
            #expect(outcome.status == 0 && outcome.errors == "", "\(command): \(outcome)")
            volume.fill()
        }
        try tool.succeed("check", "--repair")
        try expectReserve(tool)
        try tool.succeed("gc")
        // 2000 blocks that no disk has any more.
        #expect(volume.free > 7 << 20)
        volume.fill()
        try tool.succeed("delete", "gone")
        try tool.succeed("delete", "empty")
        try tool.succeed("gc")
        volume.empty()
        try expectReserve(tool)
        try tool.expectClean()
        #expect(try tool.run("export", "kept", "-").output == kept)
        try tool.disk("again", Array(9000...9100))
    }

    /// Disks of many sizes until nothing more fits, then all of them deleted.
    @Test(arguments: Volume.available) func whatImportsFilledIsEmptied(kind: Volume.Kind) throws {
        let volume = try Volume(kind, megabytes: 48)
        let tool = try tool(on: volume)
        let first = try tool.disk("d0", Array(1...500))
        var count = 1
        var number: UInt64 = 1000
        for size in [1500, 200, 30, 1] {
            while count < 200 {
                try tool.image("i", Array(number..<number + UInt64(size)))
                number += UInt64(size)
                guard try tool.run("import", tool.path("i"), "d\(count)").status == 0 else { break }
                count += 1
            }
        }
        #expect(volume.free < 2 << 20)
        try expectReserve(tool)
        for run in 0..<2 { #expect(try tool.run("gc").status == 0, "\(run)") }
        for index in 1..<count { try tool.succeed("delete", "d\(index)") }
        try tool.succeed("gc")
        #expect(volume.free > 32 << 20)
        try expectReserve(tool)
        try tool.expectClean()
        #expect(try tool.run("export", "d0", "-").output == first)
    }

    /// Packs that are half alive have to be copied, one at a time, and blobs that the index does not have are collected as well.
    @Test(arguments: Volume.available) func packsThatAreHalfAlive(kind: Volume.Kind) throws {
        let volume = try Volume(kind, megabytes: 64)
        let tool = try tool(on: volume)
        try tool.disk("all", Array(1...8000))
        let half = try tool.disk("half", (1...8000).filter { $0 % 2 == 0 })
        try tool.succeed("delete", "all")
        volume.fill()
        try tool.succeed("gc")
        #expect(volume.free > 12 << 20)
        try expectReserve(tool)
        #expect(try tool.run("export", "half", "-").output == half)
        try tool.expectClean()
    }

    /// Killed at any time, and begun again: nothing is lost, and it comes to its end.
    @Test(arguments: Volume.available) func gcIsKilledAgainAndAgain(kind: Volume.Kind) throws {
        let volume = try Volume(kind, megabytes: 64)
        let tool = try tool(on: volume)
        try tool.disk("all", Array(1...8000))
        let half = try tool.disk("half", (1...8000).filter { $0 % 3 == 0 })
        try tool.succeed("delete", "all")
        volume.fill()
        var random = SeededGenerator(seed: 11)
        for round in 0..<12 {
            let collector = try tool.start(["gc"])
            usleep(UInt32.random(in: 5_000...150_000, using: &random))
            collector.kill(SIGKILL)
            _ = collector.wait()
            // What the reserve was given up for is not for others; what gc has freed is.
            if try reserve(tool) > 0 { volume.fill() }
            let check = try tool.run("check")
            #expect(check.status == 0, "round \(round): \(check)")
        }
        try tool.succeed("gc")
        try expectReserve(tool)
        #expect(try tool.run("export", "half", "-").output == half)
        try tool.expectClean()
        #expect(try Store(path: tool.store).statistics().reclaimableBytes == 0)
    }

    /// What was acknowledged waits in the journal of a server that was killed: it is read, and goes in when there is room.
    @Test(arguments: Volume.available) func aJournalThatCannotBeTakenIn(kind: Volume.Kind) throws {
        let volume = try Volume(kind, megabytes: 48)
        let tool = try tool(on: volume)
        // More than the rest of the volume: all that waits has room where it was.
        try tool.disk("filler", Array(1...7000))
        var acknowledged: [UInt64] = []
        do {
            let store = try Store(path: tool.store)
            try store.create("d", byteCount: 64 << 20)
            let disk = try StoreDisk(store, "d")
            for number in 0..<12_000 as Range<UInt64> {
                do { try disk.write(at: number * 8, block(100_000 + number)) } catch { break }
                acknowledged.append(100_000 + number)
            }
            #expect(throws: Failure.self) { try disk.close() }
        }
        let whole = acknowledged.flatMap { block($0) }
        volume.fill()
        func expectAll(_ bytes: [UInt8]) { #expect(bytes.prefix(whole.count) == whole[...] && bytes.count == 64 << 20) }
        expectAll(try tool.run("export", "d", "-").output)
        try tool.succeed("export", "d", tool.path("out"))
        expectAll(try Files.bytes(tool.path("out")))
        let server = try Server(tool, ["d", "--socket", tool.path("socket")])
        #expect(server.told.contains { $0.contains("disk d: what an interrupted writer left in its journal is read there") }, "\(server.told)")
        if Client.areInstalled {
            try Client.succeed("nbdcopy", server.uri, tool.path("copy"))
            expectAll(try Files.bytes(tool.path("copy")))
        }
        server.child.kill(SIGINT)
        let outcome = server.child.wait()
        #expect(outcome.status == 1 && outcome.errors.contains("wait in its journal"), "\(outcome)")
        try tool.succeed("check")
        // Way out.
        try tool.succeed("delete", "filler")
        try tool.succeed("gc")
        expectAll(try tool.run("export", "d", "-").output)
        try Server(tool, ["d", "--socket", tool.path("socket")]).end()
        try tool.expectClean()
        expectAll(try tool.run("export", "d", "-").output)
        volume.empty()
        try expectReserve(tool)
    }

    /// What finds no room is told once, however often it is tried again, and once when it went in.
    @Test(arguments: Volume.available) func aFullFilesystemIsToldOnce(kind: Volume.Kind) throws {
        let scene = try StoreOnVolume(kind, megabytes: 32)
        let heard = scene.heard
        let disk = try scene.diskWhoseCommitFails()
        waitUntil { heard.events.counters.failedCommits.value >= 3 }
        let told = heard.all(.commitRetry)
        #expect(told.map(\.phase) == [.begins] && told[0].subject == .disk("d") && "\(told[0])".contains("No space left"), "\(told)")
        #expect(heard.all(.reserve).count <= 1)
        scene.volume.empty()
        #expect(heard.wait(for: 2, .commitRetry).last?.times == Int(heard.events.counters.failedCommits.value))
        try disk.close()
        #expect(heard.all(.commitRetry).count == 2)
        // Each that began is over.
        let reserve = heard.all(.reserve)
        #expect(reserve.count == 2 * reserve.count { $0.phase == .begins }, "\(reserve)")
        try scene.expectClean()
    }

    /// What failed is tried once more when the disk is closed, as there may be room by then.
    @Test(arguments: Volume.available) func roomThatComesBeforeTheEnd(kind: Volume.Kind) throws {
        let scene = try StoreOnVolume(kind, megabytes: 32)
        let heard = scene.heard
        let disk = try scene.diskWhoseCommitFails()
        // Right behind a try: the next one would come a second later.
        let failed = heard.events.counters.failedCommits.value
        waitUntil { heard.events.counters.failedCommits.value > failed }
        scene.volume.empty()
        try disk.close()
        #expect(heard.all(.commitRetry).map { $0.phase == .begins } == [true, false])
        #expect(try File(path: "\(scene.store.path)/journals/\(disk.number)").size() == 0)
        let reader = try StoreDisk(scene.store, "d", readOnly: true)
        #expect(try reader.sectors(at: 0, count: 90 * 8) == (1001...1090).flatMap { block(UInt64($0)) })
        #expect(try reader.sectors(at: 90 * 8, count: 110 * 8) == (91...200).flatMap { block(UInt64($0)) })
        try scene.expectClean()
    }

    /// A guest discards on a full filesystem, and goes on writing when gc has been there.
    @Test(arguments: Volume.available) func discarding(kind: Volume.Kind) throws {
        let scene = try StoreOnVolume(kind, megabytes: 48, diskByteCount: 256 << 20)
        let store = scene.store
        var disk = try scene.disk(journalBytes: StoreDisk.defaultJournalBytes)
        try disk.write(at: 0, (1...3000).flatMap { block(UInt64($0)) })
        try disk.close()
        disk = try scene.disk(journalBytes: StoreDisk.defaultJournalBytes)
        scene.volume.fill()
        try disk.discard(#require(SectorRange(start: 0, count: 8 * 1000)))
        try disk.discard(#require(SectorRange(start: 8 * 1500, count: (256 << 11) - 8 * 1500)))
        try disk.flush()
        #expect(try disk.sectors(at: 0, count: 8000) == [UInt8](repeating: 0, count: 1000 * 4096))
        #expect(try disk.sectors(at: 8000, count: 8) == block(1001))
        #expect(try store.collect(shouldStop: { false }) { _, _ in } == 2500 * 4096)
        try disk.write(at: 0, (9001...9100).flatMap { block(UInt64($0)) })
        try disk.close()
        #expect(try store.statistics().mappedBytes == 600 * 4096)
        try scene.expectClean()
    }

    /// A store whose owner wants writes to wait: they do, whatever else goes on, until there is room, or until whoever serves the disk ends.
    @Test(arguments: Volume.available) func writesThatWait(kind: Volume.Kind) throws {
        let scene = try StoreOnVolume(kind, megabytes: 96)
        let volume = scene.volume, heard = scene.heard, store = scene.store
        let disk = try scene.disk()
        var number: UInt64 = 200
        try disk.write(at: 0, (1...number).flatMap { block($0) })
        volume.fill()
        // A choice that is made when it is too late.
        try store.change { $0.whenFull = .wait }
        volume.fill()
        // Nobody serves it.
        #expect { while number < 9000 { try disk.write(at: number * 8, block(number + 1)); number += 1 } } throws: { ($0 as? Failure)?.kind == .noSpace }
        let acknowledged = number
        disk.allowWaiting(true)
        let written = Monitor<UInt64>(acknowledged)
        let ended = Monitor<Failure?>(nil)
        let mayGoOn = Monitor(false)
        let writer = try Thread("writer") {
            do throws(Failure) {
                for number in acknowledged..<9000 {
                    // Not before the volume is full again.
                    if number == 3000 { mayGoOn.wait { $0 ? .done(()) : .notified } }
                    try disk.write(at: number * 8, block(number + 1))
                    written.with { $0 = number + 1 }
                }
            } catch { ended.with { $0 = error } }
        }
        #expect(heard.wait(for: 1, .roomWait).map(\.phase) == [.begins])
        #expect(try disk.sectors(at: (acknowledged - 1) * 8, count: 8) == block(acknowledged))
        try disk.flush()
        let stood = written.with { $0 }
        usleep(1_200_000)
        #expect(written.with { $0 } == stood && heard.all(.roomWait).count == 1)
        // The way out that needs the writer's turn.
        try disk.discard(#require(SectorRange(start: 60 << 11, count: 1 << 11)))
        volume.empty()
        #expect(heard.wait(for: 2, .roomWait).count >= 2)
        // Until it is full for the last time.
        waitUntil(limit: 600) { written.with { $0 } >= 3000 }
        volume.fill()
        mayGoOn.with { $0 = true }
        mayGoOn.notify()
        waitUntil { heard.all(.roomWait).last?.phase == .begins }
        disk.allowWaiting(false)
        writer.join()
        #expect(ended.with { $0?.kind } == .interrupted, "\(String(describing: ended.with { $0 }))")
        let end = written.with { $0 }
        #expect(end >= 3000)
        volume.empty()
        try disk.close()
        let reader = try StoreDisk(store, "d", readOnly: true)
        for number in stride(from: 0, to: end, by: 97) { #expect(try reader.sectors(at: number * 8, count: 8) == block(number + 1)) }
        try scene.expectClean()
    }

    /// A server whose client waits for room ends when it is asked to, and answers nothing that is not so.
    @Test(.enabled(if: Client.areInstalled, "the programs that speak NBD")) func aServerWithWritesThatWait() throws {
        let volume = try Volume(#require(Volume.available.first), megabytes: 32)
        let tool = try tool(on: volume)
        try tool.succeed("create", "d", "--size", "64M")
        try tool.succeed("set", "full=wait")
        #expect(try tool.succeed("get", "full") == "wait\n")
        let server = try Server(tool, ["d", "--socket", tool.path("socket")])
        try tool.image("i", (1...12_000).map { UInt64($0) })
        let client = try Child("/usr/bin/nbdcopy", [tool.path("i"), server.uri])
        let said = server.child.receiveErrors(until: "its writes wait for room")
        #expect(said.contains("its writes wait for room"), "\(said)")
        server.child.kill(SIGTERM)
        let outcome = server.child.wait()
        #expect(outcome.status == 1 && outcome.errors.contains("wait in its journal"), "\(outcome)")
        #expect(client.wait().status != 0)
        try tool.succeed("check")
    }

    /// A store of an older format is upgraded with what the reserve takes; where there is not even that, it is gone on with later.
    @Test(arguments: Volume.available) func anUpgrade(kind: Volume.Kind) throws {
        for hasReserve in [true, false] {
            let volume = try Volume(kind, megabytes: 64)
            let tool = try tool(on: volume)
            let old = try StoreOfFormat3.sample()
            try old.write(to: tool.store, locks: tool.path("locks"))
            if !hasReserve { unsafe unlink(tool.store + "/reserve") }
            volume.fill()
            let list = try tool.run("list")
            #expect(list.status == (hasReserve ? 0 : 1), "\(list)")
            if !hasReserve { #expect(list.errors.contains("No space left") && list.errors.contains("gone on with"), "\(list)") }
            volume.empty()
            let again = try tool.run("list")
            #expect(again.status == 0, "\(again)")
            try tool.expectClean()
            try UpgradeTests.expectContents(tool, old)
        }
    }
}
