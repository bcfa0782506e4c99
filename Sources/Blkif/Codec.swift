import System

extension Request {
    /// Decodes `slot`, the private copy of a slot of `abi`.
    init(_ slot: RawSpan, abi: ABI) {
        rawOperation = slot.load(at: 0)
        id = slot.load(at: abi.idOffset)
        sector = slot.load(at: abi.sectorOffset)
        let payload = abi.payloadOffset
        switch operation {
        case .indirect:
            rawInnerOperation = slot.load(at: 1)
            indirectSegmentCount = slot.load(at: 2)
            handle = slot.load(at: payload)
            for i in indirectGrefs.indices { indirectGrefs[i] = slot.load(at: payload + 4 + i * 4) }
        case .discard:
            discardFlag = slot.load(at: 1)
            handle = slot.load(at: 2)
            discardSectorCount = slot.load(at: payload)
        case .read, .write, .barrier, .flush, nil:
            segmentCount = slot.load(at: 1)
            handle = slot.load(at: 2)
            for i in segments.indices { segments[i] = Segment(slot, at: payload + i * Segment.byteCount) }
        }
    }

    /// Encodes into `slot`, which is all zeros, as padding stays.
    func store(into slot: inout MutableRawSpan, abi: ABI) {
        slot.store(rawOperation, at: 0)
        slot.store(id, at: abi.idOffset)
        slot.store(sector, at: abi.sectorOffset)
        let payload = abi.payloadOffset
        switch operation {
        case .indirect:
            slot.store(rawInnerOperation, at: 1)
            slot.store(indirectSegmentCount, at: 2)
            slot.store(handle, at: payload)
            for i in indirectGrefs.indices { slot.store(indirectGrefs[i], at: payload + 4 + i * 4) }
        case .discard:
            slot.store(discardFlag, at: 1)
            slot.store(handle, at: 2)
            slot.store(discardSectorCount, at: payload)
        case .read, .write, .barrier, .flush, nil:
            slot.store(segmentCount, at: 1)
            slot.store(handle, at: 2)
            for i in segments.indices { segments[i].store(into: &slot, at: payload + i * Segment.byteCount) }
        }
    }
}

/// A private copy of a response's slot.
public struct Response: Equatable, Sendable, BitwiseCopyable {
    /// The request's.
    public var id: UInt64
    /// The request's `responseOperation`.
    public var rawOperation: UInt8
    /// `Status`, or a value that is none.
    public var rawStatus: Int16

    public init(id: UInt64, rawOperation: UInt8, rawStatus: Int16) {
        self.id = id
        self.rawOperation = rawOperation
        self.rawStatus = rawStatus
    }

    public var status: Status? { Status(rawValue: rawStatus) }

    /// Decodes the private copy of a slot; the same for every ABI.
    init(_ slot: RawSpan) {
        self.init(id: slot.load(at: 0), rawOperation: slot.load(at: 8), rawStatus: slot.load(at: 10))
    }

    /// Room for a response of any ABI.
    typealias Bytes = InlineArray<16, UInt8>

    /// Encodes into `slot`, which is all zeros, as padding stays: the other domain must not see what was on the
    /// stack (XSA-216).
    func store(into slot: inout MutableRawSpan) {
        slot.store(id, at: 0)
        slot.store(rawOperation, at: 8)
        slot.store(rawStatus, at: 10)
    }
}
