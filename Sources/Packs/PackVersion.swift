public import System

/// The name of one content of a pack: version 0 is what was sealed, and each time that the pack is written anew it gets another version. A name means
/// one content for ever, and is never used again.
public struct PackVersion: Hashable, Comparable, Sendable {
    public let number: UInt64
    public let version: UInt32

    public init(_ number: UInt64, _ version: UInt32) {
        self.number = number
        self.version = version
    }

    /// How many versions a pack can have: of a key, numbers have 40 bits and versions the rest.
    static let most: UInt32 = 1 << 24
    /// All numbers are less than this.
    static let mostPacks: UInt64 = 1 << 40

    /// Number and version in one word, which sorts as they do.
    var key: UInt64 { number << 24 | UInt64(version) }

    init(key: UInt64) { self.init(key >> 24, UInt32(key & 0xff_ffff)) }

    public static func < (a: PackVersion, b: PackVersion) -> Bool { a.key < b.key }
}

/// How far a pack's versions are. The current version is the one that is read. A version becomes current once at most: one that is not current, and
/// comes before `next`, is over, and will never be read again.
public struct VersionState: Equatable, Sendable {
    /// Nil: the pack is gone, and so are all its versions.
    public var current: UInt32?
    /// No version before this one becomes current any more.
    public var next: UInt32

    public init(current: UInt32?, next: UInt32) {
        self.current = current
        self.next = next
    }

    /// Of a pack that was never written anew.
    public static let sealed = VersionState(current: 0, next: 1)

    /// Whether a version may still become current.
    public func mayBecomeCurrent(_ version: UInt32) -> Bool { current != nil && version >= next }

    /// Whether a version will never be read again: it may be removed.
    public func isOver(_ version: UInt32) -> Bool { current == nil || version != current && version < next }
}

/// Says which version of each pack is the current one: whoever refers to packs knows. Belongs to one thread.
public protocol VersionSource: AnyObject {
    /// How far a pack's versions are. Whatever is asked until `reset` is of one moment.
    func state(of pack: UInt64) throws(Failure) -> VersionState
    /// What is asked next is of the moment at which it is asked.
    func reset()
}
