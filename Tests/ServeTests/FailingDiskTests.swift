import BlockModel
import DiskExercise
import Serve
import System
import Testing

@Suite struct FailingDiskTests {
    @Test func anErrorIsOneRequestsAlone() throws {
        let served = try ServedDisk()
        let disk = MemoryDisk(sectorCount: 1000)
        disk.badSectors = 100..<101
        try served.start { () throws(Failure) in disk }
        try served.frontEnd.connect()
        // Neighbours, so that they are one transfer at first.
        let writes = try served.frontEnd.perform((0..<30).map { .write(sector: UInt64($0 * 8), pattern(UInt8($0 + 1), sectors: 8)) })
        #expect(writes.map(\.status) == (0..<30).map { $0 == 12 ? .error : .okay })
        let reads = try served.frontEnd.perform((0..<30).map { .read(sector: UInt64($0 * 8), count: 8) })
        #expect(reads.map(\.status) == (0..<30).map { $0 == 12 ? .error : .okay })
        #expect(reads[13].data == pattern(14, sectors: 8))
        #expect(served.log.contains("told to fail"))
        #expect(try served.unplug() == .unplugged)
    }

    /// Written together at first: only the one that can't be done fails.
    @Test func anErrorIsOneOfTheWritesThatCameTogether() throws {
        let served = try ServedDisk()
        let disk = MemoryDisk(sectorCount: 1000)
        disk.badSectors = 160..<161
        try served.start { () throws(Failure) in disk }
        try served.frontEnd.connect()
        let order = [7, 3, 11, 20, 1, 30, 9, 15]
        let writes = try served.frontEnd.perform(order.map { .write(sector: UInt64($0 * 8), pattern(UInt8($0 + 1), sectors: 8)) })
        #expect(writes.map(\.status) == order.map { $0 == 20 ? .error : .okay })
        for place in order where place != 20 { #expect(try served.frontEnd.read(UInt64(place * 8), 8) == pattern(UInt8(place + 1), sectors: 8)) }
        #expect(try served.unplug() == .unplugged)
    }

    /// Neighbours on the ring that are none on the disk.
    @Test func writesThatComeTogetherAreGivenTogether() throws {
        let served = try ServedDisk()
        let disk = MemoryDisk(sectorCount: 1000)
        try served.start { () throws(Failure) in disk }
        try served.frontEnd.connect()
        let order = [7, 3, 4, 20, 1]
        _ = try served.frontEnd.perform(
            order.map { .write(sector: UInt64($0 * 8), pattern(UInt8($0 + 1), sectors: 8)) } + [.flush, .write(sector: 0, pattern(9, sectors: 1))])
        // Two of them are one.
        #expect(disk.writtenTogether == [4])
        for place in order { #expect(try served.frontEnd.read(UInt64(place * 8), 8) == pattern(UInt8(place + 1), sectors: 8)) }
        #expect(try served.unplug() == .unplugged)
    }

    @Test func afterAFailedFlushNothingIsTaken() throws {
        let served = try ServedDisk()
        let disk = MemoryDisk(sectorCount: 1000)
        try served.start { () throws(Failure) in disk }
        try served.frontEnd.connect()
        try served.frontEnd.write(0, pattern(1, sectors: 8))
        disk.failsFlush = true
        #expect(throws: Failure.self) { try served.frontEnd.flush() }
        disk.failsFlush = false
        #expect(throws: Failure.self) { try served.frontEnd.flush() }
        #expect(throws: Failure.self) { try served.frontEnd.write(0, pattern(2, sectors: 8)) }
        #expect(throws: Failure.self) { try served.frontEnd.discard(0, 8) }
        #expect(try served.frontEnd.read(0, 8) == pattern(1, sectors: 8))
        // Not even to a guest that comes anew.
        try served.frontEnd.disconnect()
        try served.frontEnd.setState(1)
        try served.frontEnd.connect()
        #expect(throws: Failure.self) { try served.frontEnd.flush() }
        #expect(try served.unplug() == .unplugged)
    }

    @Test func theDiskIsToldOfReadsThatComeTogether() throws {
        let served = try ServedDisk()
        let disk = MemoryDisk(sectorCount: 1000)
        try served.start { () throws(Failure) in disk }
        try served.frontEnd.connect()
        _ = try served.frontEnd.read(8, 8)
        _ = try served.frontEnd.perform([.write(sector: 0, pattern(1, sectors: 8)), .read(sector: 64, count: 8)])
        #expect(disk.expected == [])
        _ = try served.frontEnd.perform([.read(sector: 400, count: 8), .flush, .read(sector: 16, count: 24)])
        #expect(disk.expected == [[SectorRange(start: 400, count: 8), SectorRange(start: 16, count: 24)].compactMap { $0 }])
        #expect(try served.unplug() == .unplugged)
    }

    @Test func neighboursAreOneTransfer() throws {
        let served = try ServedDisk()
        let disk = MemoryDisk(sectorCount: 4000)
        try served.start { () throws(Failure) in disk }
        try served.frontEnd.waitForBackend(2)
        try served.frontEnd.connect()
        try served.frontEnd.write(0, pattern(1, sectors: 1024))
        #expect(disk.largestTransfer > 44 * 1024)
        #expect(try served.frontEnd.read(0, 1024) == pattern(1, sectors: 1024))
        #expect(try served.unplug() == .unplugged)
    }

    @Test func aBarrierFlushesBeforeAndAfter() throws {
        let served = try ServedDisk()
        let disk = MemoryDisk(sectorCount: 100)
        try served.start { () throws(Failure) in disk }
        try served.frontEnd.connect()
        _ = try served.frontEnd.perform([.barrier(sector: 0, pattern(1, sectors: 8))])
        #expect(disk.flushes == 2)
        #expect(try served.frontEnd.read(0, 8) == pattern(1, sectors: 8))
        #expect(try served.unplug() == .unplugged)
    }
}
