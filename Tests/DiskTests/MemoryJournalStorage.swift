import Synchronization
import System

@testable import Disk

/// A machine somewhere else that keeps a journal. It stays when those go who opened it.
final class MemoryJournal: Sendable {
    private let content = Mutex(Content())

    struct Content {
        var bytes: [UInt8] = []
        /// What survives the loss of power for certain, and the sectors that were written since.
        var durable: [UInt8] = []
        var unsynced: Set<Int> = []
    }

    func with<Result>(_ body: (inout sending Content) throws(Failure) -> sending Result) throws(Failure) -> Result {
        try content.withLock { (content) throws(Failure) in try body(&content) }
    }

    /// The bytes at one instant, to be put back later.
    var bytes: [UInt8] {
        get { content.withLock { $0.bytes } }
        set { content.withLock { $0.bytes = newValue } }
    }

    /// What the loss of power leaves: of what was not synced, some sectors.
    func losePower(using random: inout some RandomNumberGenerator) {
        content.withLock { content in
            var left = content.durable
            left += [UInt8](repeating: 0, count: max(0, content.bytes.count - left.count))
            for sector in content.unsynced.sorted() where Bool.random(using: &random) {
                let range = sector * 512..<min((sector + 1) * 512, content.bytes.count)
                if !range.isEmpty { left.replaceSubrange(range, with: content.bytes[range]) }
            }
            content = Content(bytes: left, durable: left)
        }
    }
}

/// A journal that is reached as one far away: of what it has, only what was written or read here is in `memory`.
@safe
final class MemoryJournalStorage: JournalStorage, @unchecked Sendable {
    let journal: MemoryJournal
    private let copy: UnsafeMutableRawBufferPointer
    /// The file with the lock, if there is one.
    private let file: File?

    init(_ journal: MemoryJournal, byteCount: UInt64, lock file: consuming File? = nil) {
        self.journal = journal
        self.file = file
        unsafe copy = .allocate(byteCount: max(Int(byteCount), journal.bytes.count), alignment: 4096)
        unsafe copy.initializeMemory(as: UInt8.self, repeating: 0xdd)
    }

    deinit { unsafe copy.deallocate() }

    func byteCount() throws(Failure) -> UInt64 { UInt64(journal.bytes.count) }

    var memory: JournalMemory { unsafe JournalMemory(copy.baseAddress!, byteCount: copy.count) }

    func write(at offset: UInt64, _ parts: inout Gather) throws(Failure) {
        let start = Int(offset)
        guard start + parts.byteCount <= memory.byteCount else { throw Failure(.noSpace, "write to a journal", "it has no such place") }
        let bytes = [UInt8](count: parts.byteCount) { _ = parts.take(into: &$0) }
        change(start, bytes)
        unsafe copy[start..<start + bytes.count].copyBytes(from: bytes)
    }

    private func change(_ start: Int, _ new: [UInt8]) {
        guard !new.isEmpty else { return }
        try? journal.with { content in
            let end = start + new.count
            if end > content.bytes.count { content.bytes += [UInt8](repeating: 0, count: end - content.bytes.count) }
            content.bytes.replaceSubrange(start..<end, with: new)
            content.unsynced.formUnion(start / 512...(end - 1) / 512)
        }
    }

    func read(at offset: UInt64, into buffer: inout MutableRawSpan) throws(Failure) -> Int {
        let bytes = journal.bytes
        guard offset < bytes.count else { return 0 }
        let start = Int(offset), end = min(start + buffer.byteCount, bytes.count)
        buffer.copy(bytes.rawBytes.extracting(start..<end), to: 0)
        if end <= memory.byteCount { unsafe copy[start..<end].copyBytes(from: bytes[start..<end]) }
        return end - start
    }

    func synchronize() throws(Failure) {
        try journal.with { content in
            content.durable = content.bytes
            content.unsynced = []
        }
    }

    func allocate(_ range: Range<UInt64>) -> UInt64 {
        change(Int(range.lowerBound), [UInt8](repeating: 0, count: range.count))
        return range.upperBound
    }

    func giveBack(_ range: Range<UInt64>) throws(Failure) {
        let end = min(Int(range.upperBound), journal.bytes.count)
        if range.lowerBound < end { change(Int(range.lowerBound), [UInt8](repeating: 0, count: end - Int(range.lowerBound))) }
    }

    func reset(to count: UInt64) throws(Failure) {
        try journal.with { content in
            let bytes = [UInt8](repeating: 0, count: Int(count))
            content.unsynced = Set(0...content.bytes.count / 512)
            content.bytes = bytes
        }
    }

    func unlock() throws(Failure) { try file?.unlock() }
}

/// A journal that fails when it is told to.
final class FaultyJournalStorage: JournalStorage {
    let below: any JournalStorage
    private let faults = Mutex<[Call: [Fault]]>([:])

    enum Call { case write, read, synchronize, reset }
    enum Fault: Equatable {
        case none
        /// Nothing is done.
        case before
        /// The same, as there is no room.
        case full
        /// All is done, and the answer is lost.
        case after
        /// Of a write, so many bytes are.
        case short(Int)
    }

    init(_ below: any JournalStorage) { self.below = below }

    static let failure = Failure(.system, "reach the journal", "the connection was cut")
    static let noRoom = Failure(.noSpace, "write to the journal", "there is no room")

    /// What becomes of the next calls of a kind, in turn; all is well after these.
    func fail(_ call: Call, _ next: Fault...) { faults.withLock { $0[call] = next } }

    /// So many calls of a kind are well, and the next one is not.
    func fail(_ call: Call, behind count: Int) { faults.withLock { $0[call] = Array(repeating: .none, count: count) + [.before] } }

    private func fault(_ call: Call) -> Fault {
        faults.withLock { faults in
            guard let next = faults[call]?.first else { return .none }
            faults[call]?.removeFirst()
            return next
        }
    }

    func write(at offset: UInt64, _ parts: inout Gather) throws(Failure) {
        switch fault(.write) {
        case .none: return try below.write(at: offset, &parts)
        case .before: break
        case .full: throw Self.noRoom
        case .after: try below.write(at: offset, &parts)
        case .short(let count):
            let some = [UInt8](count: min(count, parts.byteCount)) { _ = parts.take(into: &$0) }
            try below.write(at: offset, some.rawBytes)
        }
        throw Self.failure
    }

    func read(at offset: UInt64, into buffer: inout MutableRawSpan) throws(Failure) -> Int {
        if fault(.read) != .none { throw Self.failure }
        return try below.read(at: offset, into: &buffer)
    }

    func synchronize() throws(Failure) {
        let fault = fault(.synchronize)
        if fault != .before { try below.synchronize() }
        if fault != .none { throw Self.failure }
    }

    func byteCount() throws(Failure) -> UInt64 { try below.byteCount() }
    var memory: JournalMemory { below.memory }
    func allocate(_ range: Range<UInt64>) -> UInt64 { below.allocate(range) }
    func giveBack(_ range: Range<UInt64>) throws(Failure) { try below.giveBack(range) }
    func reset(to count: UInt64) throws(Failure) {
        if fault(.reset) != .none { throw Self.noRoom }
        try below.reset(to: count)
    }

    func unlock() throws(Failure) { try below.unlock() }
}
