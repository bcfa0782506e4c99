import BlockModel
import Disk
import DiskExercise
import Glibc
import Store
import System
import Testing
import TestSupport

/// As `KillTests`, with a process of its own that is killed by SIGKILL: nothing of it runs on, and nothing that it had in
/// its memory alone is left.
@Suite(.serialized) struct KilledProcessTests {
    static let rounds = 50
    static let sectors = 3001

    @Test(arguments: [1, 4]) func theGuestSeesNoError(queueCount: Int) throws {
        let scratch = try ScratchDirectory()
        let store = try Store(path: scratch.path + "/store", creating: true)
        try store.create("disk", byteCount: UInt64(Self.sectors * sectorSize))
        let program = try Child.built("RingProcess"), arguments = [store.path, "disk", "\(queueCount)"]
        let remote = try RemoteDisk(queueCount: queueCount)
        let frontEnd = remote.frontEnd
        try remote.start(program, arguments)
        try frontEnd.connect()
        var load = RandomLoad(seed: UInt64(queueCount))
        try load.begin(frontEnd)
        /// Rounds in which the process left requests on the rings.
        var interrupted = 0
        var round = 0
        // A process may be done before the one that is to kill it gets to that: then there are more rounds.
        while round < Self.rounds || interrupted <= Self.rounds / 5 && round < 40 * Self.rounds {
            round += 1
            let batch = load.batch(60 + 30 * queueCount, for: frontEnd)
            try frontEnd.begin(batch.operations, on: batch.queues)
            // In the middle of them, at the beginning of what is on the rings or anywhere in it.
            try frontEnd.wait(untilUnanswered: Int.random(in: 1..<frontEnd.unansweredCount, using: &load.random))
            if round % 2 == 0 { usleep(UInt32.random(in: 0..<2000, using: &load.random)) }
            try remote.kill()
            if remote.abandonedCount > 0 { interrupted += 1 }
            try remote.start(program, arguments)
            // Some are killed once more, while they take over.
            if round % 4 == 0 {
                usleep(UInt32.random(in: 0..<40_000, using: &load.random))
                try remote.kill()
                try remote.start(program, arguments)
            }
            try load.checkRepeated(batch, try frontEnd.finish())
            try load.compareAll(frontEnd)
        }
        // Else it would say nothing.
        #expect(interrupted > Self.rounds / 5)
        try remote.unplug()
        #expect(try store.check(readData: true, repair: false) { _, _ in }.problems == [])
        let disk = try StoreDisk(store, "disk")
        #expect(try disk.contents() == load.model)
        try disk.close()
    }
}
