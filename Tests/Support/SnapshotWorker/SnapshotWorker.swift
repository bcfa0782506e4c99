import BlockModel
import Catalogue
import Control
import Disk
import Glibc
import Store
import Synchronization
import System
import TestSupport

/// One of several processes that use a store.
final class SnapshotWorker {
    private let store: Store
    private let maintainer: Maintainer
    private let copier: Copier
    private var writers: [String: Writer] = [:]

    init(_ path: String) throws(Failure) {
        store = try Store(path: path)
        copier = Copier(store)
        maintainer = Maintainer(store)
        try maintainer.start()
    }

    func end() throws(Failure) {
        for writer in writers.values { try writer.close() }
        maintainer.stop()
    }

    static func die(_ failure: Failure) -> Never {
        let text = Array("SnapshotWorker: \(failure)\n".utf8)
        _ = unsafe write(2, text, text.count)
        _exit(9)
    }

    func run(_ words: [String]) throws(Failure) {
        let rest = Array(words.dropFirst())
        switch (words.first ?? "", rest.count) {
        case ("serve", 4...): writers[rest[0]] = try Writer(store, seed: UInt64(rest[1]) ?? 0, log: rest[2], rest[3...].map(Self.diskAndSectors))
        case ("halt", 1): try writers.removeValue(forKey: rest[0])?.close()
        case ("create", 2): try store.create(rest[0], byteCount: Self.number(rest[1]))
        case ("snapshot", 1...): try snapshot(try snapshotNames(rest))
        case ("clone", 2):
            try store.checkIsFree(.disk(rest[1]))
            try copier.name([copier.copy(of: rest[0])], [.disk(rest[1])])
        case ("rollback", 1): for name in try snapshotNames(rest) { try StoreDisk.rollBack(name, of: store) }
        case ("rename", 2): try store.rename(store.lock(rest[0]), to: rest[1])
        case ("delete", 1): try store.delete(store.lock(rest[0]))
        case ("deleteAll", 1): try store.delete(store.lock(rest[0]), recursive: true)
        case ("resize", 2): try StoreDisk.resize(rest[0], of: store, to: Self.number(rest[1]), discardingData: true)
        case ("keep", 2): for old in try store.snapshots(of: rest[0]).dropLast(Int(Self.number(rest[1]))) { try store.delete(store.lock(old.name)) }
        case ("collect", 0): _ = try store.collect(shouldStop: { false }) { _, _ in }
        case ("steps", 1):
            var collection = try GarbageCollection(store)
            for _ in 0..<(try Self.number(rest[0])) { _ = try collection.step() }
        case ("check", 0): try check()
        default: throw Failure(.usage, "SnapshotWorker", "no such thing: \(words)")
        }
    }

    private func snapshot(_ names: [SnapshotName]) throws(Failure) {
        for name in names { try store.checkIsFree(.snapshot(name)) }
        try copier.name(copier.copies(of: names.map(\.disk)), names.map { .snapshot($0) })
    }

    /// Beside whatever the others do, nothing is wrong.
    private func check() throws(Failure) {
        let problems = try store.check(readData: false, repair: false) { _, _ in }.problems
        guard problems.isEmpty else { throw Failure(.damage, "check", "\(problems)") }
        _ = try store.statistics()
    }

    private static func number(_ text: String) throws(Failure) -> UInt64 {
        guard let number = UInt64(text) else { throw Failure(.usage, "SnapshotWorker", "no number: \(text)") }
        return number
    }

    private static func diskAndSectors(_ text: String) -> (name: String, sectors: Int) {
        let parts = text.split(separator: ":")
        return (String(parts[0]), Int(parts[1]) ?? 0)
    }

    private func snapshotNames(_ texts: [String]) throws(Failure) -> [SnapshotName] {
        var names: [SnapshotName] = []
        for text in texts {
            guard let name = SnapshotName(text) else { throw Failure(.usage, "SnapshotWorker", "no snapshot: \(text)") }
            names.append(name)
        }
        return names
    }
}

/// Serves disks, and is their guest.
private final class Writer: Sendable {
    private let disks: [StoreDisk]
    private let isStopping = Atomic(false)
    private let thread = Mutex<Thread?>(nil)

    init(_ store: Store, seed: UInt64, log: String, _ names: [(name: String, sectors: Int)]) throws(Failure) {
        var disks: [StoreDisk] = []
        for (name, _) in names {
            let disk = try StoreDisk(store, name, journalBytes: 4 << 20)
            ControlServer.start(for: disk, of: store)
            disks.append(disk)
        }
        self.disks = disks
        let log = try StepLog(log), load = SectorLoad(seed: seed, sectors: names.map(\.sectors))
        let started = try Thread("writer") { [self] in run(load, log, SeededGenerator(seed: ~seed)) }
        thread.withLock { $0 = started }
    }

    private func run(_ load: SectorLoad, _ log: StepLog, _ pace: SeededGenerator) {
        var load = load, pace = pace
        do throws(Failure) {
            while !isStopping.load(ordering: .relaxed) {
                let step = load.next()
                try log.note(hasEnded: false)
                try step.run(on: disks[step.disk])
                try log.note(hasEnded: true)
                usleep(UInt32.random(in: 0...4000, using: &pace))
            }
        } catch {
            SnapshotWorker.die(error)
        }
    }

    func close() throws(Failure) {
        isStopping.store(true, ordering: .relaxed)
        thread.withLock { $0.take() }?.join()
        for disk in disks { try disk.close() }
    }
}
