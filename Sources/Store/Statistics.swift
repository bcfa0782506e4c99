internal import BlobModel
internal import BlockModel
internal import Catalogue
internal import Counts
internal import LMDB
internal import Maps
public import Packs
public import System

/// What a store holds and saves, exact as of the last commit. All sizes in bytes.
public struct Statistics: Sendable {
    public struct Disk: Sendable {
        public let name: String
        /// What the guest sees.
        public let size: UInt64
        /// 4096 × mapped blocks. Zero blocks are never mapped.
        public let mappedBytes: UInt64
        /// 4096 × distinct blobs that this disk alone refers to: what deleting it would free.
        public let exclusiveBytes: UInt64
        /// Whether a process holds the disk, to write or to read.
        public let isAttached: Bool
    }
    public let store: String
    public let disks: [Disk]
    /// 4096 × distinct blobs that any disk refers to.
    public let uniqueBytes: UInt64
    /// Bytes that the store's files occupy on the filesystem, as du counts.
    public let storedBytes: UInt64
    /// Payload that nothing refers to any more, as stored.
    public let reclaimableBytes: UInt64
    /// Blobs that are known to be damaged.
    public let damagedBlobs: Int
    /// How new blobs are stored.
    public let codec: BlobCodec

    public var provisionedBytes: UInt64 { disks.reduce(0) { $0 &+ $1.size } }
    public var mappedBytes: UInt64 { disks.reduce(0) { $0 &+ $1.mappedBytes } }
    /// `mappedBytes / uniqueBytes`, 1 when both are 0.
    public var dedupRatio: Double { uniqueBytes == 0 ? 1 : Double(mappedBytes) / Double(uniqueBytes) }
}

extension Store {
    /// Measures the store. Takes memory of 8 bytes for each block that the largest disk maps.
    /// - Parameter name: only this disk is listed; the store's totals stay the store's.
    public func statistics(of name: String? = nil) throws(Failure) -> Statistics {
        let state = try state()
        let view = state.meta.view
        let superblock = try parts.superblock.superblock(view)
        var counts = parts.counts.reader(view)
        let totals = superblock.totals + (try counts.totals(state.packs))
        var disks: [Statistics.Disk] = []
        for disk in try parts.catalogue.disks(view) where !disk.isIncomplete && name?.hasSameBytes(as: disk.name) ?? true {
            disks.append(
                Statistics.Disk(
                    name: disk.name, size: disk.byteCount, mappedBytes: disk.map.mappedBlocks * UInt64(blockSize),
                    exclusiveBytes: try exclusiveBlobs(disk, view, &counts) * UInt64(blockSize), isAttached: isLocked(disk)))
        }
        if let name, disks.isEmpty { throw noSuchDisk(name) }
        return Statistics(
            store: path, disks: disks, uniqueBytes: totals.live * UInt64(blockSize), storedBytes: try storedBytes(),
            reclaimableBytes: totals.deadBytes, damagedBlobs: try parts.damage.count(view), codec: superblock.codec)
    }

    /// Blobs all of whose references come from this disk.
    private func exclusiveBlobs(_ disk: DiskRecord, _ view: View, _ reader: inout CountReader) throws(Failure) -> UInt64 {
        var blobs: [BlobNumber] = []
        blobs.reserveCapacity(Int(disk.map.mappedBlocks))
        try parts.maps.reader(disk.map, blockCount: disk.blockCount, view).forEachLeaf { leaf in
            guard !leaf.isEmpty else { return }
            for block in leaf.first..<leaf.end where leaf.blob(block) != .none { blobs.append(leaf.blob(block)) }
        }
        blobs.sort()
        var exclusive: UInt64 = 0
        var counts: [UInt32] = []
        var pack: UInt64 = 0
        var start = 0
        while start < blobs.count {
            let blob = blobs[start]
            var end = start
            while end < blobs.count, blobs[end] == blob { end += 1 }
            if blob.pack != pack {
                pack = blob.pack
                counts = try reader.counts(ofPack: pack) ?? []
            }
            if blob.slot < counts.count, Int(counts[blob.slot]) == end - start { exclusive += 1 }
            start = end
        }
        return exclusive
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
