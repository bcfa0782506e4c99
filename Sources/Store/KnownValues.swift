internal import BlockModel
internal import CLinux
internal import Glibc
internal import LMDB

/// Where values of one table lie that were found in one state of an environment, by their keys: while it lasts, they need
/// not be searched and checked again. Each has one place, by its key; others take it. Belongs to one thread at a time.
@safe
final class KnownValues: @unchecked Sendable {
    @safe private struct Entry {
        /// 0: the place is free. Nodes and packs count from 1.
        var key: UInt64
        /// Number of the commit.
        var state: Int
        var start: UnsafeRawPointer?
        /// Bytes.
        var count: UInt32
        var note: UInt32
    }
    private let entries: UnsafeMutableBufferPointer<Entry>

    /// - Parameter capacity: a power of two. What is not used takes address space only.
    init(capacity: Int) throws(Failure) {
        let bytes = capacity * MemoryLayout<Entry>.stride
        let address = unsafe mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let address = unsafe address, unsafe address != MAP_FAILED else { throw Failure(systemCall: "map", "memory", errno: errno) }
        unsafe entries = UnsafeMutableBufferPointer(start: address.bindMemory(to: Entry.self, capacity: capacity), count: capacity)
    }

    deinit { unsafe munmap(entries.baseAddress, entries.count * MemoryLayout<Entry>.stride) }

    private func place(_ key: UInt64) -> Int { unsafe Int(truncatingIfNeeded: key) & (entries.count - 1) }

    /// The value of `key` in `state`, which is the one of `view`. Nil: it is not known.
    @inline(__always)
    @_lifetime(copy view)
    func value(_ key: UInt64, in state: Int, _ view: View) -> KnownValue? {
        let entry = unsafe entries[place(key)]
        guard entry.key == key, entry.state == state, key != 0 else { return nil }
        let bytes = unsafe UnsafeRawBufferPointer(start: entry.start, count: Int(entry.count))
        return unsafe KnownValue(bytes: _overrideLifetime(RawSpan(_unsafeBytes: bytes), copying: view), note: Int(entry.note))
    }

    /// Has the processor fetch what `value` looks at.
    @inline(__always)
    func prefetch(_ key: UInt64) {
        if let start = unsafe entries.baseAddress { unsafe clinux_prefetch(start + place(key)) }
    }

    /// - Parameter note: what its finder wants to know of it again.
    func insert(_ key: UInt64, in state: Int, _ bytes: RawSpan, note: Int = 0) {
        let start = unsafe bytes.withUnsafeBytes { $0.baseAddress }
        unsafe entries[place(key)] = Entry(key: key, state: state, start: start, count: UInt32(bytes.byteCount), note: UInt32(note))
    }
}

struct KnownValue: ~Escapable {
    let bytes: RawSpan
    let note: Int

    @_lifetime(copy bytes)
    init(bytes: RawSpan, note: Int) {
        self.bytes = bytes
        self.note = note
    }
}

extension RawSpan {
    /// Has the processor fetch the lines of `count` bytes from `offset` on, those of them that there are. Nobody waits.
    @inline(__always)
    func prefetch(at offset: Int, count: Int) {
        unsafe withUnsafeBytes { bytes in
            guard let start = bytes.baseAddress else { return }
            var offset = max(0, offset)
            let end = min(bytes.count, offset + count)
            while offset < end {
                unsafe clinux_prefetch(start + offset)
                offset += 64
            }
            if end > 0 { unsafe clinux_prefetch(start + end - 1) }
        }
    }
}
