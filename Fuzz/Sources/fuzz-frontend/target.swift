import BlockModel
import DiskExercise
import FrontEnd
import FuzzDriver
import Serve
import XenBus

/// The bytes are the deeds of a whole hostile guest, from the plug of its disk to the unplug. An honest guest on the same
/// machine must find what it wrote.
@main struct FrontEndTarget {
    static func main() throws {
        let world = try World()
        fuzz { script in
            do { try world.run(script) } catch { fatalError("\(error)") }
        }
    }
}

private final class World {
    private let honest: ServedDisk
    private let hostile: HostileGuest
    private let hostileDisk = MemoryDisk(sectorCount: 1000)
    private var round: UInt8 = 0

    init() throws(Failure) {
        honest = try ServedDisk(queueCount: 2)
        hostile = try HostileGuest(honest.machine, id: 66)
        let disk = MemoryDisk(sectorCount: 1000)
        try honest.start { () throws(Failure) in disk }
        try honest.frontEnd.connect()
    }

    func run(_ script: Script) throws(Failure) {
        round &+= 1
        let blocks = (0..<16).map { block in [UInt8](repeating: round &+ UInt8(block), count: 4096) }
        try honest.frontEnd.begin(blocks.enumerated().map { .write(sector: UInt64($0.offset) * 8, $0.element) })
        try hostile.follow(script, hostileDisk, honest.configuration(disk: "hostile"))
        guard try honest.frontEnd.finish().allSatisfy({ $0.status == .okay }) else { throw Failure(.damage, "honest guest", "a write failed") }
        for (block, bytes) in blocks.enumerated() where try honest.frontEnd.read(UInt64(block) * 8, 8) != bytes {
            throw Failure(.damage, "honest guest", "block \(block) is not what was written")
        }
    }
}
