internal import BlockModel
internal import Glibc
internal import Hashing
internal import LMDB
public import System

/// A store of format 3, written byte by byte as docs/format.md said when that was today's: of what a program of that time could have left, whatever
/// a test wants. Nothing of it goes through code of stores.
public struct StoreOfFormat3 {
    /// A blob in its slot.
    public struct Slot {
        let digest: Digest
        var stored: [UInt8]
        let check: UInt64
        var codec: UInt8
        let content: [UInt8]
    }

    public struct Disk {
        public let name: String
        public let number: UInt64
        /// Blobs, by block.
        public var blocks: [UInt64: UInt64] = [:]
        public var byteCount: UInt64
        public var isIncomplete = false
        /// Writes that are in the journal: the first block of each, and its bytes.
        public var journal: [(block: UInt64, bytes: [UInt8])] = []

        public init(name: String, number: UInt64, byteCount: UInt64) {
            self.name = name
            self.number = number
            self.byteCount = byteCount
        }
    }

    public let storeID: (UInt64, UInt64)
    public var packs: [UInt64: [Slot]] = [:]
    public var disks: [Disk] = []
    /// Changes of counts that are deferred: by blob. The rest is in `counts`.
    public var deferred: [(blob: UInt64, change: Int64)] = []
    public var damaged: [UInt64] = []
    public var collecting: (UInt64, UInt64) = (0, 0)
    /// Before this pack and slot, blobs are counted and in the index; nil: all are.
    public var counted: (pack: UInt64, slots: UInt64)?
    public var indexed: (pack: UInt64, slots: UInt64)?
    /// Blobs that were collected, and that the index has all the same.
    public var indexedAnyhow: Set<UInt64> = []
    /// Packs without counts.
    public var uncounted: Set<UInt64> = []
    public var compression: UInt32 = 0
    /// Bits that programs of format 3 do not know.
    public var features: (meta: UInt64, packs: UInt64) = (0, 0)
    /// Of the packs, if it is another one.
    public var otherID: UInt64?
    /// Changes bytes on their way to the disk: of table, key.
    public var corrupt: (String, UInt64, inout [UInt8]) -> Void = { _, _, _ in }

    static let collected: UInt8 = 15

    public init(storeID: (UInt64, UInt64) = (0x1234_5678, 0x9abc_def0)) { self.storeID = storeID }

    // MARK: What is in it

    /// Puts a block into a pack.
    /// - Returns: the blob's number.
    @discardableResult
    public mutating func store(_ block: [UInt8], inPack number: UInt64, lz4: Bool = false) throws(Failure) -> UInt64 {
        let digest = try SHA256().digest(block.rawBytes)
        let packed = lz4 ? compress(block) : nil
        let bytes = packed ?? block
        let check = checksum(bytes.rawBytes, seed: digest.word0 ^ digest.word1 ^ digest.word2 ^ digest.word3)
        packs[number, default: []].append(Slot(digest: digest, stored: bytes, check: check, codec: packed == nil ? 0 : 1, content: block))
        return number << 16 | UInt64(packs[number, default: []].count - 1)
    }

    /// Takes a blob's bytes away, as a collection did.
    public mutating func collect(_ blob: UInt64) { packs[blob >> 16]?[Int(blob & 0xffff)].codec = Self.collected }

    /// Inverts a bit of a blob's stored bytes.
    public mutating func rot(_ blob: UInt64) { packs[blob >> 16]?[Int(blob & 0xffff)].stored[7] ^= 1 }

    /// The block that a blob is of.
    public func content(_ blob: UInt64) -> [UInt8] { packs[blob >> 16]?[Int(blob & 0xffff)].content ?? [] }

    /// What a disk of that name reads as, with what is in its journal.
    public func contents(_ name: String) -> [UInt8] {
        guard let disk = disks.first(where: { $0.name == name }) else { return [] }
        var bytes = [UInt8](repeating: 0, count: Int(disk.byteCount))
        for (block, blob) in disk.blocks {
            let start = Int(block) * blockSize
            if let slot = packs[blob >> 16]?[Int(blob & 0xffff)], start < bytes.count {
                bytes.replaceSubrange(start..<min(bytes.count, start + blockSize), with: slot.content.prefix(bytes.count - start))
            }
        }
        for (block, written) in disk.journal { bytes.replaceSubrange(Int(block) * blockSize..<Int(block) * blockSize + written.count, with: written) }
        return bytes
    }

    // MARK: Writing

    /// Makes it.
    /// - Parameters:
    ///   - path: of its directory, which is made.
    ///   - locks: of a file for the locks that this takes, which is none of the store's.
    public func write(to path: String, locks: String) throws(Failure) {
        for directory in ["", "/meta", "/packs", "/journals"] where unsafe mkdir(path + directory, 0o700) != 0 {
            throw Failure(systemCall: "make", .file(path + directory), errno: errno)
        }
        try writePacks(path, locks)
        try writeMeta(path, locks)
        try File(path: path + "/reserve", options: [.write, .create]).allocate(byteCount: 1 << 20)
        for disk in disks { try writeJournal(of: disk, path) }
    }

    private func environment(_ path: String, _ number: Int, _ locks: String) throws(Failure) -> Environment {
        let lockFile = try LockFile(try File.owned(locks), patience: Patience())
        let opening = try lockFile.hold(.opening)
        let environment = try Environment.open(path: path, number: number, lockFile, mapBytes: 1 << 32, tables: 8, creating: true)
        _ = consume opening
        return environment
    }

    private func writePacks(_ path: String, _ locks: String) throws(Failure) {
        let environment = try environment(path + "/packs", 1, locks)
        var opening = try TableOpening(environment, creating: true)
        let store = try opening.table("store"), table = try opening.table("packs")
        try opening.finish()
        var writing = try WriteTransaction(environment)
        try writing.put(store, "superblock", superblock(features: features.packs, otherID ?? storeID.0) { _ in }.rawBytes)
        for (number, slots) in packs { try put(encoded(number, slots), number, table, &writing) }
        try writing.commit()
    }

    private func put(_ bytes: [UInt8], _ key: UInt64, _ table: Environment.Table, _ writing: inout WriteTransaction) throws(Failure) {
        var bytes = bytes
        corrupt("\(table.name)", key, &bytes)
        try writing.put(table, key, count: bytes.count) { $0.copy(bytes.rawBytes, to: 0) }
    }

    private func superblock(features: UInt64, _ word: UInt64, _ fill: (inout MutableRawSpan) -> Void) -> [UInt8] {
        [UInt8](count: 176) { bytes in
            bytes.store(0x4b53_4450_5544_4544 as UInt64, at: 0)
            bytes.store(3 as UInt32, at: 8)
            bytes.store(4096 as UInt32, at: 12)
            bytes.store(features, at: 16)
            bytes.store(word, at: 32)
            bytes.store(storeID.1, at: 40)
            bytes.store(1 as UInt64, at: 48)
            bytes.store(1 as UInt64, at: 56)
            fill(&bytes)
            bytes.store(checksum(bytes.bytes.extracting(0..<168)), at: 168)
        }
    }

    /// A pack's bytes.
    private func encoded(_ number: UInt64, _ slots: [Slot]) -> [UInt8] {
        func align(_ offset: Int) -> Int { (offset + 15) & ~15 }
        let start = align(64 + slots.count * 44)
        let length = slots.reduce(start) { $1.codec == Self.collected ? $0 : $0 + align($1.stored.count) }
        return [UInt8](count: length) { bytes in
            bytes.store(0x4b43_4150 as UInt32, at: 0)
            bytes.store(2 as UInt16, at: 4)
            bytes.store(UInt16(slots.count), at: 6)
            bytes.store(number, at: 8)
            bytes.store(storeID.0, at: 16)
            bytes.store(UInt32(length), at: 24)
            var offset = start
            for (index, slot) in slots.enumerated() {
                slot.digest.store(into: &bytes, at: 64 + index * 44)
                bytes.store(slot.check, at: 64 + index * 44 + 32)
                bytes.store(UInt32(offset / 16) | UInt32(slot.stored.count - 1) << 16 | UInt32(slot.codec) << 28, at: 64 + index * 44 + 40)
                if slot.codec == Self.collected { continue }
                bytes.copy(slot.stored.rawBytes, to: offset)
                offset += align(slot.stored.count)
            }
            bytes.store(checksum(bytes.bytes.extracting(64..<64 + slots.count * 44), seed: checksum(bytes.bytes.extracting(0..<32))), at: 32)
        }
    }

    private func writeMeta(_ path: String, _ locks: String) throws(Failure) {
        let environment = try environment(path + "/meta", 0, locks)
        var opening = try TableOpening(environment, creating: true)
        let store = try opening.table("store"), disks = try opening.table("disks"), nodes = try opening.table("nodes")
        let counts = try opening.table("counts"), changes = try opening.table("changes"), index = try opening.table("index")
        let damaged = try opening.table("damaged")
        try opening.finish()
        var writing = try WriteTransaction(environment)
        var nextNode: UInt64 = 1
        for disk in self.disks {
            var record = try self.record(of: disk, nodes, &nextNode, &writing)
            corrupt("disks", disk.number, &record)
            try writing.put(disks, disk.name, record.rawBytes)
        }
        let (live, dead, deadBytes) = try writeCounts(counts, &writing)
        try writeChanges(changes, &writing)
        try writeIndex(index, &writing)
        for blob in self.damaged { try put([], blob, damaged, &writing) }
        let last = (pack: packs.keys.max() ?? 0, slots: UInt64(packs[packs.keys.max() ?? 0]?.count ?? 0))
        let counted = self.counted ?? last, indexed = self.indexed ?? counted
        let words: [UInt64] = [
            nextNode, (self.disks.map(\.number).max() ?? 0) + 1, counted.pack, counted.slots, live, dead, deadBytes, collecting.0, collecting.1, indexed.pack,
            indexed.slots,
        ]
        let bytes = superblock(features: features.meta, storeID.0) { bytes in
            for (place, word) in words.enumerated() { bytes.store(word, at: 48 + 8 * place) }
            bytes.store(compression, at: 160)
        }
        try writing.put(store, "superblock", bytes.rawBytes)
        try writing.commit()
    }

    // MARK: Maps

    private func record(of disk: Disk, _ nodes: Environment.Table, _ next: inout UInt64, _ writing: inout WriteTransaction) throws(Failure) -> [UInt8] {
        var height = 0
        var span: UInt64 = 508
        while span < (disk.byteCount + 4095) / 4096 {
            height += 1
            span *= 508
        }
        var entries = disk.blocks
        for level in 0...height {
            var above: [UInt64: UInt64] = [:]
            for (parent, part) in Dictionary(grouping: entries, by: { $0.key / 508 }).sorted(by: { $0.key < $1.key }) {
                try put(node(next, level, part.map { ($0.key % 508, $0.value) }), next, nodes, &writing)
                above[parent] = next
                next += 1
            }
            entries = above
        }
        let root = entries[0] ?? 0, number = disk.number, mapped = UInt64(disk.blocks.count)
        return [UInt8](count: 72) { bytes in
            for (place, word) in [number, disk.byteCount, root, mapped].enumerated() { bytes.store(word, at: 8 + 8 * place) }
            bytes.store(UInt32(height), at: 40)
            bytes.store((disk.isIncomplete ? 1 : 0) as UInt32, at: 44)
            bytes.store(Self.firstSequence, at: 48)
            bytes.store(0 as UInt64, at: 56)
            bytes.store(1_700_000_000 as UInt64, at: 64)
            bytes.store(checksum(bytes.bytes.extracting(8..<72), seed: number), at: 0)
        }
    }

    private func node(_ number: UInt64, _ level: Int, _ entries: [(UInt64, UInt64)]) -> [UInt8] {
        [UInt8](count: 4080) { bytes in
            bytes.store(UInt32(level), at: 8)
            bytes.store(UInt32(entries.count), at: 12)
            for (place, entry) in entries { bytes.store(entry, at: 16 + 8 * Int(place)) }
            bytes.store(checksum(bytes.bytes.extracting(8..<4080), seed: number), at: 0)
        }
    }

    // MARK: Counts

    private func isCounted(_ blob: UInt64) -> Bool {
        guard let counted else { return true }
        return blob >> 16 != counted.pack ? blob >> 16 < counted.pack : blob & 0xffff < counted.slots
    }

    private func writeCounts(_ table: Environment.Table, _ writing: inout WriteTransaction) throws(Failure) -> (UInt64, UInt64, UInt64) {
        var references: [UInt64: Int64] = [:]
        for disk in disks { for blob in disk.blocks.values { references[blob, default: 0] += 1 } }
        for (blob, change) in deferred { references[blob, default: 0] -= change }
        var (live, dead, deadBytes): (UInt64, UInt64, UInt64) = (0, 0, 0)
        for (number, slots) in packs {
            var counts: [UInt32] = []
            for (place, slot) in slots.enumerated() where isCounted(number << 16 | UInt64(place)) {
                let blob = number << 16 | UInt64(place), count = UInt32(references[blob] ?? 0)
                counts.append(count)
                if count > 0 { live += 1 }
                // What was collected leaves the totals with the index.
                guard count == 0, slot.codec != Self.collected || indexedAnyhow.contains(blob) else { continue }
                dead += 1
                deadBytes += UInt64(slot.stored.count)
            }
            guard !counts.isEmpty, !uncounted.contains(number) else { continue }
            let largest = counts.max() ?? 0, width = largest < 256 ? 1 : largest < 65536 ? 2 : 4
            let bytes = [UInt8](count: 16 + counts.count * width) { bytes in
                bytes.store(UInt32(counts.count), at: 8)
                bytes.store(UInt32(width), at: 12)
                for (place, count) in counts.enumerated() {
                    switch width {
                    case 1: bytes.store(UInt8(count), at: 16 + place)
                    case 2: bytes.store(UInt16(count), at: 16 + 2 * place)
                    default: bytes.store(count, at: 16 + 4 * place)
                    }
                }
                bytes.store(checksum(bytes.bytes.extracting(8..<bytes.byteCount), seed: number), at: 0)
            }
            try put(bytes, number, table, &writing)
        }
        return (live, dead, deadBytes)
    }

    private func writeChanges(_ table: Environment.Table, _ writing: inout WriteTransaction) throws(Failure) {
        for (group, changes) in Dictionary(grouping: deferred, by: { $0.blob >> 16 / 1024 }) {
            let key = group << 32 | 1
            let bytes = [UInt8](count: 16 + 8 * changes.count) { bytes in
                bytes.store(UInt32(changes.count), at: 8)
                bytes.store(UInt32(changes.count), at: 12)
                for (place, change) in changes.enumerated() {
                    bytes.store(change.blob | UInt64(UInt16(bitPattern: Int16(change.change))) << 48, at: 16 + 8 * place)
                }
                bytes.store(checksum(bytes.bytes.extracting(8..<bytes.byteCount), seed: key), at: 0)
            }
            try put(bytes, key, table, &writing)
        }
    }

    // MARK: The index

    private static let entriesPerBucket = 250

    private func isIndexed(_ blob: UInt64) -> Bool {
        guard let indexed = indexed ?? counted else { return true }
        return blob >> 16 != indexed.pack ? blob >> 16 < indexed.pack : blob & 0xffff < indexed.slots
    }

    private func writeIndex(_ table: Environment.Table, _ writing: inout WriteTransaction) throws(Failure) {
        var entries: [(prefix: UInt64, blob: UInt64)] = []
        for (number, slots) in packs {
            for (place, slot) in slots.enumerated() {
                let blob = number << 16 | UInt64(place)
                guard indexedAnyhow.contains(blob) || isIndexed(blob) && slot.codec != Self.collected else { continue }
                entries.append((slot.digest.word0 >> 16, blob))
            }
        }
        entries.sort { ($0.prefix, $0.blob) < ($1.prefix, $1.blob) }
        for start in stride(from: 0, to: entries.count, by: Self.entriesPerBucket) {
            let part = entries[start..<min(entries.count, start + Self.entriesPerBucket)]
            let key = start == 0 ? 0 : entries[start].prefix
            let bytes = [UInt8](count: 4080) { bytes in
                bytes.store(UInt16(part.count), at: 8)
                for (place, entry) in part.enumerated() {
                    bytes.store((entry.prefix << 16 | entry.blob >> 32).bigEndian, at: 16 + 12 * place)
                    bytes.store(UInt32(truncatingIfNeeded: entry.blob).bigEndian, at: 16 + 12 * place + 8)
                }
                bytes.store(checksum(bytes.bytes.extracting(8..<16 + 12 * part.count), seed: key), at: 0)
            }
            try put(bytes, key, table, &writing)
        }
    }

    // MARK: Journals

    /// What the maps have: the last record of an era.
    private static let firstSequence: UInt64 = 1 << 32

    private func writeJournal(of disk: Disk, _ path: String) throws(Failure) {
        let file = try File(path: "\(path)/journals/\(disk.number)", options: [.write, .create])
        var offset: UInt64 = 0
        for (index, write) in disk.journal.enumerated() {
            let payload = write.bytes
            let header = [UInt8](count: 64) { bytes in
                bytes.store(0x314a_4444 as UInt32, at: 0)
                bytes.store(1 as UInt32, at: 4)
                bytes.store(Self.firstSequence + 1 + UInt64(index), at: 8)
                bytes.store(write.block, at: 16)
                bytes.store(UInt64(payload.count / blockSize), at: 24)
                bytes.store(checksum(payload.rawBytes), at: 32)
                bytes.store(checksum(bytes.bytes.extracting(0..<56), seed: disk.number), at: 56)
            }
            try file.write(at: offset, header.rawBytes)
            try file.write(at: offset + 64, payload.rawBytes)
            offset += UInt64(64 + payload.count)
        }
    }
}
