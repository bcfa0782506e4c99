import Blkif
import DiskExercise
import System
import Testing

@Suite struct ExerciseTests {
    @Test(arguments: 1...6 as ClosedRange<UInt64>)
    func aGuestFindsWhatItWrote(seed: UInt64) throws {
        let disk = MemoryDisk(sectorCount: 3000)
        try exerciseDisk(seed: seed, operations: 400, ringOrder: Int(seed % 3)) { () throws(Failure) in disk }
    }

    @Test(arguments: [ABI.x86_64, .x86_32, .arm])
    func ofAnyABI(abi: ABI) throws {
        let disk = MemoryDisk(sectorCount: 2000)
        try exerciseDisk(seed: 7, operations: 200, abi: abi) { () throws(Failure) in disk }
    }

    @Test(arguments: [2, 3, 4], [31, 32] as [UInt64])
    func throughSeveralQueues(queueCount: Int, seed: UInt64) throws {
        let disk = MemoryDisk(sectorCount: 3000)
        try exerciseDisk(seed: seed, operations: 400, ringOrder: Int(seed % 2), queueCount: queueCount) { () throws(Failure) in disk }
    }

    @Test(arguments: [2, 4], [41, 42, 43] as [UInt64])
    func severalQueuesAndWhateverIsKilled(queueCount: Int, seed: UInt64) throws {
        let disk = MemoryDisk(sectorCount: 3000)
        try exerciseDisk(seed: seed, operations: 400, queueCount: queueCount, events: [.reconnects, .reopens, .kills]) {
            () throws(Failure) in disk
        }
    }

    /// Every kill comes within another call, with other requests under way.
    @Test(arguments: 11...18 as ClosedRange<UInt64>)
    func whateverIsKilled(seed: UInt64) throws {
        let disk = MemoryDisk(sectorCount: 3000)
        try exerciseDisk(seed: seed, operations: 400, ringOrder: Int(seed % 2), events: [.reconnects, .reopens, .kills]) {
            () throws(Failure) in disk
        }
    }
}
