import BlockModel
import Disk
import Glibc
import Store
import System
import TestSupport

// CrashWriter STORE DISK SEED: writes to a disk until somebody kills it. A byte on standard output says that the
// next of the steps that the seed stands for was acknowledged.

func run() throws {
    let arguments = CommandLine.arguments
    guard arguments.count == 4, let seed = UInt64(arguments[3]) else {
        throw Failure(.usage, "CrashWriter", "it takes a store, a disk and a seed")
    }
    let disk = try StoreDisk(try Store(path: arguments[1]), arguments[2], journalBytes: 4 << 20)
    var random = SeededGenerator(seed: seed)
    var acknowledgement: UInt8 = 46
    while true {
        let step = RandomStep(&random, sectors: Int(disk.sectorCount), longest: 200)
        switch step.operation {
        case .read: break
        case .write: try step.write(to: disk)
        case .discard: if let range = SectorRange(start: UInt64(step.sector), count: UInt64(step.count)) { try disk.discard(range) }
        case .flush: try disk.flush()
        }
        guard unsafe write(1, &acknowledgement, 1) == 1 else { return }
    }
}

do { try run() } catch {
    print(error)
    exit(1)
}
