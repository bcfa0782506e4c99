import System
import TestSupport

/// What a worker is told to do.
enum SnapshotOperation {
    case serve([Family], WriterHistory)
    case halt(WriterHistory)
    case create(String, sectors: Int)
    case snapshot([(family: Family, name: String)])
    case clone(Family, snapshot: String?, String)
    case rollBack(Family, String)
    case rename(Family, String)
    case renameSnapshot(Family, String, String)
    case delete(Family, recursive: Bool)
    case deleteSnapshot(Family, String)
    case resize(Family, sectors: Int)
    case keep(Family, Int)
    case collect
    case steps(Int)
    case check

    /// As the worker understands it.
    var words: [String] {
        switch self {
        case .serve(let families, let history):
            ["serve", "\(history.id)", "\(history.seed)", history.log] + families.map { "\($0.name):\($0.disk.sectors)" }
        case .halt(let history): ["halt", "\(history.id)"]
        case .create(let name, let sectors): ["create", name, "\(sectors * 512)"]
        case .snapshot(let names): ["snapshot"] + names.map { "\($0.family.name)@\($0.name)" }
        case .clone(let family, let snapshot, let new): ["clone", family.name + (snapshot.map { "@" + $0 } ?? ""), new]
        case .rollBack(let family, let name): ["rollback", "\(family.name)@\(name)"]
        case .rename(let family, let new): ["rename", family.name, new]
        case .renameSnapshot(let family, let old, let new): ["rename", "\(family.name)@\(old)", "\(family.name)@\(new)"]
        case .delete(let family, let recursive): [recursive ? "deleteAll" : "delete", family.name]
        case .deleteSnapshot(let family, let name): ["delete", "\(family.name)@\(name)"]
        case .resize(let family, let sectors): ["resize", family.name, "\(sectors * 512)"]
        case .keep(let family, let count): ["keep", family.name, "\(count)"]
        case .collect: ["collect"]
        case .steps(let count): ["steps", "\(count)"]
        case .check: ["check"]
        }
    }

    /// The disks that it copies.
    var copied: [Family] {
        switch self {
        case .snapshot(let names): names.map(\.family)
        case .clone(let family, nil, _): [family]
        default: []
        }
    }

    /// The disks that nobody else may do anything with meanwhile.
    var taken: [Family] {
        switch self {
        case .serve(let families, _): families
        case .rollBack(let family, _), .rename(let family, _), .delete(let family, _), .keep(let family, _): [family]
        case .resize(let family, let sectors) where sectors < family.disk.sectors: [family]
        default: []
        }
    }

    /// The names that it gives.
    var names: [String] {
        switch self {
        case .create(let name, _): [name]
        case .snapshot(let names): names.map { "\($0.family.name)@\($0.name)" }
        case .clone(_, _, let new): [new]
        case .rename(_, let new): [new]
        case .renameSnapshot(let family, _, let new): ["\(family.name)@\(new)"]
        default: []
        }
    }
}

/// Something that a worker is at.
struct SnapshotTask {
    let operation: SnapshotOperation
    let sent = monotonicSeconds()
    /// How it has to fail; empty: it must not.
    var failures: Set<String> = []
    /// It may fail, and may not.
    var isUncertain = false
    /// It is an attempt at what is refused, as somebody has the disk.
    var attempted: Family?
    /// Of what is copied: who wrote to it when this began, and from which of its sizes on it may have any.
    var sources: [(writer: (history: WriterHistory, place: Int)?, content: Content, firstSize: Int)] = []

    init(_ operation: SnapshotOperation) {
        self.operation = operation
        sources = operation.copied.map { ($0.writer, $0.disk.content, $0.sizes.count - ($0.isGrowing ? 2 : 1)) }
    }

    /// What a copy holds that was made in this time.
    func content(_ index: Int, from: Double, to: Double) -> Content {
        guard let writer = sources[index].writer else { return sources[index].content }
        return Content(Capture(writer.history, disk: writer.place, from: from, to: to))
    }
}
