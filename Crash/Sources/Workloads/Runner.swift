internal import BlockModel
internal import Catalogue
internal import Control
internal import Disk
internal import Store
internal import Synchronization
public import System
internal import TestSupport

/// Does the steps of a workload to a store.
public final class Runner {
    /// Has another process do a step of the workload, which is named by its place.
    public typealias Elsewhere = (Int) throws(Failure) -> Void

    private let path: String
    /// A directory for images, not in the store.
    private let images: String
    private let elsewhere: Elsewhere?
    /// It has sockets by which others ask for copies of its disks.
    private let isServing: Bool
    private var store: Store?
    private var disks: [String: StoreDisk] = [:]
    private var maintenance: Maintenance?

    public init(_ path: String, images: String, elsewhere: Elsewhere? = nil) {
        (self.path, self.images, self.elsewhere) = (path, images, elsewhere)
        isServing = true
    }

    /// For whoever looks at what a cut left, and writes to it.
    public init(_ path: String) {
        (self.path, images, elsewhere) = (path, "", nil)
        isServing = false
    }

    private static let journalBytes: UInt64 = 4 << 20

    /// Does a step.
    /// - Parameter place: of the step in its workload.
    public func run(_ step: Step, at place: Int = 0) throws(Failure) {
        switch step {
        case .make: store = try Store(path: path, creating: true)
        case .open: _ = try opened()
        case .create(let name, let sectors): try opened().create(name, byteCount: UInt64(sectors * sectorSize))
        case .change(let name, let change): try change.run(on: disk(name))
        case .close(let name): try disks.removeValue(forKey: name)?.close()
        case .load(let name, let image): try load(name, SectorValues.bytes(image.range.map { image.value(at: $0) }))
        case .snapshot(let names, let snapshot):
            let copier = Copier(try opened())
            var all: [CopyName] = []
            for name in names { if let name = SnapshotName("\(name)@\(snapshot)") { all.append(.snapshot(name)) } }
            try copier.name(copier.copies(of: names), all)
        case .clone(let name, let new):
            let copier = Copier(try opened())
            try copier.name([copier.copy(of: name)], [.disk(new)])
        case .rollBack(let name): if let snapshot = SnapshotName(name) { try StoreDisk.rollBack(snapshot, of: opened()) }
        case .rename(let name, let new):
            let store = try opened()
            try store.rename(store.lock(name), to: new)
        case .delete(let name):
            let store = try opened()
            try store.delete(store.lock(name), recursive: true)
        case .prune(let name, let count):
            let store = try opened()
            for snapshot in try store.snapshots(of: name).dropLast(count) { try store.delete(store.lock(snapshot.name)) }
        case .resize(let name, let sectors): try StoreDisk.resize(name, of: opened(), to: UInt64(sectors * sectorSize), discardingData: true)
        case .collect: _ = try opened().collect(shouldStop: { false }) { _, _ in }
        case .collectSteps(let count):
            var collection = try GarbageCollection(opened())
            for _ in 0..<count { _ = try collection.step() }
        case .maintain(let isWanted):
            maintenance?.stop()
            maintenance = isWanted ? try Maintenance(opened()) : nil
        case .compress(let isWanted): try opened().change { $0.compression = isWanted ? .background : .atOnce(.raw) }
        case .elsewhere(let step):
            if let elsewhere { try elsewhere(place) } else { try run(step, at: place) }
        }
    }

    private func load(_ name: String, _ bytes: [UInt8]) throws(Failure) {
        let store = try opened()
        try store.removeLeftovers()
        try Files.write(images + "/image", bytes)
        try Image.load(ImageSource(images + "/image"), into: store, as: name, check: { () throws(Failure) in }, shouldStop: { false }) { _, _ in }
    }

    /// Lets go of everything.
    public func end() throws(Failure) {
        maintenance?.stop()
        maintenance = nil
        for disk in disks.values { try disk.close() }
        disks = [:]
        store = nil
    }

    private func opened() throws(Failure) -> Store {
        if let store { return store }
        let store = try Store(path: path)
        self.store = store
        return store
    }

    private func disk(_ name: String) throws(Failure) -> StoreDisk {
        if let disk = disks[name] { return disk }
        let store = try opened()
        let disk = try StoreDisk(store, name, journalBytes: Self.journalBytes)
        // Whoever makes a snapshot asks by this for the copy.
        if isServing { ControlServer.start(for: disk, of: store) }
        disks[name] = disk
        return disk
    }

    // MARK: Looking

    /// What is in the store: of each disk and snapshot its sectors. Nil: there is none, or one that was never finished.
    public func contents() throws(Failure) -> [String: [UInt64]]? {
        let store: Store
        do throws(Failure) { store = try opened() } catch where error.kind == .notFound { return nil }
        var found: [String: [UInt64]] = [:]
        for record in try store.disks() + store.snapshots() {
            let disk: StoreDisk
            // One that is open already is read as it is.
            if let open = disks[record.name] { disk = open } else { disk = try StoreDisk(store, record.name, readOnly: true, journalBytes: Self.journalBytes) }
            var bytes = [UInt8](repeating: 0, count: Int(disk.sectorCount) * sectorSize)
            try bytes.withMutableBytes { (bytes) throws(Failure) in try disk.read(at: 0, into: &bytes) }
            if disks[record.name] == nil { try disk.close() }
            found[record.name] = SectorValues.values(bytes)
        }
        return found
    }

    /// Removes what interrupted commands left, as the next one does.
    public func tidy() throws(Failure) { try opened().removeLeftovers() }

    /// What a check finds wrong, when all data is read.
    public func problems() throws(Failure) -> [String] { try opened().check(readData: true, repair: false) { _, _ in }.problems }
}

/// Collections one after the other beside all else that is done, as maintenance does them.
private final class Maintenance: Sendable {
    private let isStopping = Atomic(false)
    private let thread = Mutex<Thread?>(nil)

    init(_ store: Store) throws(Failure) {
        let started = try Thread("maintain") { [self] in
            while !isStopping.load(ordering: .relaxed) {
                // Whatever is in its way, it is tried again.
                do throws(Failure) { try collect(store) } catch { pause(milliseconds: 5) }
            }
        }
        thread.withLock { $0 = started }
    }

    private func collect(_ store: Store) throws(Failure) {
        var collection = try GarbageCollection(store, Patience(limit: 0.01, limitWhenStopped: 0.01), isQuiet: false)
        while !collection.progress.isOver, !isStopping.load(ordering: .relaxed) {
            _ = try collection.step(MaintenanceBudget(seconds: 0.02))
            pause(milliseconds: 2)
        }
    }

    func stop() {
        isStopping.store(true, ordering: .relaxed)
        thread.withLock { $0.take() }?.join()
    }
}
