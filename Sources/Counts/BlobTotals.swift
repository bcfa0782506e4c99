/// How many blobs there are, and what the dead ones take. Sums that wrap: what one adds another may have taken before.
public struct BlobTotals: Equatable, Sendable {
    public var live: UInt64
    public var dead: UInt64
    /// As stored.
    public var deadBytes: UInt64

    public init(live: UInt64 = 0, dead: UInt64 = 0, deadBytes: UInt64 = 0) {
        self.live = live
        self.dead = dead
        self.deadBytes = deadBytes
    }

    /// A blob of `bytes` stored bytes has another count.
    mutating func count(from old: UInt32, to new: UInt32, bytes: Int) {
        if old == 0, new > 0 {
            live &+= 1
            dead &-= 1
            deadBytes &-= UInt64(bytes)
        } else if old > 0, new == 0 {
            live &-= 1
            dead &+= 1
            deadBytes &+= UInt64(bytes)
        }
    }

    public static func + (a: BlobTotals, b: BlobTotals) -> BlobTotals {
        BlobTotals(live: a.live &+ b.live, dead: a.dead &+ b.dead, deadBytes: a.deadBytes &+ b.deadBytes)
    }
}
