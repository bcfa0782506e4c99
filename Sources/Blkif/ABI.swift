/// How a frontend lays out the slots of its ring, as it says in its `protocol` node (xen/io/protocols.h).
/// The ABIs differ in the alignment of 64-bit fields only. Numbers are offsets in a slot, in bytes:
///
///                  x86_64, arm   x86_32
///     slot         112           108       bytes from one slot to the next: the larger of request and response
///     read, write  operation 0, segment count 1, handle 2, id 8, sector 16, segments 24
///                  operation 0, segment count 1, handle 2, id 4, sector 12, segments 20       (x86_32)
///     indirect     operation 0, inner operation 1, segment count 2, id 8, sector 16, handle 24, pages 28
///                  operation 0, inner operation 1, segment count 2, id 4, sector 12, handle 20, pages 24
///     discard      operation 0, flag 1, handle 2, id 8, sector 16, sector count 24
///                  operation 0, flag 1, handle 2, id 4, sector 12, sector count 20
///     response     id 0, operation 8, status 10; 16 bytes
///                  id 0, operation 8, status 10; 12 bytes
public enum ABI: Sendable, CaseIterable {
    case x86_64
    case x86_32
    /// 32-bit and 64-bit ARM.
    case arm

    /// The ABI of the machine that this was compiled for.
    public static var native: ABI {
        #if arch(x86_64)
            .x86_64
        #elseif arch(i386)
            .x86_32
        #else
            .arm
        #endif
    }

    /// The ABI that a `protocol` node names; nil: none of these. What it means that there is no node is for the caller to decide: to
    /// other backends it means x86_32.
    public init?(protocolName: String) {
        guard let abi = Self.allCases.first(where: { $0.protocolName == protocolName }) else { return nil }
        self = abi
    }

    /// The same of a node's bytes.
    public init?(protocolName: [UInt8]) {
        guard let abi = Self.allCases.first(where: { protocolName.elementsEqual($0.protocolName.utf8) }) else { return nil }
        self = abi
    }

    /// The `protocol` node's value.
    public var protocolName: String {
        switch self {
        case .x86_64: "x86_64-abi"
        case .x86_32: "x86_32-abi"
        case .arm: "arm-abi"
        }
    }

    /// Bytes from one slot to the next.
    public var slotByteCount: Int { self == .x86_32 ? 108 : 112 }
    /// Bytes of a response, at the start of its slot.
    public var responseByteCount: Int { self == .x86_32 ? 12 : 16 }

    /// Where a request's 64-bit fields start; the rest follows from it.
    var idOffset: Int { self == .x86_32 ? 4 : 8 }
    var sectorOffset: Int { idOffset + 8 }
    /// Segments, or the number of sectors to discard, or the handle of an indirect request.
    var payloadOffset: Int { idOffset + 16 }
}
