/// What a filesystem may do with what was not made durable.
public enum Promise: String, CaseIterable, Sendable {
    /// POSIX: names, sizes and sectors that nobody synced are there or not, each for itself.
    case posix
    /// ext4 with data=ordered: names and sizes are there up to some moment, and all before it; data that a file grew by is there before its size.
    case ordered
}

/// The files of a run: goes through the run moment by moment, and makes what a cut at that moment would leave (`cut`).
public struct Volume {
    private let root: String
    private let calls: [Call]
    /// The moment that was reached.
    public private(set) var moment = 0
    /// The next call that has not begun.
    private var nextCall = 0

    typealias FileID = Int

    /// What changes a file's bytes, or its size.
    struct Change {
        let kind: Call.Kind
        let data: [UInt8]
        let ended: Int
        /// It is durable, though a change before it is not.
        var isDurable = false
        /// Its number among all changes of the volume.
        let order: Int
        /// It changes the size, or which blocks the file has: metadata, for which a filesystem has a journal.
        let isOfMetadata: Bool
    }

    struct FileState {
        /// What the durable changes came to, up to the first that is not durable.
        var bytes: [UInt8] = []
        var pending: [Change] = []
        var isDirectory = false
        /// The hash of `bytes`, once it was asked for.
        var hash: UInt64?
        /// As the program sees it.
        var size: UInt64 = 0
    }

    /// What changes names.
    struct NameChange {
        enum Kind {
            case add(directory: FileID, name: String, file: FileID)
            case remove(directory: FileID, name: String)
            case rename(from: Entry, to: Entry, file: FileID)
        }
        let kind: Kind
        let ended: Int
        let order: Int
    }

    struct Entry: Hashable {
        let directory: FileID
        let name: String
    }

    var files: [FileState] = [FileState(isDirectory: true)]
    /// Files by inode number: the last that had it.
    private var numbers: [UInt64: FileID] = [:]
    /// As the program sees it.
    private var names: [Entry: FileID] = [:]
    /// The names that are durable, and changes of names that are not.
    private(set) var durableNames: [Entry: FileID] = [:]
    private(set) var pendingNames: [NameChange] = []
    private(set) var order = 0
    /// For the ordered promise: up to this change, names and sizes are durable.
    private(set) var committedOrder = 0
    /// Syncs at work: the call, and the moment at which it began.
    private var syncs: [(call: Int, begun: Int)] = []
    /// Writes at work that are durable when they end (O_DSYNC).
    private var durableWrites: [(call: Int, file: FileID, order: Int)] = []

    /// - Parameters:
    ///   - root: the directory that was watched.
    ///   - tree: what it had before.
    ///   - numbers: inode numbers of what it had before, and its own.
    public init(_ trace: Trace, root: String, startingWith tree: Tree, numbers known: [String: UInt64]) {
        self.root = root
        calls = trace.calls
        for directory in tree.directories.sorted() { adopt(directory, [], isDirectory: true, known[directory]) }
        for (path, bytes) in tree.files { adopt(path, bytes, isDirectory: false, known[path]) }
        if let number = known[""] { numbers[number] = 0 }
        durableNames = names
    }

    private mutating func adopt(_ path: String, _ bytes: [UInt8], isDirectory: Bool, _ number: UInt64?) {
        guard let entry = entry(of: root + "/" + path) else { return }
        files.append(FileState(bytes: bytes, isDirectory: isDirectory, size: UInt64(bytes.count)))
        names[entry] = files.count - 1
        if let number { numbers[number] = files.count - 1 }
    }

    // MARK: Names

    /// The directory and name of an absolute path. Nil: it is not below the root, or its directory is not known.
    private func entry(of path: String) -> Entry? {
        guard path.hasPrefix(root + "/") else { return nil }
        var directory = 0
        let parts = path.dropFirst(root.count + 1).split(separator: "/")
        for part in parts.dropLast() {
            guard let next = names[Entry(directory: directory, name: String(part))] else { return nil }
            directory = next
        }
        return parts.last.map { Entry(directory: directory, name: String($0)) }
    }

    private mutating func makeFile(_ number: UInt64, isDirectory: Bool) -> FileID {
        files.append(FileState(isDirectory: isDirectory))
        numbers[number] = files.count - 1
        return files.count - 1
    }

    private mutating func note(_ kind: NameChange.Kind, _ call: Call) {
        order += 1
        pendingNames.append(NameChange(kind: kind, ended: call.ended, order: order))
    }

    private mutating func add(_ path: String, _ file: FileID, _ call: Call) {
        guard let entry = entry(of: path) else { return }
        names[entry] = file
        note(.add(directory: entry.directory, name: entry.name, file: file), call)
    }

    // MARK: Going on

    /// Goes on to a moment that was not reached yet.
    public mutating func advance(to end: Int) {
        while moment < end {
            // What ends at a moment ends before what begins then.
            finish(at: moment)
            while nextCall < calls.count, calls[nextCall].began <= moment {
                begin(nextCall)
                nextCall += 1
            }
            moment += 1
        }
        finish(at: moment)
    }

    private mutating func begin(_ index: Int) {
        let call = calls[index]
        switch call.kind {
        case .made(let path):
            let file = makeFile(call.file, isDirectory: false)
            if !path.isEmpty { add(path, file, call) }
        case .makeDirectory(let path): add(path, makeFile(call.file, isDirectory: true), call)
        case .named(let path): if let file = numbers[call.file] { add(path, file, call) }
        case .unlink(let path):
            guard let entry = entry(of: path) else { return }
            names[entry] = nil
            note(.remove(directory: entry.directory, name: entry.name), call)
        case .rename(let from, let to, let isExchange):
            guard let source = entry(of: from), let target = entry(of: to), let file = names[source] else { return }
            let other = names[target]
            names[source] = isExchange ? other : nil
            names[target] = file
            note(.rename(from: source, to: target, file: file), call)
            if isExchange, let other { note(.add(directory: source.directory, name: source.name, file: other), call) }
        case .write, .resize, .allocate, .truncated:
            guard let file = numbers[call.file] else { return }
            change(file, call)
            if case .write(_, true) = call.kind { durableWrites.append((index, file, order)) }
        case .sync, .dataSync, .syncAll: syncs.append((index, call.began))
        case .say: break
        }
    }

    private mutating func change(_ file: FileID, _ call: Call) {
        order += 1
        let kind = call.kind == .truncated ? .resize(0) : call.kind
        var isOfMetadata = true
        switch kind {
        case .write(let offset, _):
            isOfMetadata = offset + UInt64(call.data.count) > files[file].size
            files[file].size = max(files[file].size, offset + UInt64(call.data.count))
        case .resize(let size): files[file].size = size
        case .allocate(let mode, let offset, let count): if mode & 1 == 0 { files[file].size = max(files[file].size, offset + count) }
        default: break
        }
        files[file].pending.append(Change(kind: kind, data: call.data, ended: call.ended, order: order, isOfMetadata: isOfMetadata))
    }

    private mutating func finish(at moment: Int) {
        for (call, begun) in syncs where calls[call].ended == moment { sync(calls[call], begun) }
        syncs.removeAll { calls[$0.call].ended <= moment }
        for (call, file, order) in durableWrites where calls[call].ended == moment {
            for index in files[file].pending.indices where files[file].pending[index].order == order {
                files[file].pending[index].isDurable = true
                if files[file].pending[index].isOfMetadata { commit(order) }
            }
            settle(file)
        }
        durableWrites.removeAll { calls[$0.call].ended <= moment }
    }

    /// A sync ends: what was over when it began is durable.
    private mutating func sync(_ call: Call, _ begun: Int) {
        var all: [FileID] = []
        if call.kind == .syncAll { all = Array(files.indices) } else if let file = numbers[call.file] { all = [file] }
        for file in all {
            var last = 0
            for index in files[file].pending.indices where files[file].pending[index].ended <= begun {
                files[file].pending[index].isDurable = true
                if files[file].pending[index].isOfMetadata { last = max(last, files[file].pending[index].order) }
            }
            if files[file].isDirectory {
                // In their order: what is added to this directory, and taken out of it.
                var rest: [NameChange] = []
                for change in pendingNames {
                    if change.ended <= begun, touches(change, file) {
                        Self.apply(change, to: &durableNames)
                        last = max(last, change.order)
                    } else {
                        rest.append(change)
                    }
                }
                pendingNames = rest
            } else if call.kind == .sync, last == 0 {
                // The file has not changed, but may have been made: to sync it writes an ordered filesystem's journal up to its name.
                last = pendingNames.last { $0.ended <= begun && names(file, $0) }?.order ?? 0
            }
            commit(last)
            settle(file)
        }
    }

    private func touches(_ change: NameChange, _ directory: FileID) -> Bool {
        switch change.kind {
        case .add(let place, _, _), .remove(let place, _): place == directory
        case .rename(_, let to, _): to.directory == directory
        }
    }

    private func names(_ file: FileID, _ change: NameChange) -> Bool {
        switch change.kind {
        case .add(_, _, let named), .rename(_, _, let named): named == file
        case .remove: false
        }
    }

    static func apply(_ change: NameChange, to names: inout [Entry: FileID]) {
        switch change.kind {
        case .add(let directory, let name, let file): names[Entry(directory: directory, name: name)] = file
        case .remove(let directory, let name): names[Entry(directory: directory, name: name)] = nil
        case .rename(let from, let to, let file):
            if names[from] == file { names[from] = nil }
            names[to] = file
        }
    }

    /// The journal of an ordered filesystem is written up to this change.
    private mutating func commit(_ order: Int) { committedOrder = max(committedOrder, order) }

    /// Applies to the file's bytes the durable changes that no other one is before.
    private mutating func settle(_ file: FileID) {
        let count = files[file].pending.prefix { $0.isDurable }.count
        guard count > 0 else { return }
        var bytes: [UInt8] = []
        swap(&bytes, &files[file].bytes)
        for change in files[file].pending[..<count] { Self.apply(change, to: &bytes) }
        swap(&bytes, &files[file].bytes)
        files[file].pending.removeFirst(count)
        files[file].hash = nil
    }

    // MARK: Changes of bytes

    static func apply(_ change: Change, to bytes: inout [UInt8]) {
        switch change.kind {
        case .write(let offset, _):
            let start = Int(offset), end = start + change.data.count
            if bytes.count < end { resize(&bytes, to: end) }
            bytes.replaceSubrange(start..<end, with: change.data)
        case .resize(let size): resize(&bytes, to: Int(size))
        case .allocate(let mode, let offset, let count): allocate(mode, Int(offset), Int(count), &bytes)
        default: break
        }
    }

    static func resize(_ bytes: inout [UInt8], to size: Int) {
        if size < bytes.count { bytes.removeLast(bytes.count - size) } else { bytes.append(contentsOf: repeatElement(0, count: size - bytes.count)) }
    }

    /// fallocate(2): 1 keeps the size, 2 punches a hole, 16 writes zeros.
    private static func allocate(_ mode: UInt64, _ offset: Int, _ count: Int, _ bytes: inout [UInt8]) {
        if mode & 1 == 0, bytes.count < offset + count { resize(&bytes, to: offset + count) }
        guard mode & 0x12 != 0, offset < bytes.count else { return }
        let end = min(bytes.count, offset + count)
        bytes.replaceSubrange(offset..<end, with: repeatElement(0, count: end - offset))
    }
}
