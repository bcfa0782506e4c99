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

    /// Dead blobs are more, of which nobody referred to any before.
    mutating func add(_ change: DeadChange) {
        dead &+= UInt64(bitPattern: change.blobs)
        deadBytes &+= UInt64(bitPattern: change.bytes)
    }

    /// Blobs came to life or died.
    mutating func turn(_ change: DeadChange) {
        live &-= UInt64(bitPattern: change.blobs)
        add(change)
    }

    public static func + (a: BlobTotals, b: BlobTotals) -> BlobTotals {
        BlobTotals(live: a.live &+ b.live, dead: a.dead &+ b.dead, deadBytes: a.deadBytes &+ b.deadBytes)
    }
}
