import Glibc
import System

// SnapshotWorker STORE: does what it is told, a line each, and answers each with a line: when it began and when it ended, as `monotonicSeconds`
// counts, behind `ok` or `failed KIND`, there with why. At the end of its input it closes the disks that it serves.
//
//     serve ID SEED LOG DISK:SECTORS...   opens disks to write to; a thread does a `SectorLoad` to them, and notes its steps in LOG
//     halt ID                             ends that, and closes the disks
//     create DISK BYTES                   snapshot DISK@NAME...
//     clone DISK[@NAME] NEW               rollback DISK@NAME
//     rename NAME NEW                     delete NAME, deleteAll DISK (with its snapshots)
//     resize DISK BYTES                   keep DISK N (the newest snapshots, and no other)
//     collect, steps N (of a collection)  check

func answer(_ line: String) {
    let bytes = Array((line.split(separator: "\n").joined(separator: " ") + "\n").utf8)
    _ = unsafe write(1, bytes, bytes.count)
}

func run() throws(Failure) {
    guard CommandLine.arguments.count == 2 else { throw Failure(.usage, "SnapshotWorker", "it takes a store") }
    let worker = try SnapshotWorker(CommandLine.arguments[1])
    while let line = readLine() {
        let began = monotonicSeconds()
        do throws(Failure) {
            try worker.run(line.split(separator: " ").map(String.init))
            answer("ok \(began) \(monotonicSeconds())")
        } catch {
            answer("failed \(error.kind) \(began) \(monotonicSeconds()) \(error)")
        }
    }
    try worker.end()
}

do { try run() } catch {
    SnapshotWorker.die(error)
}
