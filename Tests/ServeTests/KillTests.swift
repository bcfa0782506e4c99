import BlockModel
import Disk
import DiskExercise
import Store
import System
import Testing
import TestSupport

/// The process is killed fifty times while a guest writes, each time within another call, and the guest sees no error.
@Suite struct KillTests {
    static let rounds = 50
    static let blocks = 200

    @Test(arguments: [1, 4]) func aMemoryDisk(queueCount: Int) throws {
        let disk = MemoryDisk(sectorCount: Self.blocks * 8)
        try run(queueCount) { () throws(Failure) in disk }
    }

    /// Each process opens the disk anew: what was acknowledged comes out of its journal.
    @Test(arguments: [1, 4]) func aDiskOfAStore(queueCount: Int) throws {
        let scratch = try ScratchDirectory()
        let store = try Store(path: scratch.path + "/store", creating: true)
        try store.create("disk", byteCount: UInt64(Self.blocks * blockSize))
        try run(queueCount) { () throws(Failure) in try StoreDisk(store, "disk", journalBytes: 4 << 20) }
        #expect(try store.check(readData: true, repair: false) { _, _ in }.problems == [])
    }

    private func run<Device: BlockDevice & SendableMetatype>(
        _ queueCount: Int, _ makeDevice: @escaping @Sendable () throws(Failure) -> Device
    ) throws {
        let served = try ServedDisk(queueCount: queueCount)
        var generator = SeededGenerator(seed: UInt64(queueCount))
        try served.start(makeDevice)
        try served.frontEnd.connect()
        for round in 1...Self.rounds {
            served.kill(afterCalls: Int.random(in: 0..<80, using: &generator))
            try served.frontEnd.begin(
                (0..<Self.blocks).map {
                    .write(sector: UInt64($0) * 8, block(UInt64(round * 1000 + $0)))
                })
            if round % 2 == 0 { _ = served.guest.wait(milliseconds: 2) }
            served.kill()
            try served.joinKilled()
            try served.start(makeDevice)
            #expect(try served.frontEnd.finish().allSatisfy { $0.status == .okay }, "round \(round)")
            let all = try served.frontEnd.read(0, Self.blocks * 8)
            #expect(all == (0..<Self.blocks).flatMap { block(UInt64(round * 1000 + $0)) }, "round \(round)")
        }
        #expect(try served.unplug() == .unplugged)
        #expect(served.isLetGo)
    }
}
