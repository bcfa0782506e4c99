internal import BlockModel
public import System

// Numbers of the protocol, as the Network Block Device project's doc/proto.md has them. All integers on the wire are
// big-endian.

/// What begins each kind of message.
enum Magic {
    static let greeting: UInt64 = 0x4e42_444d_4147_4943
    static let option: UInt64 = 0x4948_4156_454f_5054
    static let optionReply: UInt64 = 0x0003_e889_0455_65a9
    static let request: UInt32 = 0x2560_9513
    static let simpleReply: UInt32 = 0x6744_6698
    static let chunk: UInt32 = 0x668e_33ef
}

/// The server's flags in its greeting, and the client's in its answer: the same two bits.
struct HandshakeFlags: OptionSet {
    let rawValue: UInt32
    static let fixedNewstyle = HandshakeFlags(rawValue: 1 << 0)
    static let noZeroes = HandshakeFlags(rawValue: 1 << 1)
    static let all: HandshakeFlags = [.fixedNewstyle, .noZeroes]
}

/// What a client asks for before it has chosen an export.
enum Option: UInt32 {
    case exportName = 1
    case abort = 2
    case list = 3
    case info = 6
    case go = 7
    case structuredReply = 8
    case listMetaContext = 9
    case setMetaContext = 10
}

/// What an option is answered with.
enum OptionReply: UInt32 {
    case acknowledged = 1
    case server = 2
    case info = 3
    case metaContext = 4
    case unsupported = 0x8000_0001
    case invalid = 0x8000_0003
    case unknown = 0x8000_0006
    case tooBig = 0x8000_0009
}

/// Parts of the answer to `info` and `go`.
enum Information: UInt16 {
    case export = 0
    case name = 1
    case blockSize = 3
}

/// What a client may do with an export (`NBD_FLAG_*`).
public struct TransmissionFlags: OptionSet, Sendable {
    public let rawValue: UInt16
    public init(rawValue: UInt16) { self.rawValue = rawValue }
    public static let hasFlags = TransmissionFlags(rawValue: 1 << 0)
    public static let readOnly = TransmissionFlags(rawValue: 1 << 1)
    public static let sendFlush = TransmissionFlags(rawValue: 1 << 2)
    public static let sendFUA = TransmissionFlags(rawValue: 1 << 3)
    public static let sendTrim = TransmissionFlags(rawValue: 1 << 5)
    public static let sendWriteZeroes = TransmissionFlags(rawValue: 1 << 6)
    public static let sendDF = TransmissionFlags(rawValue: 1 << 7)
    public static let canMultiConn = TransmissionFlags(rawValue: 1 << 8)
    public static let sendFastZero = TransmissionFlags(rawValue: 1 << 11)
}

/// What a request asks for (`NBD_CMD_*`).
public enum Command: UInt16, Sendable {
    case read = 0
    case write = 1
    case disconnect = 2
    case flush = 3
    case trim = 4
    case writeZeroes = 6
    case blockStatus = 7
}

/// How a request is to be done (`NBD_CMD_FLAG_*`).
public struct CommandFlags: OptionSet, Sendable {
    public let rawValue: UInt16
    @inlinable public init(rawValue: UInt16) { self.rawValue = rawValue }
    /// Force unit access: answered once the change survives the loss of power.
    public static let fua = CommandFlags(rawValue: 1 << 0)
    /// Of `writeZeroes`: the zeros are to be stored, and not become a hole.
    public static let noHole = CommandFlags(rawValue: 1 << 1)
    /// Don't fragment: the data of a read is to come in one chunk.
    public static let df = CommandFlags(rawValue: 1 << 2)
    /// Of `blockStatus`: one extent is to be told, no more.
    public static let reqOne = CommandFlags(rawValue: 1 << 3)
    /// Of `writeZeroes`: it is to fail rather than take as long as a write.
    public static let fastZero = CommandFlags(rawValue: 1 << 4)
}

/// Why a request was not done: one of Linux's error numbers that the protocol allows.
public enum ErrorCode: UInt32, Error, Sendable {
    case notPermitted = 1
    case inputOutput = 5
    case invalid = 22
    case noSpace = 28
    case notSupported = 95

    /// What a disk's failure is to a client.
    public init(_ failure: Failure) {
        self =
            switch failure.kind {
            case .invalidRequest: .invalid
            case .noSpace: .noSpace
            default: .inputOutput
            }
    }
}

/// Sizes of transfers, in bytes, that a client is told of: lengths and offsets are multiples of the first, small transfers are best of the second, and none
/// is larger than the third.
public let minimumTransfer = 512
public let preferredTransfer = 4096
public let maximumTransfer = 32 << 20

extension RawSpan {
    @inline(__always)
    func big<Integer: FixedWidthInteger & BitwiseCopyable>(at offset: Int, as type: Integer.Type = Integer.self) -> Integer {
        Integer(bigEndian: load(at: offset))
    }
}

extension [UInt8] {
    mutating func append(big value: some FixedWidthInteger) {
        for shift in stride(from: value.bitWidth - 8, through: 0, by: -8) {
            append(UInt8(truncatingIfNeeded: value >> shift))
        }
    }
}
