internal import BlobModel
internal import BlockModel
internal import Catalogue
internal import Counts
internal import LMDB
internal import Maps
internal import Packs
public import System

/// What a store holds and saves, exact as of the last commit. All sizes in bytes.
public struct Statistics: Sendable {
    public struct Disk: Sendable {
        public let name: String
        /// What the guest sees.
        public let size: UInt64
        /// 4096 × mapped blocks. Zero blocks are never mapped.
        public let mappedBytes: UInt64
        /// 4096 × distinct blobs that this disk and its snapshots alone refer to: what deleting all of these would free; of a snapshot, what
        /// deleting it alone would.
        public let exclusiveBytes: UInt64
        /// Whether a process holds the disk, to write or to read.
        public let isAttached: Bool
        /// Seconds since 1970.
        public let created: UInt64
        /// The oldest first.
        public internal(set) var snapshots: [Disk] = []
    }
    public let store: String
    public let disks: [Disk]
    /// 4096 × distinct blobs that any disk or snapshot refers to.
    public let uniqueBytes: UInt64
    /// 4096 × distinct blobs that any disk refers to.
    public let uniqueOfDisksBytes: UInt64
    /// 4096 × mapped blocks, summed over all snapshots.
    public let snapshotBytes: UInt64
    /// Bytes that the store's files occupy on the filesystem, as du counts.
    public let storedBytes: UInt64
    /// Payload that nothing refers to any more, as stored.
    public let reclaimableBytes: UInt64
    /// Blobs that are known to be damaged.
    public let damagedBlobs: Int
    public let settings: Settings
    /// What it is on.
    public let filesystem: Filesystem
    /// Version of its format.
    public var format: Int { Int(FormatHeader.version) }

    public var provisionedBytes: UInt64 { disks.reduce(0) { $0 &+ $1.size } }
    public var mappedBytes: UInt64 { disks.reduce(0) { $0 &+ $1.mappedBytes } }
    /// `mappedBytes / uniqueOfDisksBytes`, 1 when both are 0.
    public var dedupRatio: Double { uniqueOfDisksBytes == 0 ? 1 : Double(mappedBytes) / Double(uniqueOfDisksBytes) }
}

extension Store {
    /// Measures the store. Takes memory of 8 bytes for each block that one disk, or all snapshots together, map and nothing else does.
    /// - Parameter name: only this disk or snapshot is listed; the store's totals stay the store's.
    public func statistics(of name: String? = nil) throws(Failure) -> Statistics {
        let state = try state()
        let view = state.meta.view
        let superblock = try parts.superblock.superblock(view)
        var counts = parts.counts.reader(view)
        let totals = superblock.totals + (try counts.totals(state.packs))
        let records = try parts.catalogue.disks(view)
        let snapshots = Dictionary(grouping: records.filter { $0.isSnapshot && !$0.isIncomplete }) { PathText.bytes($0.diskName) }

        // What is on its way out, or in, is nobody's.
        var release = MapRelease(parts.maps, view)
        var lost: [BlobNumber] = []
        try release.releaseDetached { lost.append($0) }
        lost.sort()
        let dead = try blobs(losing: lost, after: [], &counts)
        let reclaimable = totals.deadBytes + (try storedBytes(of: dead, state.packs))
        for disk in records where disk.isIncomplete { try release.release(disk.map) { lost.append($0) } }
        lost.sort()
        let gone = UInt64(try blobs(losing: lost, after: [], &counts).count)
        // Where counts are wrong, which a check tells.
        let unique = totals.live - min(totals.live, gone)

        var disks: [Statistics.Disk] = []
        for disk in records where !disk.isIncomplete && name?.hasSameBytes(as: disk.name) ?? !disk.isSnapshot {
            let own = disk.isSnapshot ? [] : (snapshots[PathText.bytes(disk.name)] ?? []).sorted { $0.number < $1.number }
            var found = entry(disk, exclusive: try exclusiveBytes(of: [disk] + own, release, lost, &counts))
            for snapshot in own { found.snapshots.append(entry(snapshot, exclusive: try exclusiveBytes(of: [snapshot], release, lost, &counts))) }
            disks.append(found)
        }
        if let name, disks.isEmpty { throw noSuchDisk(name) }
        let all = snapshots.values.flatMap { $0 }
        let ofSnapshots = try exclusiveBytes(of: all, release, lost, &counts)
        return Statistics(
            store: path, disks: disks, uniqueBytes: unique * UInt64(blockSize),
            uniqueOfDisksBytes: unique * UInt64(blockSize) - min(unique * UInt64(blockSize), ofSnapshots),
            snapshotBytes: all.reduce(0) { $0 + $1.mappedBlocks * UInt64(blockSize) }, storedBytes: try storedBytes(),
            reclaimableBytes: reclaimable, damagedBlobs: try parts.damage.count(view), settings: superblock.settings,
            filesystem: try Filesystem(of: path))
    }

    private func entry(_ disk: DiskRecord, exclusive: UInt64) -> Statistics.Disk {
        Statistics.Disk(
            name: disk.name, size: disk.byteCount, mappedBytes: disk.map.mappedBlocks * UInt64(blockSize), exclusiveBytes: exclusive,
            isAttached: isLocked(disk), created: disk.created)
    }

    /// What would go with some disks and snapshots.
    /// - Parameters:
    ///   - release: what goes before.
    ///   - lost: the references that go with it, sorted.
    private func exclusiveBytes(
        of disks: [DiskRecord], _ release: BlockMapRelease, _ lost: [BlobNumber], _ counts: inout CountReader
    ) throws(Failure) -> UInt64 {
        var release = release
        var more: [BlobNumber] = []
        for disk in disks { try release.release(disk.map) { more.append($0) } }
        more.sort()
        return try UInt64(blobs(losing: more, after: lost, &counts).count) * UInt64(blockSize)
    }

    /// Blobs that nothing would refer to any more.
    /// - Parameters:
    ///   - lost: references that go, sorted.
    ///   - before: others that are gone already, sorted.
    private func blobs(losing lost: [BlobNumber], after before: [BlobNumber], _ reader: inout CountReader) throws(Failure) -> [BlobNumber] {
        var found: [BlobNumber] = []
        var counts: [UInt32] = []
        var pack: UInt64 = 0
        var start = 0, past = 0
        while start < lost.count {
            let blob = lost[start]
            var references = 0
            while start < lost.count, lost[start] == blob {
                references += 1
                start += 1
            }
            while past < before.count, before[past] < blob { past += 1 }
            while past < before.count, before[past] == blob {
                references += 1
                past += 1
            }
            if blob.pack != pack {
                pack = blob.pack
                counts = try reader.counts(ofPack: pack)?.now ?? []
            }
            if blob.slot < counts.count, Int(counts[blob.slot]) == references { found.append(blob) }
        }
        return found
    }

    /// Bytes that these blobs, sorted, take.
    private func storedBytes(of blobs: [BlobNumber], _ packs: borrowing PackSnapshot) throws(Failure) -> UInt64 {
        var lengths: StoredLengths = []
        var pack: UInt64 = 0
        var sum: UInt64 = 0
        for blob in blobs {
            if blob.pack != pack {
                pack = blob.pack
                lengths = try packs.storedLengths(ofPack: pack) ?? []
            }
            if blob.slot < lengths.count { sum += UInt64(lengths[blob.slot]) }
        }
        return sum
    }

    /// Bytes that the store's files occupy: all that are in its directory, whatever they are.
    public func storedBytes() throws(Failure) -> UInt64 { try Self.allocatedBytes(inDirectory: path, depth: 2) }

    /// - Parameter depth: how many levels of directories there are below.
    private static func allocatedBytes(inDirectory path: String, depth: Int) throws(Failure) -> UInt64 {
        var total: UInt64 = 0
        for name in try File.names(inDirectory: path) {
            let path = path + "/" + name
            do throws(Failure) {
                guard let bytes = try File.allocatedBytes(ofFile: path) else {
                    if depth > 0 { total += try allocatedBytes(inDirectory: path, depth: depth - 1) }
                    continue
                }
                total += bytes
            } catch {
                // It went meanwhile, as a journal or a filter does, or is none of the store's (lost+found).
            }
        }
        return total
    }
}
