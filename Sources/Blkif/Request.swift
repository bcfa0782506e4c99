public import BlockModel
internal import System

/// What a request asks for (`BLKIF_OP_*`).
public enum Operation: UInt8, Sendable {
    case read = 0
    case write = 1
    /// A write, after all that was acknowledged before it is durable, and durable itself.
    case barrier = 2
    /// All that was acknowledged before it becomes durable. It may carry data to be written then.
    case flush = 3
    case discard = 5
    /// A read or write whose segments are in pages of their own.
    case indirect = 6
}

/// How a request ended (`BLKIF_RSP_*`).
public enum Status: Int16, Sendable {
    case okay = 0
    case error = -1
    case unsupported = -2
}

/// Why a request can't be carried out.
public enum Rejection: Error, Equatable, Sendable {
    /// Not one of `Operation`, or an indirect request where none were offered.
    case unknownOperation
    /// The inner operation of an indirect request is neither read nor write.
    case innerOperation
    /// No segment, or more than fit or than were offered.
    case segmentCount
    /// A segment's first sector is behind its last, or its last outside the page.
    case segmentBounds
    /// Beyond the disk's end.
    case outsideDisk
    /// A change to a read-only disk.
    case readOnly

    /// What the frontend is told.
    public var status: Status { self == .unknownOperation ? .unsupported : .error }
}

/// A private copy of a request's slot (`blkif_request` and its variants, xen/io/blkif.h): what the frontend does to the shared page afterwards
/// can't change it. Before `validate`, nothing in it was checked. Fields that the operation does not have are zero.
public struct Request: Sendable, BitwiseCopyable {
    /// `Operation`, or a value that is none.
    public var rawOperation: UInt8 = 0
    /// Virtual device number; nobody uses it.
    public var handle: UInt16 = 0
    /// The frontend's name for the request; its response carries it.
    public var id: UInt64 = 0
    /// First sector on the disk, of 512 bytes.
    public var sector: UInt64 = 0

    /// Read, write, barrier, flush: number of segments.
    public var segmentCount: UInt8 = 0
    /// The first `segmentCount` of them count.
    public var segments = InlineArray<11, Segment>(repeating: Segment(gref: 0, firstSector: 0, lastSector: 0))

    /// Discard: bit 0 asks for a secure erase.
    public var discardFlag: UInt8 = 0
    /// Discard: sectors to forget.
    public var discardSectorCount: UInt64 = 0

    /// Indirect: read or write, or a value that is neither.
    public var rawInnerOperation: UInt8 = 0
    /// Indirect: segments in all pages.
    public var indirectSegmentCount: UInt16 = 0
    /// Indirect: grant references of the pages that hold the segments.
    public var indirectGrefs = InlineArray<8, UInt32>(repeating: 0)

    public init() {}

    /// Nil when the frontend asks for something that is not known.
    public var operation: Operation? { Operation(rawValue: rawOperation) }
    /// What is to be done to the disk: the inner operation of an indirect request.
    public var effectiveOperation: Operation? { Operation(rawValue: responseOperation) }
    /// What the response has to say: Linux takes any but the inner operation of an indirect request for a broken disk.
    public var responseOperation: UInt8 { operation == .indirect ? rawInnerOperation : rawOperation }
    /// Pages that the segments of an indirect request take.
    public var indirectPageCount: Int { (Int(indirectSegmentCount) + segmentsPerIndirectPage - 1) / segmentsPerIndirectPage }

    /// Checks every field that the operation uses against a disk of `diskSectors` sectors of 512 bytes.
    /// - Parameter maxIndirect: the largest number of segments of an indirect request that was offered to the frontend; 0: none was.
    /// - Returns: the sectors concerned; nil for a flush or barrier without data, and for an indirect request, of which
    ///   only the slot can be checked: `Segment.range` checks its segments.
    /// - Throws: why the request is refused.
    @discardableResult
    public func validate(diskSectors: UInt64, readOnly: Bool, maxIndirect: Int) throws(Rejection) -> SectorRange? {
        guard let operation else { throw .unknownOperation }
        switch operation {
        case .read, .write:
            guard segmentCount > 0 else { throw .segmentCount }
            return try transferRange(diskSectors, refused: readOnly && operation == .write)
        case .barrier, .flush:
            // The sector of a flush without data may be anything.
            if segmentCount == 0 { return nil }
            return try transferRange(diskSectors, refused: readOnly)
        case .discard:
            guard !readOnly else { throw .readOnly }
            guard let range = SectorRange(start: sector, count: discardSectorCount), range.fits(in: diskSectors) else {
                throw .outsideDisk
            }
            return range
        case .indirect:
            try validateIndirect(diskSectors, readOnly, maxIndirect)
            return nil
        }
    }

    private func transferRange(_ diskSectors: UInt64, refused: Bool) throws(Rejection) -> SectorRange {
        guard !refused else { throw .readOnly }
        guard Int(segmentCount) <= maximumDirectSegments else { throw .segmentCount }
        return try Segment.range(
            of: segments.span.extracting(first: Int(segmentCount)), at: sector, diskSectors: diskSectors)
    }

    private func validateIndirect(_ diskSectors: UInt64, _ readOnly: Bool, _ maxIndirect: Int) throws(Rejection) {
        guard maxIndirect > 0 else { throw .unknownOperation }
        guard effectiveOperation == .read || effectiveOperation == .write else { throw .innerOperation }
        guard !(readOnly && effectiveOperation == .write) else { throw .readOnly }
        let limit = min(maxIndirect, maximumIndirectPages * segmentsPerIndirectPage)
        guard (1...limit).contains(Int(indirectSegmentCount)) else { throw .segmentCount }
        guard sector < diskSectors else { throw .outsideDisk }
    }
}
