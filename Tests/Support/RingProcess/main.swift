import Disk
import DiskExercise
import Glibc
import Store
import System

// RingProcess STORE DISK QUEUES: serves a disk to the guest of a RemoteDisk, until it is unplugged or killed.

func run() throws {
    let arguments = CommandLine.arguments
    guard arguments.count == 4, let queueCount = Int(arguments[3]) else {
        throw Failure(.usage, "RingProcess", "it takes a store, a disk and a number of queues")
    }
    try RemoteDisk.serve(try StoreDisk(try Store(path: arguments[1]), arguments[2], journalBytes: 4 << 20), queueCount: queueCount)
}

do { try run() } catch {
    print(error)
    exit(1)
}
