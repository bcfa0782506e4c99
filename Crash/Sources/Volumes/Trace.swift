internal import CTrace
internal import Glibc

/// Why a run could not be watched, or a state not be written.
public struct TraceFailure: Error, CustomStringConvertible {
    public let description: String
    init(_ description: String) { self.description = description }
    /// - Parameter call: what failed, and left `errno`.
    init(systemCall call: String, _ path: String) { description = "\(call) \(path): \(String(cString: strerror(errno)))" }
}

/// A call that changed files of a run, or made such changes durable.
public struct Call: Sendable {
    public enum Kind: Sendable, Equatable {
        /// A file was made, with a name or without one (empty); it got a further name; it was opened and emptied.
        case made(path: String), named(path: String), truncated
        case write(offset: UInt64, durable: Bool)
        case resize(UInt64)
        case allocate(mode: UInt64, offset: UInt64, count: UInt64)
        /// fsync(2), fdatasync(2), and a sync of the whole filesystem.
        case sync, dataSync, syncAll
        case unlink(path: String)
        case rename(from: String, to: String, exchanging: Bool)
        case makeDirectory(path: String)
        /// What the program said.
        case say
    }
    public let kind: Kind
    /// Inode number; 0: it is about names alone.
    public let file: UInt64
    /// Bytes of a write, or what was said.
    public var data: [UInt8] = []
    /// The moments of the run between which it was at work: a cut at moment n leaves the world as it was then. `ended` is `Int.max` when it never returned.
    public var began: Int
    public var ended: Int
    /// Its number, from 1 on, among all calls that were noted, those that failed included; what the program said is not counted.
    public var number = 0
}

/// All calls of a run, in the order in which they began.
public struct Trace: Sendable {
    public let calls: [Call]
    /// Moments: a cut may come at 0...moments.
    public let moments: Int
    /// Files that were mapped to be written: what was written through the maps is not known.
    public let mapped: Set<String>

    /// Runs a program, watched, until it ends.
    /// - Parameters:
    ///   - directory: what lies below it is of interest: an absolute path without links.
    ///   - log: a file for the log, which stays.
    ///   - last: the program is killed before it makes this one of the calls that change files, from 1 on; nil: it is not.
    /// - Throws: when it ends with another status than 0, or changes files in a way that can't be followed.
    public init(running arguments: [String], below directory: String, log: String, killedAt last: Int? = nil) throws(TraceFailure) {
        let descriptor = open(log, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw TraceFailure(systemCall: "write", log) }
        defer { close(descriptor) }
        var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) }
        words.append(nil)
        defer { for word in words { free(word) } }
        let status = ctrace_run(&words, directory, descriptor, last ?? 0)
        guard status == 0 || last != nil else {
            throw TraceFailure("\(arguments.joined(separator: " ")): it ended with status \(status >> 8), signal \(status & 127)")
        }
        try self.init(log: log)
    }

    /// Reads the log of an earlier run.
    public init(log: String) throws(TraceFailure) { try self.init(Bytes.read(log)) }

    /// - Parameter log: as ctrace.h says.
    init(_ log: [UInt8]) throws(TraceFailure) {
        struct Begun {
            var index: Int
            var record: TraceRecord
            var moment: Int
            var number: Int
        }
        var begun: [UInt32: Begun] = [:]
        var calls: [Call?] = []
        var mapped: Set<String> = []
        var offset = 0, moment = 0, number = 0
        while offset < log.count {
            guard let record = TraceRecord(log, at: offset) else { throw TraceFailure("the log of a run is cut at byte \(offset)") }
            offset += record.length
            moment += 1
            if record.isOver {
                guard let call = begun.removeValue(forKey: record.thread) else { continue }
                calls[call.index] = try Self.call(call.record, record, began: call.moment, ended: moment, call.number)
            } else {
                if record.operation != UInt16(CTRACE_SAY.rawValue) { number += 1 }
                if record.operation == UInt16(CTRACE_MAP.rawValue) { mapped.insert(record.path) }
                begun[record.thread] = Begun(index: calls.count, record: record, moment: moment - 1, number: number)
                calls.append(nil)
            }
        }
        // Calls that were at work when the run ended.
        for call in begun.values { calls[call.index] = try Self.call(call.record, nil, began: call.moment, ended: .max, call.number) }
        self.init(calls: calls.compactMap { $0 }, moments: moment, mapped: mapped)
    }

    /// A run that is made up, for tests and planted faults.
    init(calls: [Call], moments: Int, mapped: Set<String> = []) {
        self.calls = calls
        self.moments = moments
        self.mapped = mapped
    }

    /// Nil: it has changed nothing.
    private static func call(_ begun: TraceRecord, _ over: TraceRecord?, began: Int, ended: Int, _ number: Int) throws(TraceFailure) -> Call? {
        let result = over?.result ?? 0
        guard result >= 0 else { return nil }
        // Which file was opened or made is known when the call ends.
        let file = begun.file != 0 ? begun.file : over?.file ?? 0
        var data = begun.data
        let kind: Call.Kind
        switch Int(begun.operation) {
        case Int(CTRACE_OPEN.rawValue):
            guard over != nil else { return nil }
            let isNameless = begun.a & UInt64(temporaryFlags) == UInt64(temporaryFlags)
            guard begun.b == 1 || begun.a & UInt64(O_TRUNC) != 0 else { return nil }
            kind = begun.b == 1 ? .made(path: isNameless ? "" : begun.path) : .truncated
        case Int(CTRACE_WRITE.rawValue):
            if over != nil { data = Array(data.prefix(Int(result))) }
            kind = .write(offset: begun.a, durable: begun.b == 1)
        case Int(CTRACE_TRUNCATE.rawValue): kind = .resize(begun.a)
        case Int(CTRACE_ALLOCATE.rawValue):
            guard begun.a & ~0x13 == 0 else { throw TraceFailure("a run makes a file shorter in its middle, or longer, which is not followed") }
            kind = .allocate(mode: begun.a, offset: begun.b, count: begun.c)
        case Int(CTRACE_SYNC.rawValue): kind = begun.a == 0 ? .sync : begun.a == 1 ? .dataSync : .syncAll
        case Int(CTRACE_LINK.rawValue): kind = .named(path: begun.path)
        case Int(CTRACE_UNLINK.rawValue): kind = .unlink(path: begun.path)
        case Int(CTRACE_RENAME.rawValue): kind = .rename(from: begun.path, to: begun.other, exchanging: begun.a & 2 != 0)
        case Int(CTRACE_MKDIR.rawValue):
            guard over != nil else { return nil }
            kind = .makeDirectory(path: begun.path)
        case Int(CTRACE_SAY.rawValue): kind = .say
        case Int(CTRACE_MAP.rawValue): return nil
        default: throw TraceFailure("a run makes call \(begun.a), which is not followed")
        }
        return Call(kind: kind, file: file, data: data, began: began, ended: ended, number: number)
    }

    /// `O_TMPFILE` is a macro that Swift can't read: with `O_DIRECTORY`, as fcntl.h of the architecture has it.
    private static let temporaryFlags = O_DIRECTORY | 0o20_000_000
}

/// A record of the log: see ctrace.h.
struct TraceRecord {
    let length: Int
    let operation: UInt16
    let isOver: Bool
    let result: Int64
    let file, a, b, c: UInt64
    let thread: UInt32
    let path, other: String
    let data: [UInt8]

    init?(_ log: [UInt8], at start: Int) {
        func load<Value: FixedWidthInteger>(_ offset: Int, _: Value.Type) -> Value {
            log.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: start + offset, as: Value.self) }
        }
        guard start + 64 <= log.count else { return nil }
        length = Int(load(0, UInt32.self))
        let sizes = [52, 56, 60].map { Int(load($0, UInt32.self)) }
        guard length == 64 + sizes.reduce(0, +), start + length <= log.count else { return nil }
        operation = load(4, UInt16.self)
        isOver = load(6, UInt16.self) == 1
        result = load(8, Int64.self)
        (file, a, b, c) = (load(16, UInt64.self), load(24, UInt64.self), load(32, UInt64.self), load(40, UInt64.self))
        thread = load(48, UInt32.self)
        var place = start + 64
        func take(_ count: Int) -> ArraySlice<UInt8> {
            defer { place += count }
            return log[place..<place + count]
        }
        path = String(decoding: take(sizes[0]), as: UTF8.self)
        other = String(decoding: take(sizes[1]), as: UTF8.self)
        data = Array(take(sizes[2]))
    }
}
