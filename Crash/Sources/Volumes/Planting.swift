/// Faults that are planted into a recording, as if the program had them: whoever looks for faults has to find them.
extension Trace {
    /// Tells calls to certain files from others: by the inode numbers of files that had such a path when they were made or named.
    private struct Files {
        private let isMeant: (String) -> Bool
        private var numbers: Set<UInt64>

        init(_ known: [String: UInt64], _ isMeant: @escaping (String) -> Bool) {
            self.isMeant = isMeant
            numbers = Set(known.filter { isMeant($0.key) }.map(\.value))
        }

        mutating func contain(_ call: Call) -> Bool {
            switch call.kind {
            case .made(let path), .named(let path), .makeDirectory(let path):
                if isMeant(path) { numbers.insert(call.file) } else { numbers.remove(call.file) }
            default: break
            }
            return call.file != 0 && numbers.contains(call.file)
        }
    }

    /// The same run of a program that leaves out the syncs of some files, or directories.
    /// - Parameters:
    ///   - moment: behind which it does so.
    ///   - isForgotten: whether a path's are.
    ///   - known: inode numbers of what there was before, by path.
    public func forgettingSyncs(_ known: [String: UInt64], behind moment: Int = 0, of isForgotten: @escaping (String) -> Bool) -> Trace {
        var forgotten = Files(known, isForgotten)
        var kept: [Call] = []
        for call in calls {
            let isMeant = forgotten.contain(call) && call.began >= moment
            switch call.kind {
            case .sync where isMeant, .dataSync where isMeant: continue
            case .write(let offset, true) where isMeant:
                kept.append(Call(kind: .write(offset: offset, durable: false), file: call.file, data: call.data, began: call.began, ended: call.ended))
            default: kept.append(call)
            }
        }
        return Trace(calls: kept, moments: moments, mapped: mapped)
    }

    /// The same run of a program that syncs some files only behind the next durable write to some others.
    public func delayingSyncs(
        _ known: [String: UInt64], behind moment: Int = 0, of areDelayed: @escaping (String) -> Bool, behindWritesTo areFirst: @escaping (String) -> Bool
    ) -> Trace {
        var delayed = Files(known, areDelayed), first = Files(known, areFirst)
        var ends: [Int] = []
        var late: [Int] = []
        var changed = calls
        for (index, call) in calls.enumerated() {
            let isFirst = first.contain(call), isDelayed = delayed.contain(call)
            if isFirst, case .write(_, true) = call.kind { ends.append(call.ended) }
            guard isDelayed, call.began >= moment else { continue }
            switch call.kind {
            case .sync, .dataSync, .write(_, true): late.append(index)
            default: break
            }
        }
        for index in late { changed[index].ended = ends.first { $0 > calls[index].ended }.map { $0 + 1 } ?? .max }
        return Trace(calls: changed, moments: moments, mapped: mapped)
    }

    /// The same run of a program that writes over the beginnings of its writes to some files when it begins to sync others: it should wait until that
    /// sync has ended.
    public func writingOver(
        _ known: [String: UInt64], _ isOverwritten: @escaping (String) -> Bool, beforeSyncsOf isSynced: @escaping (String) -> Bool
    ) -> Trace {
        var overwritten = Files(known, isOverwritten), synced = Files(known, isSynced)
        var changed: [Call] = []
        var waiting: [Call] = []
        for call in calls {
            if synced.contain(call), call.kind == .dataSync || call.kind == .sync {
                for old in waiting where old.ended <= call.began {
                    guard case .write(let offset, _) = old.kind else { continue }
                    let zeros = [UInt8](repeating: 0, count: min(512, old.data.count))
                    changed.append(
                        Call(kind: .write(offset: offset, durable: true), file: old.file, data: zeros, began: call.began, ended: call.began + 1))
                }
                waiting.removeAll { $0.ended <= call.began }
            }
            changed.append(call)
            if overwritten.contain(call), case .write = call.kind { waiting.append(call) }
        }
        return Trace(calls: changed, moments: moments, mapped: mapped)
    }

    /// Calls that changed files, or synced them, or tried to.
    public var changes: Int { calls.last?.number ?? 0 }

    /// Of these, counted from 1, the first, the second and the last of each kind to each file.
    public func places() -> [Int] {
        var paths: [UInt64: String] = [:]
        var found: [String: [Int]] = [:]
        for call in calls {
            let words: String
            switch call.kind {
            case .made(let path), .named(let path), .makeDirectory(let path):
                paths[call.file] = path
                words = "name \(path)"
            case .truncated: words = "truncate \(paths[call.file] ?? "")"
            case .write: words = "write \(paths[call.file] ?? "")"
            case .resize: words = "resize \(paths[call.file] ?? "")"
            case .allocate: words = "allocate \(paths[call.file] ?? "")"
            case .sync, .dataSync, .syncAll: words = "sync \(paths[call.file] ?? "")"
            case .unlink(let path): words = "unlink \(path)"
            case .rename(let from, let to, _): words = "rename \(from) \(to)"
            case .say: continue
            }
            found[words, default: []].append(call.number)
        }
        return Set(found.values.flatMap { Array($0.prefix(2)) + $0.suffix(1) }).sorted()
    }
}
