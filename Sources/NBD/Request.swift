public import BlockModel
internal import System

/// A request's header: 28 bytes, which the data follows when it is a write.
///
///     0 magic 32   4 flags 16   6 command 16   8 cookie 64   16 offset 64   24 length 32
///
/// Nothing of it is checked before `check`.
public struct Request: Sendable {
    public static let byteCount = 28

    public let flags: CommandFlags
    public let rawCommand: UInt16
    /// The client's name for the request, given back with the reply.
    public let cookie: UInt64
    /// Where on the disk it begins, in bytes.
    public let offset: UInt64
    /// Bytes that it is about.
    public let length: UInt32

    public init(flags: CommandFlags, rawCommand: UInt16, cookie: UInt64, offset: UInt64, length: UInt32) {
        self.flags = flags
        self.rawCommand = rawCommand
        self.cookie = cookie
        self.offset = offset
        self.length = length
    }

    /// The request at the start of `bytes`, which has 28 bytes or more. Nil: there is none.
    public init?(_ bytes: RawSpan) {
        guard bytes.big(at: 0) == Magic.request else { return nil }
        self.init(
            flags: CommandFlags(rawValue: bytes.big(at: 4)), rawCommand: bytes.big(at: 6), cookie: bytes.big(at: 8),
            offset: bytes.big(at: 16), length: bytes.big(at: 24))
    }

    /// Writes it, as a client does.
    public func encode(into bytes: inout MutableRawSpan, at offset: Int = 0) {
        bytes.store(Magic.request.bigEndian, at: offset)
        bytes.store(flags.rawValue.bigEndian, at: offset + 4)
        bytes.store(rawCommand.bigEndian, at: offset + 6)
        bytes.store(cookie.bigEndian, at: offset + 8)
        bytes.store(self.offset.bigEndian, at: offset + 16)
        bytes.store(length.bigEndian, at: offset + 24)
    }

    /// What it asks for; nil: nothing known.
    public var command: Command? { Command(rawValue: rawCommand) }

    /// Bytes of data that follow the header, whatever becomes of the request.
    public var payloadByteCount: Int { command == .write ? Int(length) : 0 }

    /// Checks the request against the disk and what the handshake has agreed on.
    /// - Returns: the sectors that it is about; nil for `flush` and `disconnect`.
    /// - Throws: what a request is answered with that can't be done.
    public func check(_ export: Export, _ session: Session) throws(ErrorCode) -> SectorRange? {
        guard let command else { throw .invalid }
        guard allowedFlags(command, session).isSuperset(of: flags) else { throw .invalid }
        switch command {
        case .disconnect, .flush: return nil
        case .read: guard length <= maximumTransfer else { throw .invalid }
        case .write, .trim, .writeZeroes:
            guard !export.isReadOnly else { throw .notPermitted }
            guard command != .write || length <= maximumTransfer else { throw .invalid }
        case .blockStatus: guard session.hasAllocation, length > 0 else { throw .invalid }
        }
        let sector = UInt64(minimumTransfer)
        guard offset % sector == 0, UInt64(length) % sector == 0 else { throw .invalid }
        guard let range = SectorRange(start: offset / sector, count: UInt64(length) / sector),
            range.fits(in: export.byteCount / sector)
        else { throw command == .write || command == .writeZeroes ? .noSpace : .invalid }
        return range
    }

    private func allowedFlags(_ command: Command, _ session: Session) -> CommandFlags {
        // The protocol has servers accept FUA with every command.
        switch command {
        case .read: session.isStructured ? [.fua, .df] : .fua
        case .writeZeroes: [.fua, .noHole, .fastZero]
        case .blockStatus: [.fua, .reqOne]
        case .write, .trim, .flush, .disconnect: .fua
        }
    }
}
