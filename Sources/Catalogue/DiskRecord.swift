internal import BlockModel
internal import Hashing
public import Maps
public import System

/// A disk, or a snapshot of one: table `disks`, key its name. A snapshot is a disk that nobody writes to; its name is its disk's, `@`, and its own.
///
///      0  checksum          u64   XXH3-64 of bytes 8 on, seeded with the disk's number
///      8  number            u64   never used again; names the journal
///     16  size              u64   bytes, a multiple of 512
///     24  root              u64   map node at the top, 0 when nothing is mapped
///     32  mapped            u64   blocks that are mapped
///     40  height            u32   levels of the map less one
///     44  flags             u32   bit 0: incomplete (being imported, or a copy that somebody uses), to be removed; bit 1: a snapshot
///     48  journal sequence  u64   ┐ the map holds every record up to this one; the next
///     56  journal offset    u64   ┘ record, if there is one, begins at this offset
///     64  created           u64   seconds since 1970
///     72  source            u64   of a copy that was filled: the number of the disk that it is of; else 0
public struct DiskRecord: Sendable, Equatable {
    static let byteCount = 80

    public let name: String
    /// Unique in the store, for ever.
    public let number: UInt64
    /// Size in bytes.
    public var byteCount: UInt64
    /// Its blocks.
    public var map: MapRoot
    /// Being imported, or used by the one who has its lock: no command shows it, and what is left of it is removed.
    public var isIncomplete = false
    /// Of a disk, which `diskName` names.
    public var isSnapshot = false
    /// The journal's records up to this one are in the map.
    public var journal = JournalPosition(sequence: 0, offset: 0)
    /// Seconds since 1970.
    public let created: UInt64
    /// Of a copy that was filled: the number of the disk that it is of; else 0.
    public var source: UInt64 = 0
    public var isFilled: Bool { source != 0 }

    /// How the names of copies begin, and no disk's.
    public static let copyPrefix = ".copy-"
    /// How those begin that are kept for somebody over the ends of processes, for as long as the machine runs: what it is called follows, and
    /// for whom. Nil: the machine's start has no name.
    public static let keptCopyPrefix = MachineStart.name.map { ".kept-\($0)-" }
    /// Whether it began as a copy, and has no name yet.
    public var isCopy: Bool { name.hasPrefix(Self.copyPrefix) || isKept }
    /// Whether it is kept, with its lock or without.
    public var isKept: Bool { Self.keptCopyPrefix.map { isIncomplete && name.hasPrefix($0) } ?? false }

    /// Blocks that are mapped.
    public var mappedBlocks: UInt64 { map.mappedBlocks }
    /// Blocks of the disk, rounded up.
    public var blockCount: UInt64 { Self.blocks(byteCount) }
    /// Blocks that so many bytes take.
    public static func blocks(_ byteCount: UInt64) -> UInt64 { (byteCount + UInt64(blockSize) - 1) / UInt64(blockSize) }

    public init(name: String, number: UInt64, byteCount: UInt64, created: UInt64) {
        self.name = name
        self.number = number
        self.byteCount = byteCount
        self.created = created
        map = MapRoot(forBlocks: Self.blocks(byteCount))
    }

    /// The disk: itself, or the one that it is a snapshot of.
    public var diskName: String { isSnapshot ? SnapshotName(name)?.disk ?? name : name }

    /// The same under another name.
    public func named(_ name: String) -> DiskRecord {
        var disk = DiskRecord(name: name, number: number, byteCount: byteCount, created: created)
        (disk.map, disk.isIncomplete, disk.isSnapshot, disk.journal, disk.source) = (map, isIncomplete, isSnapshot, journal, source)
        return disk
    }

    /// The error for a second disk of that name.
    public static func nameIsTaken(_ name: String) -> Failure {
        Failure(.exists, .create, .disk(name), "there is one of that name", remedy: "choose another name, or delete it first")
    }

    /// - Throws: `.damage` when the record is not what was written.
    init(_ bytes: RawSpan, name: String) throws(Failure) {
        guard bytes.byteCount == Self.byteCount,
            bytes.load(at: 0, as: UInt64.self) == checksum(bytes.extracting(8..<Self.byteCount), seed: bytes.load(at: 8)),
            bytes.load(at: 40, as: UInt32.self) <= UInt32(MapNode.maximumHeight)
        else { throw Failure(.damage, .disk(name), "its record is damaged", remedy: "restore the store from a copy") }
        self.name = name
        number = bytes.load(at: 8)
        byteCount = bytes.load(at: 16)
        map = MapRoot(node: bytes.load(at: 24), height: Int(bytes.load(at: 40, as: UInt32.self)), mappedBlocks: bytes.load(at: 32))
        let flags: UInt32 = bytes.load(at: 44)
        isIncomplete = flags & 1 != 0
        isSnapshot = flags & 2 != 0
        journal = JournalPosition(sequence: bytes.load(at: 48), offset: bytes.load(at: 56))
        created = bytes.load(at: 64)
        source = bytes.load(at: 72)
    }

    var encoded: [UInt8] {
        [UInt8](count: Self.byteCount) { bytes in
            bytes.store(number, at: 8)
            bytes.store(byteCount, at: 16)
            bytes.store(map.node, at: 24)
            bytes.store(map.mappedBlocks, at: 32)
            bytes.store(UInt32(map.height), at: 40)
            bytes.store((isIncomplete ? 1 : 0) | (isSnapshot ? 2 : 0) as UInt32, at: 44)
            bytes.store(journal.sequence, at: 48)
            bytes.store(journal.offset, at: 56)
            bytes.store(created, at: 64)
            bytes.store(source, at: 72)
            bytes.store(checksum(bytes.bytes.extracting(8..<Self.byteCount), seed: number), at: 0)
        }
    }
}

/// A name of a disk's snapshot: DISK@NAME.
public struct SnapshotName: Sendable {
    public let disk, name: String

    /// Nil: it has no `@`.
    public init?(_ text: String) {
        let bytes = text.utf8
        guard let separator = bytes.lastIndex(of: UInt8(ascii: "@")), let disk = String(bytes[..<separator]),
            let name = String(bytes[bytes.index(after: separator)...])
        else { return nil }
        self.disk = disk
        self.name = name
    }
}

/// A place in a disk's journal: the last record before it, and the offset in bytes where the next one begins.
public struct JournalPosition: Sendable, Equatable {
    public var sequence: UInt64
    public var offset: UInt64
    public init(sequence: UInt64, offset: UInt64) {
        self.sequence = sequence
        self.offset = offset
    }
}
