public import System

/// A content of a pack, by its name: what was sealed is version 0, and each time that a pack is written anew makes another. A name means one
/// content for ever, and is never used again.
public struct PackVersion: Hashable, Comparable, Sendable {
    public let number: UInt64
    public let version: UInt32

    public init(_ number: UInt64, _ version: UInt32) {
        self.number = number
        self.version = version
    }

    /// Versions of a pack: numbers have 40 bits, versions the rest of a key.
    static let most: UInt32 = 1 << 24
    /// What all numbers are less than.
    static let mostPacks: UInt64 = 1 << 40

    /// Number and version in one word, which sorts as they do.
    var key: UInt64 { number << 24 | UInt64(version) }

    init(key: UInt64) { self.init(key >> 24, UInt32(key & 0xff_ffff)) }

    public static func < (a: PackVersion, b: PackVersion) -> Bool { a.key < b.key }
}

/// How far a pack's versions are. A version becomes the current one, the one that is looked at, once: all that are not, and come before
/// `next`, are nobody's for good.
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

    /// Whether nobody looks at a version, nor ever will again: it may be removed.
    public func isOver(_ version: UInt32) -> Bool { current == nil || version != current && version < next }
}

/// Says which version of each pack is the current one: whoever refers to packs knows. Belongs to one thread.
public protocol VersionSource: AnyObject {
    /// How far a pack's versions are. Whatever is asked until `reset` is of one moment.
    func state(of pack: UInt64) throws(Failure) -> VersionState
    /// What is asked next is of the moment at which it is asked.
    func reset()
}
