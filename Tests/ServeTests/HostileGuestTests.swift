import BlockModel
import Disk
import DiskExercise
import FrontEnd
import Serve
import System
import Testing
import TestSupport
import XenBus

/// A guest that does anything, and beside it one that is served as if it were alone.
@Suite struct HostileGuestTests {
    @Test(arguments: 0..<24 as Range<UInt64>)
    func whateverItDoes(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        let honest = try ServedDisk(queueCount: 2)
        let hostile = try HostileGuest(honest.machine, id: 66)
        let disk = MemoryDisk(sectorCount: 2000)
        // Half of them have a disk of a file, which lends what it has in memory.
        let scratch = try ScratchDirectory()
        try Files.write(scratch.path + "/hostile", [UInt8](repeating: 1, count: 1000 * sectorSize))
        let hostileDisk: any BlockDevice =
            seed % 2 == 0 ? MemoryDisk(sectorCount: 1000) : try RawFileDisk(path: scratch.path + "/hostile", readOnly: false)
        try honest.start { () throws(Failure) in disk }
        try honest.frontEnd.connect()
        for round in 0..<6 {
            let seed = UInt8.random(in: 1...255, using: &generator)
            try honest.frontEnd.begin((0..<100).map { .write(sector: UInt64($0) * 16, pattern(seed &+ UInt8($0), sectors: 8)) })
            try hostile.follow(Script(count: 3000, using: &generator), hostileDisk, honest.configuration(disk: "hostile"))
            #expect(try honest.frontEnd.finish().allSatisfy { $0.status == .okay }, "round \(round)")
            for block in [0, 57, 99] {
                #expect(try honest.frontEnd.read(UInt64(block) * 16, 8) == pattern(seed &+ UInt8(block), sectors: 8), "round \(round)")
            }
        }
        #expect(try honest.unplug() == .unplugged)
        // The script does get to the rings. The log leaves lines out, and says at each end how many requests they were about.
        #expect(honest.log.contains("VM hostile has connected xvdb"))
        let counts = honest.log.lines.filter { $0.hasPrefix("xvdb of VM hostile: requests refused: ") }
        #expect(counts.contains { !$0.contains("refused: 0,") })
        // A log that one guest fills is no use to the others.
        #expect(honest.log.lines.count < 2000)
    }
}
