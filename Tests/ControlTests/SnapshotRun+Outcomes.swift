import BlockModel
import Catalogue
import Store
import System

/// What becomes of what there should be.
extension SnapshotRun {
    /// A worker has done something, in this time.
    func apply(_ task: SnapshotTask, worker: Int, from: Double, to: Double) throws {
        switch task.operation {
        case .serve(let families, let history):
            for (place, family) in families.enumerated() { family.writer = (history, place) }
        case .halt(let history):
            for family in families where family.writer?.history === history { family.endWriting() }
        case .create(let name, let sectors): families.append(Family(name, Image(sectors: sectors, content: Content([])), owner: worker))
        case .snapshot(let names):
            var group: [Content] = []
            for (index, (family, name)) in names.enumerated() {
                let content = task.content(index, from: from, to: to)
                if task.sources[index].writer != nil { group.append(content) }
                family.snapshots.append((name, try copy("\(family.name)@\(name)", of: family, task, index, content)))
            }
            groups.append(group)
            try sortSnapshots(of: names.map(\.family))
        case .clone(let family, let snapshot, let new):
            if let snapshot {
                guard let image = family.image(snapshot) else { return isWrong("\(task.operation.words) was done") }
                families.append(Family(new, image, owner: worker))
            } else {
                families.append(Family(new, try copy(new, of: family, task, 0, task.content(0, from: from, to: to)), owner: worker))
            }
        case .rollBack(let family, let name):
            guard let image = family.image(name) else { return isWrong("\(task.operation.words) was done") }
            counts.rollbacks += 1
            family.disk = image
            family.setSize(image.sectors)
        case .rename(let family, let new): family.name = new
        case .renameSnapshot(let family, let old, let new):
            for index in family.snapshots.indices where family.snapshots[index].name == old { family.snapshots[index].name = new }
            // Whoever sorted them meanwhile may have found neither name.
            try sortSnapshots(of: [family])
        case .delete(let family, _): families.removeAll { $0 === family }
        case .deleteSnapshot(let family, let name): family.snapshots.removeAll { $0.name == name }
        case .resize(let family, let sectors): resize(family, sectors)
        case .keep(let family, let count): family.snapshots.removeFirst(max(0, family.snapshots.count - count))
        case .collect, .steps, .check: break
        }
    }

    private func resize(_ family: Family, _ sectors: Int) {
        if sectors < family.disk.sectors { family.disk.content = Content(Array((family.disk.content.values ?? []).prefix(sectors))) }
        family.setSize(sectors)
    }

    /// A copy with its size, which may be any that the disk had meanwhile.
    private func copy(_ name: String, of family: Family, _ task: SnapshotTask, _ index: Int, _ content: Content) throws -> Image {
        guard let record = try store.disk(name) else {
            isWrong("there is no \(name), which was made")
            return Image(sectors: 0, content: content)
        }
        let sectors = Int(record.byteCount) / sectorSize
        let possible = family.sizes[task.sources[index].firstSize...]
        if !possible.contains(sectors) { isWrong("\(name) has \(sectors) sectors, and was made when its disk had one of \(possible)") }
        return Image(sectors: sectors, content: content)
    }

    /// Their order is that in which they were begun, which may not be that in which they were answered.
    private func sortSnapshots(of families: [Family]) throws {
        for family in families {
            let order = try store.snapshots(of: family.name).map(\.name)
            family.snapshots.sort { one, other in
                (order.firstIndex(of: "\(family.name)@\(one.name)") ?? 0) < (order.firstIndex(of: "\(family.name)@\(other.name)") ?? 0)
            }
        }
    }

    private func isThere(_ name: String) throws -> Bool { try store.disk(name) != nil }

    /// A worker was killed at it: it was done, or nothing of it; of what takes several commits, a part of it.
    func see(_ task: SnapshotTask, worker: Int, before time: Double) throws {
        let isDone: Bool
        switch task.operation {
        case .serve(let families, let history):
            // As far as it came.
            for (place, family) in families.enumerated() { family.writer = (history, place) }
            for family in families { family.endWriting() }
            return
        case .halt, .collect, .steps, .check: return
        case .create(let name, _): isDone = try isThere(name)
        case .snapshot(let names):
            let there = try names.count { try isThere("\($0.family.name)@\($0.name)") }
            if there != 0, there != names.count { isWrong("\(task.operation.words) was killed, and made \(there)") }
            isDone = there > 0
        case .clone(_, _, let new): isDone = try isThere(new)
        case .rollBack(let family, let name): return try seeRollBack(family, name, task)
        case .rename(let family, let new):
            isDone = try isThere(new)
            if try isThere(family.name) == isDone { isWrong("\(task.operation.words) was killed, and there are both names, or none") }
        case .renameSnapshot(let family, _, let new): isDone = try isThere("\(family.name)@\(new)")
        case .delete(let family, let recursive):
            isDone = try !isThere(family.name)
            // Its snapshots go first, one after the other.
            let left = Set(try store.snapshots(of: family.name).map(\.name))
            if isDone || !recursive, left.count != (isDone ? 0 : family.snapshots.count) {
                isWrong("\(task.operation.words) was killed, and left \(left)")
            }
            family.snapshots.removeAll { !left.contains("\(family.name)@\($0.name)") }
        case .deleteSnapshot(let family, let name): isDone = try !isThere("\(family.name)@\(name)")
        case .resize(let family, let sectors): return try seeResize(family, sectors)
        case .keep(let family, let count):
            let old = Set(family.snapshots.dropLast(count).map(\.name))
            family.snapshots = try family.snapshots.filter { try !old.contains($0.name) || isThere("\(family.name)@\($0.name)") }
            return
        }
        if isDone { try apply(task, worker: worker, from: task.sent, to: time) }
    }

    private func seeRollBack(_ family: Family, _ name: String, _ task: SnapshotTask) throws {
        guard let snapshot = family.image(name) else { return isWrong("\(task.operation.words) was sent") }
        try settle("\(family.name)@\(name)", snapshot)
        guard let record = try store.disk(family.name) else { return isWrong("\(family.name) is gone") }
        let isOfItsSize = Int(record.byteCount) == snapshot.sectors * sectorSize
        if isOfItsSize, try snapshot.content.settle(read(family.name, snapshot)) == nil {
            try apply(task, worker: 0, from: 0, to: 0)
        } else {
            try settle(family.name, family.disk)
        }
    }

    private func seeResize(_ family: Family, _ sectors: Int) throws {
        guard let record = try store.disk(family.name) else { return isWrong("\(family.name) is gone") }
        let isDone = Int(record.byteCount) == sectors * sectorSize
        guard sectors < family.disk.sectors else { return family.setSize(Int(record.byteCount) / sectorSize) }
        if isDone { return resize(family, sectors) }
        // It was about to throw away what is beyond the end.
        let found = try read(family.name, family.disk)
        let old = family.disk.content.values ?? []
        func isPossible(_ sector: Int) -> Bool {
            let wanted = sector < old.count ? old[sector] : 0
            return found[sector] == wanted || sector >= sectors && found[sector] == 0
        }
        if let wrong = found.indices.first(where: { !isPossible($0) }) { isWrong("\(family.name): sector \(wrong) is \(found[wrong])") }
        family.disk.content = Content(found)
    }
}
