internal import Synchronization
public import System

/// An image that is read: a file or a device, as a whole or from where it was given on, or what comes out of a pipe.
public final class ImageSource: Sendable {
    /// What errors call it.
    public var name: String { holder.file.path }
    /// Its length; nil: its end will tell.
    public let byteCount: UInt64?
    /// Whether a path leads to it alone, and so a program that is told the path reads the same.
    public let hasPath: Bool
    /// Whether it is a device.
    public let isDevice: Bool

    private let holder: FileHolder
    /// Of a device that was given: what keeps writers away.
    private let claim: FileHolder?
    /// Where in the file the image begins.
    private let start: UInt64
    private let ends: Mutex<Ends>

    /// The beginning and the end of what was read of a stream, by which its format is known.
    private struct Ends {
        var head: [UInt8] = []
        /// Bytes of `head` that `readNext` has to give before anything else.
        var waiting = 0
        var tail: [UInt8] = []
    }

    /// Opens what is at `path`; `-` is standard input. A path that names a descriptor of this process (`/dev/stdin`) means the
    /// descriptor as it was given, not what another opening of the path would be. Waits for a FIFO's writer.
    /// - Parameter isForced: also when somebody writes to it.
    /// - Throws: `.usage` for what can't be an image, `.busy` when somebody writes to it.
    public init(_ path: String, isForced: Bool = false) throws(Failure) {
        let descriptor = path == "-" ? 0 : File.descriptor(named: path)
        let status: File.Status
        if let descriptor {
            holder = FileHolder(try File(given: descriptor, as: path == "-" ? "standard input" : path), canonical: nil)
            status = try holder.file.status()
            claim = isForced ? nil : try SharedFile.claim(holder.file, status, .import, writing: false)
        } else {
            (holder, status) = try Self.open(path, isForced: isForced)
            claim = nil
        }
        try Self.refuse(holder.file, status, isStandard: path == "-")
        hasPath = descriptor == nil
        isDevice = status.kind == .blockDevice
        if status.kind == .regular || isDevice {
            start = descriptor == nil ? 0 : try holder.file.position() ?? 0
            let size = try holder.file.size()
            byteCount = size > start ? size - start : 0
            ends = Mutex(Ends())
            // Where size() has left it.
            if descriptor != nil { try holder.file.seek(to: start) }
        } else {
            start = 0
            byteCount = nil
            var ends = Ends()
            ends.head = [UInt8](repeating: 0, count: ImageFormat.tellingBytes)
            let source = holder
            let count = try ends.head.withMutableBytes { (bytes) throws(Failure) in try source.file.readNext(into: &bytes) }
            ends.head.removeLast(ends.head.count - count)
            ends.waiting = count
            self.ends = Mutex(ends)
        }
    }

    private static func open(_ path: String, isForced: Bool) throws(Failure) -> (FileHolder, File.Status) {
        guard let status = try File.status(of: path) else { throw Failure(systemCall: "open", .file(path), errno: 2) }
        switch status.kind {
        case .regular, .blockDevice:
            return try SharedFile.open(path, .import, writing: false, isForced: isForced)
        case .socket:
            throw Failure(
                .usage, .import, .socket(path), "it is a socket"
            )
        case .directory:
            throw isDirectory(path)
        default:
            return (FileHolder(try File(streamAt: path, writing: false), canonical: nil), status)
        }
    }

    private static func refuse(_ file: borrowing File, _ status: File.Status, isStandard: Bool) throws(Failure) {
        let name = isStandard ? "standard input" : file.path
        if status.kind == .directory { throw isDirectory(name) }
        guard status.kind == .characterDevice else { return }
        if try file.isTerminal() {
            throw Failure(
                .usage, .import, .terminal(name), "it is a terminal",
                remedy: isStandard ? "name a file or a device, or redirect it" : "name a file, a device or a pipe")
        }
        // Linux's numbers (Documentation/admin-guide/devices.txt).
        if ["1:5", "1:7", "1:8", "1:9"].contains(status.deviceName) {
            throw Failure(
                .usage, .import, .endless(name), "it has no end",
                remedy: "take a part of it")
        }
    }

    private static func isDirectory(_ name: String) -> Failure {
        Failure(.system, .import, .image(name), "it is a directory", remedy: "name a raw image, a block device or a pipe")
    }

    // MARK: Format

    /// What its bytes seem to be, where that is no raw image. Of a stream, what was read tells.
    public func foreignFormat() throws(Failure) -> ImageFormat? {
        if let byteCount { return try ImageFormat(of: holder.file, from: start, byteCount: byteCount) }
        return ends.withLock { ImageFormat(head: $0.head, tail: $0.tail) }
    }

    // MARK: Reading

    /// The next run of data at `offset` or after it; nil: none up to the end.
    func nextData(at offset: UInt64) throws(Failure) -> Range<UInt64>? {
        guard let found = try holder.file.nextData(at: start + offset), found.upperBound > start else { return nil }
        return max(found.lowerBound, start) - start..<found.upperBound - start
    }

    /// pread(2), as `File.read`.
    func read(at offset: UInt64, into buffer: inout MutableRawSpan) throws(Failure) -> Int {
        try holder.file.read(at: start + offset, into: &buffer)
    }

    /// What comes next of a stream, until `buffer` is full or the stream ends; the number of bytes.
    func readNext(into buffer: inout MutableRawSpan) throws(Failure) -> Int {
        let waiting = ends.withLock { ends in
            let count = min(ends.waiting, buffer.byteCount)
            let from = ends.head.count - ends.waiting
            buffer.copy(ends.head.rawBytes.extracting(from..<from + count), to: 0)
            ends.waiting -= count
            return count
        }
        var rest = buffer._mutatingExtracting(waiting..<buffer.byteCount)
        let count = waiting + (try holder.file.readNext(into: &rest))
        let tail = buffer.bytes.extracting(max(0, count - ImageFormat.tellingBytes)..<count)
        ends.withLock { ends in
            ends.tail += (0..<tail.byteCount).map { tail.load(at: $0) }
            ends.tail.removeFirst(max(0, ends.tail.count - ImageFormat.tellingBytes))
        }
        return count
    }

    /// Leaves a descriptor that was given behind what was read, for whoever reads next, or where it was.
    func end(read: Bool) {
        guard !hasPath, let byteCount else { return }
        // Nothing depends on it here.
        try? holder.file.seek(to: start + (read ? byteCount : 0))
    }
}
