public import BlockModel
internal import System

/// Segments that fit in a slot (`BLKIF_MAX_SEGMENTS_PER_REQUEST`).
public let maximumDirectSegments = 11
/// Pages of segments that an indirect request may name (`BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST`).
public let maximumIndirectPages = 8
/// Segments in a page of them.
public let segmentsPerIndirectPage = 512

/// Sectors of one granted page, `blkif_request_segment`: 8 bytes, grant reference 0, first sector 4, last sector 5.
public struct Segment: Equatable, Sendable, BitwiseCopyable {
    /// Grant reference of the page.
    public var gref: UInt32
    /// First and last sector within the page, both included: 0...7 each in a valid segment.
    public var firstSector: UInt8
    public var lastSector: UInt8

    static let byteCount = 8

    public init(gref: UInt32, firstSector: UInt8, lastSector: UInt8) {
        self.gref = gref
        self.firstSector = firstSector
        self.lastSector = lastSector
    }

    /// Sectors transferred: 1...8 in a valid segment, any number in −254...256 otherwise.
    public var sectorCount: Int { Int(lastSector) - Int(firstSector) + 1 }
    /// Whether the sectors are in order and within a page.
    public var isValid: Bool { firstSector <= lastSector && lastSector < sectorsPerBlock }

    /// Reads 8 bytes at `offset`.
    public init(_ bytes: RawSpan, at offset: Int) {
        self.init(gref: bytes.load(at: offset), firstSector: bytes.load(at: offset + 4), lastSector: bytes.load(at: offset + 5))
    }

    /// Writes 8 bytes at `offset`, padding as zeros.
    public func store(into bytes: inout MutableRawSpan, at offset: Int) {
        bytes.store(gref, at: offset)
        bytes.store(firstSector, at: offset + 4)
        bytes.store(lastSector, at: offset + 5)
        bytes.store(UInt16(0), at: offset + 6)
    }

    /// Decodes the segments of an indirect request from `page`, the private copy of one of its pages, or of the beginning of one,
    /// into `segments` from `index` on: until the copy ends or `segments` is full. Returns the index behind the last.
    public static func decode(indirectPage page: RawSpan, into segments: inout MutableSpan<Segment>, from index: Int) -> Int {
        let count = max(0, min(page.byteCount / byteCount, segmentsPerIndirectPage, segments.count - index))
        for i in 0..<count { segments[index + i] = Segment(page, at: i * byteCount) }
        return index + count
    }

    /// The range that a transfer of `segments` from `sector` on covers, on a disk of `diskSectors` sectors. Of an indirect request,
    /// `segments` are those of all its pages.
    /// - Throws: `.segmentBounds`, `.outsideDisk`.
    public static func range(of segments: Span<Segment>, at sector: UInt64, diskSectors: UInt64) throws(Rejection) -> SectorRange {
        var total: UInt64 = 0
        for i in segments.indices {
            let segment = segments[i]
            guard segment.isValid else { throw .segmentBounds }
            // 8 at most for each of the segments, whose number is an Int.
            total &+= UInt64(segment.sectorCount)
        }
        guard let range = SectorRange(start: sector, count: total), range.fits(in: diskSectors) else { throw .outsideDisk }
        return range
    }
}
