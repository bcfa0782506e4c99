import BlockModel
import Disk
import DiskExercise
import Store
import System
import Testing
import TestSupport

/// The store's disk behind a ring.
@Suite struct StoreDiskExerciseTests {
    @Test(arguments: [(21, []), (22, .reopens), (23, [.reconnects, .reopens, .kills]), (24, .kills)] as [(UInt64, ExerciseEvents)], [1, 4])
    func aGuestFindsWhatItWrote(by: (seed: UInt64, events: ExerciseEvents), queueCount: Int) throws {
        let (seed, events) = by
        let scratch = try ScratchDirectory()
        let store = try Store(path: scratch.path + "/store", creating: true)
        try store.create("disk", byteCount: UInt64(3001 * sectorSize))
        try exerciseDisk(seed: seed, operations: 300, ringOrder: Int(seed % 2), queueCount: queueCount, events: events) { () throws(Failure) in
            try StoreDisk(store, "disk", journalBytes: 4 << 20)
        }
        let report = try store.check(readData: true, repair: false) { _, _ in }
        #expect(report.problems == [])
    }
}
