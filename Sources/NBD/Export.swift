/// The disk as clients see it.
public struct Export: Sendable {
    /// The name that clients ask for; the empty name means this one, too.
    public let name: String
    /// Size of the disk in bytes, a multiple of 512.
    public let byteCount: UInt64
    public let isReadOnly: Bool

    public init(name: String, byteCount: UInt64, isReadOnly: Bool) {
        self.name = name
        self.byteCount = byteCount
        self.isReadOnly = isReadOnly
    }

    /// What is offered to a client.
    /// - Parameter isStructured: it takes structured replies.
    public func flags(isStructured: Bool) -> TransmissionFlags {
        // All connections share one disk and its caches: a flush on one is a flush on all.
        var flags: TransmissionFlags = [.hasFlags, .sendFlush, .sendFUA, .canMultiConn]
        if isReadOnly { flags.insert(.readOnly) } else { flags.formUnion([.sendTrim, .sendWriteZeroes, .sendFastZero]) }
        if isStructured { flags.insert(.sendDF) }
        return flags
    }
}

/// What a handshake has agreed on.
public struct Session: Sendable, Equatable {
    /// Reads are answered in chunks, which can tell of an error behind data.
    public var isStructured = false
    /// `base:allocation` was chosen: the client may ask where the disk has holes.
    public var hasAllocation = false
    public init(isStructured: Bool = false, hasAllocation: Bool = false) {
        self.isStructured = isStructured
        self.hasAllocation = hasAllocation
    }
}
