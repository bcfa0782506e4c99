internal import System

/// A journal in a file of this machine: the page cache keeps what a process wrote that died, and fdatasync(2) what was in it when
/// the power went. The disk's lock is a lock on the file.
final class FileJournalStorage: JournalStorage {
    private let file: File
    /// What was written is read from here, and never what was not.
    private let mapping: FileMapping

    /// - Parameter byteCount: bytes of the ring that it is for.
    init(_ file: consuming File, byteCount: UInt64) throws(Failure) {
        // What an interrupted writer left may be longer.
        mapping = try file.map(byteCount: Int(max(byteCount, file.size())))
        self.file = file
    }

    func byteCount() throws(Failure) -> UInt64 { try file.size() }

    var memory: JournalMemory {
        unsafe JournalMemory(mapping.address(at: 0, count: mapping.byteCount), byteCount: mapping.byteCount)
    }

    func write(at offset: UInt64, _ parts: inout Gather) throws(Failure) { try file.write(at: offset, &parts) }

    func read(at offset: UInt64, into buffer: inout MutableRawSpan) throws(Failure) -> Int { try file.read(at: offset, into: &buffer) }

    func synchronize() throws(Failure) { try file.synchronizeData() }

    /// Fills the range with zeros: what lies where the file has blocks already costs a flush less than what gives it some. A
    /// filesystem without room leaves it at that.
    ///
    /// A page at a time: pages that are cached one by one stay so, while a long write would be cached in large folios, all of
    /// which the kernel goes through for a flush of a few of their pages.
    func allocate(_ range: Range<UInt64>) -> UInt64 {
        let page = [UInt8](repeating: 0, count: 4096)
        var end = range.lowerBound
        while end < range.upperBound {
            let count = min(UInt64(page.count), range.upperBound - end)
            // A record finds out by itself what is wrong, and whoever writes it is told.
            guard (try? file.write(at: end, page.rawBytes.extracting(first: Int(count)))) != nil else { break }
            end += count
        }
        return end
    }

    func giveBack(_ range: Range<UInt64>) throws(Failure) { _ = try file.punchHole(at: range.lowerBound, count: UInt64(range.count)) }

    func reset(to count: UInt64) throws(Failure) {
        try file.truncate(to: 0)
        // A hole: what is written within a file costs the filesystem less than what makes it longer.
        if count > 0 { try file.truncate(to: count) }
    }

    func unlock() throws(Failure) { try file.unlock() }
}
