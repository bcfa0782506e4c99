internal import BlockModel
internal import Synchronization
internal import System

/// A mapping of a file that is lent to system calls, so that they take data straight from the page cache.
/// Only what is in memory is lent: the rest is better read, with the system's read-ahead.
///
/// A mapping keeps tables of all pages that it was used for, 4 KiB of them for each 2 MiB of the file, even when the pages
/// are gone. So it is made anew after some loans, which bounds them; whoever has a loan keeps the mapping that it is from.
final class FileWindow: Sendable {
    private let state = Mutex(State())

    private struct State {
        /// Nil where the file can't be mapped, and at first.
        var mapping: Mapping?
        var loansLeft = 0
    }

    private final class Mapping: Sendable {
        let memory: FileMapping
        init(_ memory: consuming FileMapping) { self.memory = memory }
    }

    /// Loans of a mapping: its tables take 8 MiB at most then.
    private static let loansOfMapping = 1024
    /// Bytes of a loan. Fewer are copied in the time that it takes to look whether they are in memory; a ring asks for no more.
    private static let loan = 16 << 10...1 << 20

    /// The memory of `count` bytes at `offset`; nil when they are better read.
    /// - Parameter size: bytes of the file.
    func lend(_ file: borrowing File, at offset: UInt64, count: Int, size: UInt64) -> LentMemory? {
        guard Self.loan.contains(count), let start = Int(exactly: offset), let size = Int(exactly: size), start <= size - count
        else { return nil }
        let mapping = state.withLock { state -> Mapping? in
            if state.loansLeft == 0 {
                state.mapping = nil
                // What can't be mapped is not lent, and read by calls.
                state.mapping = try? Mapping(file.map(byteCount: size))
                state.loansLeft = Self.loansOfMapping
            }
            state.loansLeft -= 1
            return state.mapping
        }
        // The file may have grown since.
        guard let mapping, start <= mapping.memory.byteCount - count, mapping.memory.isResident(at: start, count: count) else { return nil }
        return unsafe LentMemory(mapping.memory.address(at: start, count: count), of: mapping)
    }
}
