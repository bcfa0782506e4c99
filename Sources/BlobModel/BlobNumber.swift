/// Where a blob is: a pack and a slot in it. 0 is no blob: packs count from 1.
///
///     63        48 47                 16 15          0
///     ┌───────────┬─────────────────────┬────────────┐
///     │     0     │        pack         │    slot    │
///     └───────────┴─────────────────────┴────────────┘
public struct BlobNumber: RawRepresentable, Hashable, Comparable, Sendable, CustomStringConvertible {
    public let rawValue: UInt64
    @inlinable
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable
    public init(pack: UInt64, slot: Int) { rawValue = pack << 16 | UInt64(slot) }

    @inlinable
    public static var none: BlobNumber { BlobNumber(rawValue: 0) }
    @inlinable
    public var pack: UInt64 { rawValue >> 16 }
    @inlinable
    public var slot: Int { Int(rawValue & 0xffff) }

    @inlinable
    public static func < (a: BlobNumber, b: BlobNumber) -> Bool { a.rawValue < b.rawValue }
    public var description: String { "\(pack)/\(slot)" }
}

/// A place in the order in which blobs are stored: before the slot that `pack` and `slots` name.
public struct PackPlace: Equatable, Comparable, Sendable {
    public var pack, slots: UInt64
    public init(pack: UInt64, slots: UInt64) {
        self.pack = pack
        self.slots = slots
    }
    public static let start = PackPlace(pack: 0, slots: 0)
    @inlinable
    public static func < (a: PackPlace, b: PackPlace) -> Bool { a.pack != b.pack ? a.pack < b.pack : a.slots < b.slots }
    /// Whether the blob is stored before this place.
    @inlinable
    public func isBehind(_ blob: BlobNumber) -> Bool { blob.pack != pack ? blob.pack < pack : UInt64(blob.slot) < slots }
}
