/// Bytes that somebody lends: who made this has promised that they stay, unchanged, for as long as it is used.
@safe
public struct LentBytes {
    private let start: UnsafeRawPointer
    public let count: Int

    @unsafe public init(_ start: UnsafeRawPointer, count: Int) {
        unsafe self.start = start
        self.count = count
    }

    /// Nil when `span` is empty.
    @unsafe public init?(_ span: RawSpan) {
        guard let start = unsafe span.withUnsafeBytes({ $0.baseAddress }) else { return nil }
        unsafe self.init(start, count: span.byteCount)
    }

    @unsafe public var address: UnsafeRawPointer { unsafe start }

    public var bytes: RawSpan {
        @_lifetime(borrow self) borrowing get { unsafe _overrideLifetime(RawSpan(_unsafeStart: start, byteCount: count), borrowing: self) }
    }
}
