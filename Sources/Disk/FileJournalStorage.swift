internal import System

/// A journal in a file of this machine: what was written survives the death of the process in the page cache, and the loss of power once
/// fdatasync(2) has returned. The disk's lock is a lock on the file.
final class FileJournalStorage: JournalStorage {
    private let file: File
    /// Staged blocks are read from here. Nothing is read that was never written, as that could lie behind the file's end.
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

    /// Fills the range with zeros: to flush what was written over blocks that the file has costs less than to flush what gave it new blocks. Where
    /// the filesystem has no room, it stops.
    ///
    /// A page at a time: pages that are cached one by one stay so, while a long write would be cached in large folios, all of
    /// which the kernel goes through for a flush of a few of their pages.
    func allocate(_ range: Range<UInt64>) -> UInt64 {
        let page = [UInt8](repeating: 0, count: 4096)
        var end = range.lowerBound
        while end < range.upperBound {
            let count = min(UInt64(page.count), range.upperBound - end)
            // Whatever is wrong is told when a record is written there.
            guard (try? file.write(at: end, page.rawBytes.extracting(first: Int(count)))) != nil else { break }
            end += count
        }
        return end
    }

    func giveBack(_ range: Range<UInt64>) throws(Failure) { _ = try file.punchHole(at: range.lowerBound, count: UInt64(range.count)) }

    func reset(to count: UInt64) throws(Failure) {
        try file.truncate(to: 0)
        // As a hole: writing within a file costs the filesystem less than making it longer.
        if count > 0 { try file.truncate(to: count) }
    }

    func unlock() throws(Failure) { try file.unlock() }
}
