public import System

/// Where an image is written to: a new file, which comes to its name when it is whole; a file or device that is overwritten; or a
/// stream.
public final class ImageTarget {
    /// What errors call it.
    public var name: String { file.path }
    private let file: File
    private let place: Place
    /// What keeps others away from a file or device.
    private let holder: FileHolder?

    private enum Place {
        case stream
        /// Takes the place of `old`, if there is one.
        case new(NewFile, old: String?)
        /// From `start` on. What is there up to `end`, has to be written over.
        case old(start: UInt64, end: UInt64, isDevice: Bool, isGiven: Bool)
    }

    // MARK: Opening

    /// The descriptor that `path` names (`/dev/stdout`), or standard output for `-`; nil: `path` is another file. To be asked
    /// before this process opens anything else.
    /// - Parameter isForced: also when the device that it is is mounted, say.
    /// - Throws: `.usage` for a terminal or a directory, `.busy`.
    public init?(given path: String, isForced: Bool) throws(Failure) {
        guard let descriptor = path == "-" ? 1 : File.descriptor(named: path) else { return nil }
        file = try File(given: descriptor, as: path == "-" ? "standard output" : path)
        let status = try file.status()
        try Self.refuse(file, status, isStandard: path == "-")
        holder = isForced ? nil : try SharedFile.claim(file, status, .export, writing: true)
        let isDevice = status.kind == .blockDevice
        if isDevice || status.kind == .regular, try !file.isAppending(), let start = try file.position() {
            place = .old(start: start, end: try file.size(), isDevice: isDevice, isGiven: true)
            // Where size() has left it.
            try file.seek(to: start)
        } else {
            place = .stream
        }
    }

    /// What is at `path`, or will be. Waits for a FIFO's reader.
    /// - Parameters:
    ///   - inPlace: overwrite a file that is there.
    ///   - isForced: also when somebody uses it.
    /// - Throws: `.usage`, `.busy`; `.system` when a file can't be replaced by one that is as it was.
    public init(_ path: String, inPlace: Bool, isForced: Bool) throws(Failure) {
        let status = try File.status(of: path)
        switch status?.kind {
        case .regular where inPlace, .blockDevice:
            let (holder, status) = try SharedFile.open(path, .export, writing: true, isForced: isForced)
            file = try holder.file.duplicate()
            self.holder = holder
            place = .old(start: 0, end: try holder.file.size(), isDevice: status.kind == .blockDevice, isGiven: false)
        case .regular:
            let real = File.resolved(path) ?? path
            if let status { try Self.checkReplaceable(path, real, status, isForced: isForced) }
            let new = try Self.replacement(for: real, path)
            file = try new.file.duplicate()
            holder = nil
            place = .new(new, old: real)
        case nil:
            let new = try NewFile(for: try Self.unlinked(path))
            file = try new.file.duplicate()
            holder = nil
            place = .new(new, old: nil)
        case .socket:
            throw Failure(
                .usage, .export, .socket(path), "it is a socket")
        case .directory:
            throw Failure(.usage, .export, .image(path), "it is a directory", remedy: "name a file in it")
        case .pipe, .characterDevice, .other:
            file = try File(streamAt: path, writing: true)
            holder = nil
            try Self.refuse(file, try file.status(), isStandard: false)
            place = .stream
        }
    }

    /// A link that leads nowhere was perhaps laid by somebody else.
    private static func unlinked(_ path: String) throws(Failure) -> String {
        guard try File.isLink(path) else { return path }
        throw Failure(.usage, .export, .image(path), "it is a link to something that is not there", remedy: "remove it, or make the file that it names")
    }

    private static func refuse(_ file: borrowing File, _ status: File.Status, isStandard: Bool) throws(Failure) {
        if status.kind == .directory { throw Failure(.usage, .export, .image(file.path), "it is a directory", remedy: "name a file in it") }
        guard status.kind == .characterDevice, try file.isTerminal() else { return }
        throw Failure(.usage, .export, .terminal(file.path), "it is a terminal", remedy: isStandard ? "redirect it, or name a file" : "name a file")
    }

    /// A new file in its place must not be another's, nor leave the old one behind under another name.
    private static func checkReplaceable(
        _ path: String, _ real: String, _ status: File.Status, isForced: Bool
    ) throws(Failure) {
        if !isForced {
            if let refusal = FileUse.refusal(path, status, .export, writing: true) { throw refusal }
            // One that may not be read is not looked at.
            if let old = try? File(path: real), SharedFile.isWritten(old) { throw SharedFile.inUse(path, .export, status, writing: true) }
        }
        if status.linkCount > 1 { throw notReplaceable(path, "the file has \(status.linkCount) names, of which the others would keep the old one") }
        if FileUse.isMountPoint(real) { throw notReplaceable(path, "it is a mount point, which can't be replaced") }
        if let directory = try File.status(of: File.split(real).directory), directory.keepsFiles(of: status) {
            throw notReplaceable(path, "its directory lets only the file's owner replace it")
        }
    }

    private static func replacement(for real: String, _ path: String) throws(Failure) -> NewFile {
        let new: NewFile
        do throws(Failure) { new = try NewFile(for: real) } catch {
            guard [.system, .notPermitted, .readOnly].contains(error.kind) else { throw error }
            throw notReplaceable(path, "no file can be made beside it: \(error.why)")
        }
        // Before anything is written: who may not is told at once.
        do throws(Failure) { try new.resemble(real) } catch {
            throw notReplaceable(path, "a new file would not have its owner, group and permissions: \(error.why)")
        }
        return new
    }

    private static func notReplaceable(_ path: String, _ why: String) -> Failure {
        Failure(.system, .export, .file(path), why, remedy: "overwrite the file itself")
    }

    // MARK: Writing

    /// Whether it can only be written from its beginning to its end.
    var isStream: Bool { if case .stream = place { true } else { false } }

    /// What is left when the export does not come to its end.
    var whatIsLeft: String {
        switch place {
        case .new: "nothing was kept"
        case .stream: "what was written is not a whole image"
        case .old: "it is not a whole image now: export again"
        }
    }

    /// Looks whether an image of that size fits, before anything is written.
    func prepare(_ byteCount: UInt64) throws(Failure) {
        guard case .old(let start, let end, true, _) = place, end < start || end - start < byteCount else { return }
        throw Failure(
            .noSpace, .export, .image(name), "the device has \(end) bytes\(start > 0 ? ", and was given from byte \(start) on" : ""), the disk \(byteCount)",
            remedy: "name a larger device")
    }

    /// Writes `bytes` at `offset` of the image, or, to a stream, next.
    func write(at offset: UInt64, _ bytes: RawSpan) throws(Failure) {
        switch place {
        case .stream: try file.writeNext(bytes)
        case .new: try file.write(at: offset, bytes)
        case .old(let start, _, _, _): try file.write(at: start + offset, bytes)
        }
    }

    /// Most bytes that `leaveOut` takes at a time, so that an end can be asked for in between.
    static let longestHole: UInt64 = 64 << 20

    /// Has this range of the image read as zeros; a new file has them already.
    func leaveOut(_ range: Range<UInt64>) throws(Failure) {
        guard case .old(let start, let end, _, _) = place else { return }
        let (first, last) = (start + range.lowerBound, min(start + range.upperBound, end))
        if first < last { try file.zero(at: first, count: last - first) }
    }

    /// The image is whole: makes it durable and, where it has none yet, gives it its name.
    func finish(_ byteCount: UInt64) throws(Failure) {
        switch place {
        case .stream: break
        case .new(let new, let old):
            try file.truncate(to: byteCount)
            if let old { try new.resemble(old) }
            try new.put(durably: true)
        case .old(let start, let end, let isDevice, let isGiven):
            // What was given is a part of the file: what lies behind it is left.
            if !isDevice, !isGiven || end < start + byteCount { try file.truncate(to: start + byteCount) }
            try file.synchronize()
            if isGiven { try file.seek(to: start + byteCount) }
        }
    }
}
