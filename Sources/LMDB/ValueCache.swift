public import CLinux
internal import Glibc
public import System

/// Places of values of one table, by their keys, as they were found in one state of an environment: as long as that is the newest, they need
/// not be searched and checked again. Belongs to one thread at a time.
@safe
public final class ValueCache: @unchecked Sendable {
    /// Valid as long as this object lives.
    public let places: CachePlaces

    /// - Parameter capacity: a power of two. What is not used takes address space only.
    public init(capacity: Int) throws(Failure) {
        let bytes = capacity * MemoryLayout<CachePlaces.Entry>.stride
        let address = unsafe mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let address = unsafe address, unsafe address != MAP_FAILED else { throw Failure(systemCall: "map", "memory", errno: errno) }
        places = unsafe CachePlaces(
            UnsafeMutableBufferPointer(start: address.bindMemory(to: CachePlaces.Entry.self, capacity: capacity), count: capacity))
    }

    deinit { unsafe munmap(places.entries.baseAddress, places.entries.count * MemoryLayout<CachePlaces.Entry>.stride) }
}

/// The places of a `ValueCache`, which outlives this. It is a value without a counted reference, as one is made for every read. Each key has one
/// place, which other keys may take.
@safe
public struct CachePlaces {
    @usableFromInline @safe struct Entry {
        /// 0: the place is free. Keys count from 1.
        @usableFromInline var key: UInt64
        /// Number of the commit.
        @usableFromInline var state: Int
        @usableFromInline var start: UnsafeRawPointer?
        /// Bytes.
        @usableFromInline var count: UInt32
        @usableFromInline var note: UInt32

        @usableFromInline
        init(key: UInt64, state: Int, start: UnsafeRawPointer?, count: UInt32, note: UInt32) {
            self.key = key
            self.state = state
            unsafe self.start = start
            self.count = count
            self.note = note
        }
    }
    @usableFromInline let entries: UnsafeMutableBufferPointer<Entry>

    init(_ entries: UnsafeMutableBufferPointer<Entry>) { unsafe self.entries = unsafe entries }

    @inlinable @inline(__always)
    func place(_ key: UInt64) -> Int { unsafe Int(truncatingIfNeeded: key) & (entries.count - 1) }

    /// The value of `key` in `state`, which is the one that `view` shows. Nil: it is not known.
    @inlinable @inline(__always)
    @_lifetime(copy view)
    public func value<Shown: ~Escapable>(_ key: UInt64, in state: Int, _ view: Shown) -> RawSpan? {
        guard let found = unsafe find(key, in: state) else { return nil }
        return unsafe _overrideLifetime(RawSpan(_unsafeBytes: found.bytes), copying: view)
    }

    /// Where the value of `key` is in `state`; it is there as long as somebody sees that state.
    @inlinable @inline(__always)
    @unsafe public func find(_ key: UInt64, in state: Int) -> (bytes: UnsafeRawBufferPointer, note: Int)? {
        let entry = unsafe entries[place(key)]
        guard entry.key == key, entry.state == state, key != 0 else { return nil }
        return unsafe (UnsafeRawBufferPointer(start: entry.start, count: Int(entry.count)), Int(entry.note))
    }

    /// Has the processor fetch what `value` looks at.
    @inlinable @inline(__always)
    public func prefetch(_ key: UInt64) {
        if let start = unsafe entries.baseAddress { unsafe clinux_prefetch(start + place(key)) }
    }

    /// - Parameter note: what its finder wants to know of it again.
    @inlinable
    public func insert(_ key: UInt64, in state: Int, _ bytes: RawSpan, note: Int = 0) {
        unsafe insert(key, in: state, bytes.withUnsafeBytes { unsafe $0 }, note: note)
    }

    @inlinable
    @unsafe public func insert(_ key: UInt64, in state: Int, _ bytes: UnsafeRawBufferPointer, note: Int = 0) {
        unsafe entries[place(key)] = Entry(key: key, state: state, start: bytes.baseAddress, count: UInt32(bytes.count), note: UInt32(note))
    }
}
