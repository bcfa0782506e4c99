internal import System

/// Where the bytes of one disk's journal lie, for whoever holds the disk's lock: a ring's, counted from 0. What was never written is zeros.
///
/// A call that fails may be tried again; its error says nothing of what is there, unless it is `.damage`. No part of a failed call's work is done
/// after it has returned: not behind that of a later call, nor once another process has the disk's lock. Writes come one at a time, from whoever
/// has the turn; any thread may make the other calls meanwhile.
///
/// It keeps no pointer to where the ring begins: that is in the disk's record, which the commit changes that takes records in.
///
/// The calls are those of a request, not of a block: `write` is one for up to 32 records, and blocks are read back out of `memory`.
protocol JournalStorage: AnyObject, Sendable {
    /// Bytes up to the end of what may have been written, by whoever had it before, too.
    func byteCount() throws(Failure) -> UInt64

    /// The ring as memory, which stays in its place as long as this object is: it has the bytes that were written or read through this object, and not
    /// been given back. A storage far away keeps a copy of them.
    var memory: JournalMemory { get }

    /// Writes all parts, one behind the other. They survive this process when it returns.
    /// - Parameter parts: empty when it returns. When it throws, those that are left were not written; the others may have been.
    func write(at offset: UInt64, _ parts: inout Gather) throws(Failure)

    /// Reads until `buffer` is full, or the end is there.
    /// - Returns: bytes that were read.
    func read(at offset: UInt64, into buffer: inout MutableRawSpan) throws(Failure) -> Int

    /// What was written before survives the loss of power, or of the machine, when it returns. Once it has failed, no later one is believed.
    func synchronize() throws(Failure)

    /// Makes room for what will be written to a range, whose bytes nobody needs, where that makes `synchronize` cheaper.
    /// - Returns: how far there is room now; the range's start where there is none.
    func allocate(_ range: Range<UInt64>) -> UInt64

    /// Nobody needs what is in a range: its room may be given back. It stays, or is zeros.
    func giveBack(_ range: Range<UInt64>) throws(Failure)

    /// All that was written is gone, and there are `count` bytes.
    func reset(to count: UInt64) throws(Failure)

    /// Lets go of the disk's lock, which belongs to this object: nothing more is written.
    func unlock() throws(Failure)
}

extension JournalStorage {
    func write(at offset: UInt64, _ bytes: RawSpan) throws(Failure) {
        var parts = Gather(capacity: 1)
        unsafe parts.append(bytes)
        try write(at: offset, &parts)
    }
}

/// The bytes of a journal's ring in memory. Who made this has promised that they stay where they are as long as the storage that gave it out.
@safe
struct JournalMemory: @unchecked Sendable {
    private let start: UnsafeRawPointer
    let byteCount: Int

    @unsafe init(_ start: UnsafeRawPointer, byteCount: Int) {
        unsafe self.start = start
        self.byteCount = byteCount
    }

    /// Where `count` bytes at `offset` are.
    @inline(__always)
    @unsafe func address(at offset: Int, count: Int) -> UnsafeRawPointer {
        precondition(offset >= 0 && count >= 0 && offset <= byteCount - count, "outside a journal")
        return unsafe start + offset
    }

    /// `count` bytes at `offset`.
    @inline(__always)
    @_lifetime(borrow self)
    func bytes(at offset: Int, count: Int) -> RawSpan {
        let span = unsafe RawSpan(_unsafeStart: address(at: offset, count: count), byteCount: count)
        return unsafe _overrideLifetime(span, borrowing: self)
    }
}
