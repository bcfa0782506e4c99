internal import BlockModel
public import System
internal import TestSupport

extension StoreOfFormat3 {
    /// A block that compresses.
    public static func soft(_ number: UInt64) -> [UInt8] {
        (0..<blockSize).map { UInt8(truncatingIfNeeded: $0 & 1 == 0 ? number : number >> 8 &+ UInt64($0 / 1024)) }
    }

    /// Packs of the sample: numbers beyond 2²⁴ are what a program of format 4 would take for keys of packs 1 and 2.
    public static let full: UInt64 = 1, compressed: UInt64 = 2, goneWithCounts: UInt64 = 3, gone: UInt64 = 4, withDead: UInt64 = 7
    /// More than one commit moves.
    public static let many: Range<UInt64> = 1000..<1070
    public static let likeKeyOfFull: UInt64 = 1 << 24, behind: UInt64 = 1 << 24 + 1, likeKeyOfCompressed: UInt64 = 2 << 24, open: UInt64 = 2 << 24 + 5

    /// A sound store with something of all that a program of that time could leave: compressed blobs, dead ones, collected ones, changes of counts that
    /// are deferred, a collection and an import that were interrupted, blobs that nobody counted, a journal.
    public static func sample() throws(Failure) -> StoreOfFormat3 {
        var store = StoreOfFormat3()
        store.compression = 1
        var blobs: [UInt64: [UInt64]] = [:]
        func fill(_ pack: UInt64, _ count: UInt64, soft: Bool = false) throws(Failure) {
            for place in 0..<count {
                let content = pack << 20 | place + 1
                blobs[pack, default: []].append(try store.store(soft ? Self.soft(pack << 10 | place) : block(content), inPack: pack, lz4: soft))
            }
        }
        try fill(full, 184)
        try fill(compressed, 600, soft: true)
        for pack in [goneWithCounts, gone] { try fill(pack, 50) }
        for pack in [withDead, likeKeyOfFull, behind, likeKeyOfCompressed] { try fill(pack, 100) }
        for pack in many { try fill(pack, 2) }
        try fill(open, 20)
        let last = blobs[open] ?? []
        store.counted = (open, 12)
        store.indexed = (likeKeyOfCompressed, 40)
        store.collectSome(blobs)
        store.disks = try disks(blobs, last)
        // Of the second, `counts` says that there is one reference.
        store.deferred = [(blobs[withDead]?[3] ?? 0, 1), (blobs[withDead]?[5] ?? 0, -1)]
        return store
    }

    /// A collection was interrupted between its commits: the index has some that have lost their bytes.
    private mutating func collectSome(_ blobs: [UInt64: [UInt64]]) {
        for pack in [Self.goneWithCounts, Self.gone] { for blob in blobs[pack] ?? [] { collect(blob) } }
        for blob in (blobs[Self.compressed] ?? []).suffix(200) { collect(blob) }
        uncounted = [Self.gone]
        collecting = (Self.compressed, Self.goneWithCounts)
        indexedAnyhow = Set((blobs[Self.compressed] ?? []).suffix(100) + (blobs[Self.goneWithCounts] ?? []))
    }

    private static func disks(_ blobs: [UInt64: [UInt64]], _ last: [UInt64]) throws(Failure) -> [Disk] {
        func of(_ pack: UInt64, _ range: Range<Int>) -> ArraySlice<UInt64> { (blobs[pack] ?? [])[range] }
        func disk(_ name: String, _ number: UInt64, blocks: UInt64, _ parts: [(UInt64, ArraySlice<UInt64>)]) -> Disk {
            var disk = Disk(name: name, number: number, byteCount: blocks * 4096)
            for (first, part) in parts { for (place, blob) in zip(first..., part) { disk.blocks[place] = blob } }
            return disk
        }
        var half = disk("half", 4, blocks: 600, [(0, of(full, 0..<40)), (520, of(likeKeyOfFull, 0..<30))])
        half.isIncomplete = true
        var written = disk("written", 2, blocks: 300, [(0, of(compressed, 0..<250)), (260, of(behind, 0..<40))])
        written.journal = [(3, block(7001)), (255, block(7002) + block(7003)), (3, block(7004))]
        let many = disk("many", 5, blocks: 140, many.enumerated().map { (UInt64(2 * $0), of($1, 0..<2)) })
        return [
            many, disk("full", 1, blocks: 200, [(0, of(full, 0..<184)), (190, of(full, 0..<5))]),
            written,
            disk("wide", 3, blocks: 2000, [(0, of(likeKeyOfFull, 20..<100)), (1900, of(likeKeyOfCompressed, 0..<60)), (700, of(withDead, 0..<4))]),
            disk("vast", 8, blocks: 300_000, [(0, of(likeKeyOfFull, 20..<22)), (299_000, of(likeKeyOfCompressed, 0..<60))]),
            half,
            disk("old@name", 6, blocks: 70, [(0, of(compressed, 240..<300)), (60, last[0..<10]), (10, of(withDead, 3..<4))]),
        ]
    }
}
