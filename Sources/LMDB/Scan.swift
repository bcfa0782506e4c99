public import System

/// The records of a table in the order of their keys. The pages that will be looked at are asked for some records ahead, and no others. So a
/// walk reads each of them once, however little memory there is and however much the disk reads ahead.
@safe
public struct Scan: ~Copyable, ~Escapable {
    private var here: Cursor
    private var ahead: Cursor
    private let expected: Int
    private let start: UInt64
    private var hasBegun = false
    private var isAheadAtEnd = false
    /// By how many records `ahead` is in front of `here`.
    private var lead = 0
    private static var distance: Int { 32 }

    /// - Parameters:
    ///   - expected: how many of a value's bytes, from its first, will be looked at.
    ///   - start: the least key.
    @_lifetime(copy view)
    public init(_ view: View, _ table: Environment.Table, expecting expected: Int, from start: UInt64 = 0) throws(Failure) {
        let here = try view.cursor(table)
        let ahead = try view.cursor(table)
        self.here = here
        self.ahead = ahead
        self.expected = expected
        self.start = start
    }

    /// To the next record; to the first in the beginning. False: there is none.
    @_lifetime(self: copy self)
    public mutating func next() throws(Failure) -> Bool {
        let isFirst = !hasBegun
        hasBegun = true
        while !isAheadAtEnd, lead < Self.distance {
            guard try isFirst && lead == 0 ? ahead.seek(atOrAfter: start) : ahead.next() else {
                isAheadAtEnd = true
                break
            }
            ahead.value.expect(limit: expected)
            lead += 1
        }
        lead -= 1
        return try isFirst ? here.seek(atOrAfter: start) : here.next()
    }

    /// The key here; valid after a move that returned true. Nil when it is not 8 bytes long.
    public var integerKey: UInt64? { here.integerKey }
    /// The value here; valid after a move that returned true.
    public var value: RawSpan {
        @_lifetime(copy self) get { here.value }
    }
}
