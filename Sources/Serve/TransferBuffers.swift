import Glibc
import System

/// What has come in from a socket and was not consumed yet.
@safe struct InputBuffer: ~Copyable {
    private let base: UnsafeMutableRawPointer
    private let capacity: Int
    private var start = 0
    private var end = 0
    /// Bytes of memory, from its beginning, into which something has ever come: what is behind them is not initialised.
    private var filled = 0
    private var spin = SpinWait(.here)

    init(capacity: Int) {
        self.capacity = capacity
        unsafe base = .allocate(byteCount: capacity, alignment: 4096)
    }

    deinit { unsafe base.deallocate() }

    var count: Int { end - start }

    var bytes: RawSpan {
        // The memory lives as long as this, and nothing changes it while it is borrowed.
        @_lifetime(borrow self) borrowing get {
            let span = unsafe RawSpan(_unsafeStart: base + start, byteCount: end - start)
            return unsafe _overrideLifetime(span, borrowing: self)
        }
    }

    /// Where `bytes` begin in `memory`.
    var position: Int { start }

    /// All that has come in, also what was consumed: that stays where it is until the next `receive`.
    var memory: RawSpan {
        // As in `bytes`.
        @_lifetime(borrow self) borrowing get {
            let span = unsafe RawSpan(_unsafeStart: base, byteCount: filled)
            return unsafe _overrideLifetime(span, borrowing: self)
        }
    }

    mutating func consume(_ count: Int) {
        precondition(count <= end - start, "more than there is")
        start += count
        if start == end {
            start = 0
            end = 0
        }
    }

    /// Takes what the socket has, until there are `needed` bytes, no more than fit. False: they will never come, or did not by `deadline`.
    mutating func receive(_ needed: Int, from socket: Socket, deadline: ContinuousClock.Instant? = nil) -> Bool {
        precondition(needed <= capacity, "more than can be")
        if start > 0, capacity - start < needed || end - start < cheapToMove { moveToFront() }
        while count < needed {
            // Large data is taken by itself, so that what follows it need not be moved.
            let missing = needed - count
            let room = missing >= largePayload ? missing : capacity - end
            var free = unsafe MutableRawSpan(_unsafeStart: base + end, byteCount: room)
            let received = socket.receive(into: &free, &spin, deadline: deadline)
            guard received > 0 else { return false }
            end += received
            filled = max(filled, end)
        }
        return true
    }

    private mutating func moveToFront() {
        unsafe memmove(base, base + start, end - start)
        end -= start
        start = 0
    }
}

/// What is to go out by a socket.
@safe struct OutputBuffer: ~Copyable {
    private let base: UnsafeMutableRawPointer
    private let capacity: Int
    private(set) var count = 0

    init(capacity: Int) {
        self.capacity = capacity
        unsafe base = .allocate(byteCount: capacity, alignment: 4096)
    }

    deinit { unsafe base.deallocate() }

    var room: Int { capacity - count }

    var bytes: RawSpan {
        // As in `InputBuffer`.
        @_lifetime(borrow self) borrowing get {
            let span = unsafe RawSpan(_unsafeStart: base, byteCount: count)
            return unsafe _overrideLifetime(span, borrowing: self)
        }
    }

    /// Appends `byteCount` bytes, which `fill` writes; nothing when it throws.
    @inline(__always)
    mutating func append<Problem: Error>(_ byteCount: Int, _ fill: (inout MutableRawSpan) throws(Problem) -> Void) throws(Problem) {
        precondition(byteCount <= capacity - count, "more than there is room for")
        var bytes = unsafe MutableRawSpan(_unsafeStart: base + count, byteCount: byteCount)
        try fill(&bytes)
        count += byteCount
    }

    mutating func removeAll() { count = 0 }
}

/// Fewer unconsumed bytes than this are moved to the beginning, so that more can be received at once.
private let cheapToMove = 4096
/// When so many bytes are missing, they are received by themselves.
private let largePayload = 64 << 10
