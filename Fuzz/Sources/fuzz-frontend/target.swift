import BlockModel
import Disk
import DiskExercise
import FrontEnd
import FuzzDriver
import Serve
import Store
import System
import TestSupport
import XenBus

/// The bytes are the deeds of a whole hostile guest, from the plug of its disk to the unplug. An honest guest on the same
/// machine, whose disk is in a store, must find what it wrote.
@main struct FrontEndTarget {
    static func main() throws {
        let world = try World()
        fuzz { script in
            do { try world.run(script) } catch { fatalError("\(error)") }
        }
    }
}

private final class World {
    private let scratch: ScratchDirectory
    private let honest: ServedDisk
    private let hostile: HostileGuest
    /// Of a file in memory, which lends it to the ring.
    private let hostileDisk: RawFileDisk
    private var round: UInt8 = 0
    /// What the honest guest has written.
    private var model = ModelDisk(sectors: blockCount * sectorsPerBlock)

    init() throws(Failure) {
        scratch = try ScratchDirectory()
        try Files.write(scratch.path + "/hostile", [UInt8](repeating: 1, count: 1000 * sectorSize))
        hostileDisk = try RawFileDisk(path: scratch.path + "/hostile", readOnly: false)
        let store = try Store(path: scratch.path + "/store", creating: true)
        try store.create("honest", byteCount: UInt64(model.bytes.count))
        honest = try ServedDisk(queueCount: 2)
        hostile = try HostileGuest(honest.machine, id: 66)
        try honest.start { () throws(Failure) in try StoreDisk(store, "honest", journalBytes: 4 << 20) }
        try honest.frontEnd.connect()
    }

    func run(_ script: Script) throws(Failure) {
        round &+= 1
        // Half of the blocks: the others were written a round ago, and may be in the store by now.
        let writes = stride(from: Int(round % 2), to: blockCount, by: 2).map { block in
            DiskOperation.write(sector: UInt64(block * sectorsPerBlock), [UInt8](repeating: round &+ UInt8(block), count: blockSize))
        }
        for case .write(let sector, let bytes) in writes { model.write(at: Int(sector), bytes) }
        try honest.frontEnd.begin(writes + (round % 8 == 0 ? [.flush] : []))
        try hostile.follow(script, hostileDisk, configuration)
        guard try honest.frontEnd.finish().allSatisfy({ $0.status == .okay }) else {
            throw Failure(.damage, "honest guest", "a write failed")
        }
        let found = try honest.frontEnd.perform([.read(sector: 0, count: blockCount * sectorsPerBlock)])
        guard found.first?.status == .okay, let data = found.first?.data, isSame(data, model.bytes) else {
            throw Failure(.damage, "honest guest", "its disk is not what it wrote")
        }
    }

    /// Without a log: there would be a line for all that a hostile guest does.
    private var configuration: BackendConfiguration {
        var configuration = honest.configuration(disk: "hostile")
        configuration.log = { _ in }
        return configuration
    }
}

private let blockCount = 16
