public import Blkif
import BlockModel
import System

/// What a guest asks of its disk, in sectors of 512 bytes, of any length.
public enum DiskOperation: Sendable, CustomStringConvertible {
    case read(sector: UInt64, count: Int)
    case write(sector: UInt64, [UInt8])
    /// A write between two flushes.
    case barrier(sector: UInt64, [UInt8])
    case flush
    case discard(sector: UInt64, count: UInt64)

    public var description: String {
        switch self {
        case .read(let sector, let count): "read of \(count) sectors at \(sector)"
        case .write(let sector, let bytes): "write of \(bytes.count / sectorSize) sectors at \(sector)"
        case .barrier(let sector, let bytes): "barrier of \(bytes.count / sectorSize) sectors at \(sector)"
        case .flush: "flush"
        case .discard(let sector, let count): "discard of \(count) sectors at \(sector)"
        }
    }
}

/// How an operation ended.
public struct Completion: Sendable {
    /// `okay`, or the first other status of its requests.
    public internal(set) var status = Status.okay
    /// What was read; zeros where a request failed.
    public internal(set) var data: [UInt8] = []
}

/// How the data of a request lies in pages: each segment begins at sector `firstSector` of its page, and has `sectorCount` sectors or, the last one, fewer.
public struct SegmentLayout: Sendable {
    public let firstSector: Int
    public let sectorCount: Int

    /// Segments that are whole pages.
    public static let pages = SegmentLayout(firstSector: 0, sectorCount: sectorsPerBlock)

    /// `firstSector`: 0...7; `sectorCount`: at least 1, cut to what fits in a page.
    public init(firstSector: Int, sectorCount: Int) {
        self.firstSector = min(max(0, firstSector), sectorsPerBlock - 1)
        self.sectorCount = min(max(1, sectorCount), sectorsPerBlock - self.firstSector)
    }
}

/// The part of an operation that one request does.
struct Part {
    let operation: Int
    var request: Request
    /// The operation's data, and where the part's begins in it.
    let data: [UInt8]
    let dataOffset: Int
    let layout: SegmentLayout
    let byteCount: Int
}
