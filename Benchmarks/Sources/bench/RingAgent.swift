import ArgumentParser
import Disk
import DiskExercise
import Store
import System

/// The backend's process: serves a disk to the guest whose memory it inherited, until it is unplugged.
struct RingAgent: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "ring")

    @Option(help: "A store.") var store: String?
    @Option(help: "A disk of the store.") var name = "a"
    @Option(help: "Instead of a store's disk: one that forgets, of so many bytes.") var discard: UInt64?

    func run() throws {
        Store.tuneAllocator()
        if let store {
            try RemoteDisk.serve(StoreDisk(Store(path: store), name))
        } else {
            try RemoteDisk.serve(DiscardDisk(byteCount: discard ?? 1 << 30))
        }
    }
}
