import BlockModel
import Glibc
import System
import Testing
import TestSupport

@testable import Catalogue
@testable import Disk
@testable import LMDB
@testable import Store

/// What a disk tells.
@Suite struct EventTests {
    let scratch: ScratchDirectory
    let heard = HeardEvents()
    let store: Store

    init() throws {
        scratch = try ScratchDirectory()
        store = try Store(path: scratch.path + "/store", creating: true, events: heard.events)
        try store.create("d", byteCount: 4 << 20)
    }

    /// What file a descriptor is of.
    private static func name(of descriptor: Int32) -> String {
        var path = [UInt8](repeating: 0, count: 4096)
        let count = unsafe path.withUnsafeMutableBytes { unsafe readlink("/proc/self/fd/\(descriptor)", $0.baseAddress!, $0.count) }
        return String(decoding: path.prefix(max(0, count)), as: UTF8.self)
    }

    private func change(_ body: (inout WriteTransaction) throws -> Void) throws {
        var writing = try WriteTransaction(store.meta)
        try body(&writing)
        try writing.commit()
    }

    /// A commit that fails again and again is one line, and one more when it comes through.
    @Test func aCommitThatIsTriedAgain() throws {
        let disk = try StoreDisk(store, "d")
        let record = try #require(try store.disk("d"))
        try change { try store.parts.catalogue.remove("d", &$0) }
        try disk.write(at: 0, block(1))
        #expect(heard.wait(for: 1, .commitRetry).map(\.subject) == [.disk("d")])
        waitUntil { heard.events.counters.failedCommits.value >= 3 }
        #expect(heard.all(.commitRetry).map(\.phase) == [.begins])
        #expect("\(heard.all(.commitRetry)[0])".contains("there is none in store"))
        // Another cause in between is told.
        var bad = record.encoded
        bad[bad.count - 1] ^= 1
        try change { try $0.put(store.parts.catalogue.table, "d", bad.rawBytes) }
        #expect(heard.wait(for: 2, .commitRetry).map(\.phase) == [.begins, .begins])
        try change { try store.parts.catalogue.change(record, &$0) }
        let told = heard.wait(for: 3, .commitRetry)
        #expect(told.count == 3)
        let failed = Int(heard.events.counters.failedCommits.value)
        #expect(told.last?.times == failed && failed >= 4)
        try disk.close()
        #expect(heard.all(.commitRetry).count == 3)
    }

    @Test func aJournalThatIsReplayed() throws {
        let disk = try StoreDisk(store, "d")
        disk.holdBack()
        let position = try #require(try store.disk("d")).journal
        try disk.write(at: 0, block(1))
        try disk.write(at: 80, block(2) + block(3))
        let left = try StoreDiskTests.copyJournal(of: disk, store)
        try disk.close()
        #expect(heard.all(.journalReplay).isEmpty)
        // The map that was taken in meanwhile is put back, too.
        try store.note(position, of: "d")
        try left.restore()
        try StoreDisk(store, "d").close()
        #expect(heard.all(.journalReplay).map(\.text) == ["2 records of its journal, 12416 bytes, that an interrupted writer left went into the store"])
        #expect(heard.events.counters.replayedRecords.value == 2)
        #expect(heard.events.counters.replayedBytes.value == 12416)
        try StoreDisk(store, "d").close()
        #expect(heard.all(.journalReplay).count == 1)
    }

    /// A disk whose journal can't be synced, which is gone with all it has.
    private func breakSync() throws {
        let disk = try StoreDisk(store, "d")
        disk.holdBack()
        try disk.write(at: 0, block(1))
        // A pipe in the file's place: fdatasync(2) fails.
        var pipes: [Int32] = [0, 0]
        unsafe pipe(&pipes)
        let end = pipes[1]
        let journal = "\(store.path)/journals/\(try #require(try store.disk("d")).number)"
        // However many others have, as tests at the same time do.
        dup2(end, try #require((3..<65_536 as Range<Int32>).first { Self.name(of: $0) == journal }))
        for _ in 0..<3 { #expect(throws: Failure.self) { try disk.flush() } }
        let told = heard.all(.syncFailure)
        #expect(told.count == 1 && told[0].subject == .disk("d") && told[0].priority == .error, "\(told)")
        try? disk.close()
        for pipe in pipes { Glibc.close(pipe) }
    }

    @Test func aJournalThatCannotBeSynced() throws {
        try breakSync()
        try StoreDisk(store, "d").close()
        #expect(heard.all(.syncFailure).map(\.text).last == "it was opened again, and takes writes")
        #expect(heard.all(.syncFailure).count == 2)
    }

    /// One that fails to the end is over when what it had goes in with the next opening.
    @Test func aCommitThatFailsToTheEnd() throws {
        let disk = try StoreDisk(store, "d")
        disk.holdBack()
        let record = try #require(try store.disk("d"))
        try disk.write(at: 0, block(1))
        try change { try store.parts.catalogue.remove("d", &$0) }
        #expect(throws: Failure.self) { try disk.close() }
        #expect(heard.all(.commitRetry).map(\.text) == ["its last writes stay in its journal, and are tried again when it is opened again"])
        try change { try store.parts.catalogue.add(record, &$0) }
        try StoreDisk(store, "d").close()
        #expect(heard.all(.commitRetry).map { $0.phase == .begins } == [true, false])
    }

    /// What failed is tried once more when the disk is closed: it goes in, or stays in the journal.
    @Test(arguments: [false, true]) func aCommitThatIsTriedOnceMoreAtTheEnd(isMended: Bool) throws {
        let disk = try StoreDisk(store, "d")
        let record = try #require(try store.disk("d"))
        try change { try store.parts.catalogue.remove("d", &$0) }
        try disk.write(at: 0, block(1))
        // Right behind a try: the next one would come a second later.
        #expect(heard.wait(for: 1, .commitRetry).count == 1)
        let first = heard.events.counters.failedCommits.value
        for _ in 0..<5000 where heard.events.counters.failedCommits.value == first { usleep(1000) }
        let journal = "\(store.path)/journals/\(record.number)"
        if isMended {
            try change { try store.parts.catalogue.add(record, &$0) }
            try disk.close()
            #expect(try File(path: journal).size() == 0)
        } else {
            let failed = heard.events.counters.failedCommits.value
            #expect(throws: Failure.self) { try disk.close() }
            #expect(heard.events.counters.failedCommits.value > failed)
            #expect(try File(path: journal).size() > 0)
            try change { try store.parts.catalogue.add(record, &$0) }
        }
        #expect(heard.all(.commitRetry).map { $0.phase == .begins } == (isMended ? [true, false] : [true]))
        #expect(try store.statistics().mappedBytes == (isMended ? 4096 : 0))
        #expect(try StoreDisk(store, "d", readOnly: true).sectors(at: 0, count: 8) == block(1))
    }

    /// What an interrupted writer left goes in, and only what it is followed by finds no room: nothing is left.
    @Test func aJournalOfWhichNothingIsLeft() throws {
        var disk = try StoreDisk(store, "d")
        disk.holdBack()
        let position = try #require(try store.disk("d")).journal
        try disk.write(at: 0, block(1))
        let left = try StoreDiskTests.copyJournal(of: disk, store)
        try disk.close()
        try store.note(position, of: "d")
        try left.restore()
        disk = try StoreDisk(store, "d", journalBytes: 4 << 20) { (file, capacity) throws(Failure) in
            let storage = FaultyJournalStorage(try FileJournalStorage(file, byteCount: capacity))
            storage.fail(.reset, .full)
            return storage
        }
        #expect(heard.all(.journalReplay).count == 1)
        try disk.write(at: 8, block(2))
        #expect(try disk.sectors(at: 0, count: 16) == block(1) + block(2))
        try disk.close()
        #expect(heard.all(.journalLeft).isEmpty, "\(heard.all(.journalLeft))")
    }

    @Test func aLeftoverThatIsRemoved() throws {
        _ = try store.createIncomplete("half", byteCount: 1 << 20)
        try Files.write(store.path + "/journals/77", [])
        try store.removeLeftovers()
        #expect(heard.all(.leftover).map(\.text) == ["journal 77, of a disk that is gone, is removed", "what was left of disk half is removed"])
        try store.removeLeftovers()
        #expect(heard.all(.leftover).count == 2)
    }
}
