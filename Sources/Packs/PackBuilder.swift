internal import BlobModel
internal import BlockModel
internal import System

/// A pack to be written: its directory, and where the bytes of its blobs are. They are lent, and stay as they are until
/// the pack is written.
struct PackBuilder {
    let number: UInt64
    /// See `PackVersion`.
    var version: UInt32
    private var entries: [Entry] = []
    /// Bytes of the blobs, each with the room it takes.
    private var blobBytes = 0
    private var collected = 0
    /// Some slots have no entry to be written.
    private var mustBeSparse = false

    private struct Entry {
        let digest: Digest
        let check: UInt64
        /// A codec's number, or `PackFormat.collected`.
        let codec: UInt8
        let length: Int
        /// Nil where the blob was collected.
        let source: LentBytes?
        var isCollected: Bool { codec == PackFormat.collected }

        /// Of a collected slot whose entry is gone, too.
        static var gone: Entry { Entry(digest: Digest(0, 0, 0, 0), check: 0, codec: PackFormat.collected, length: 1, source: nil) }
    }

    init(number: UInt64, version: UInt32 = 0) {
        self.number = number
        self.version = version
        entries.reserveCapacity(184)
    }

    /// Goes on filling a pack that is not full. Nil when a blob of it cannot be had: start another pack then.
    @unsafe init?(continuing pack: PackView, number: UInt64) {
        unsafe self.init(copying: pack, number: number) { _ in false }
        guard collected == 0 else { return nil }
    }

    /// A copy of a pack in which `isDead` slots, and those that are collected already, are collected. Nil when a blob
    /// of it cannot be had: it is better left alone then.
    /// - Parameter pack: all of it.
    @unsafe init?(copying pack: PackView, number: UInt64, version: UInt32 = 0, isDead: (Int) -> Bool) {
        self.init(number: number, version: version)
        for slot in 0..<pack.slotCount {
            let codec = pack.codec(slot), isCollected = isDead(slot) || codec == PackFormat.collected
            if isCollected { collected += 1 }
            guard let digest = pack.digest(slot) else {
                entries.append(.gone)
                mustBeSparse = true
                continue
            }
            if isCollected {
                entries.append(Entry(digest: digest, check: pack.check(slot), codec: PackFormat.collected, length: pack.storedLength(slot), source: nil))
            } else {
                // A codec that is not known here is none of this pack's.
                guard BlobCodec(rawValue: codec) != nil, let range = pack.range(slot), range.upperBound <= pack.bytes.byteCount,
                    let lent = unsafe LentBytes(pack.bytes.extracting(range))
                else { return nil }
                add(digest, pack.check(slot), codec, lent)
            }
        }
    }

    var slotCount: Int { entries.count }
    /// Whether it has no blob any more.
    var isEmpty: Bool { collected == entries.count }
    /// 0 when there is no such slot.
    func storedLength(_ slot: Int) -> Int { entries.indices.contains(slot) ? entries[slot].length : 0 }

    /// Whether a blob of `length` bytes still fits.
    func hasRoom(for length: Int) -> Bool {
        entries.count < PackFormat.maximumSlots
            && PackFormat.align(PackFormat.headerSize + (entries.count + 1) * PackFormat.entrySize) + blobBytes + length
                <= PackFormat.capacity
    }

    /// Adds a blob, whose bytes are lent until the pack is written.
    mutating func append(_ digest: Digest, check: UInt64, _ codec: BlobCodec, _ stored: LentBytes) {
        add(digest, check, codec.rawValue, stored)
    }

    /// Replaces the bytes of a blob.
    /// - Returns: false when that can't be: no such slot, collected, or no place within what an offset can say.
    mutating func replace(_ slot: Int, check: UInt64, _ codec: BlobCodec, _ stored: LentBytes) -> Bool {
        guard entries.indices.contains(slot) else { return false }
        let old = entries[slot]
        guard !old.isCollected, byteCount + stored.count <= 1 << 20 else { return false }
        blobBytes += PackFormat.align(stored.count) - PackFormat.align(old.length)
        entries[slot] = Entry(digest: old.digest, check: check, codec: codec.rawValue, length: stored.count, source: stored)
        return true
    }

    private mutating func add(_ digest: Digest, _ check: UInt64, _ codec: UInt8, _ stored: LentBytes) {
        entries.append(Entry(digest: digest, check: check, codec: codec, length: stored.count, source: stored))
        blobBytes += PackFormat.align(stored.count)
    }

    /// Bytes of the pack.
    var byteCount: Int { PackFormat.align(directoryEnd(isSparse)) + blobBytes }

    /// Whether collected slots have no entry.
    private var isSparse: Bool {
        func pages(_ isSparse: Bool) -> Int { (PackFormat.align(directoryEnd(isSparse)) + blobBytes + 16 + 4095) / 4096 }
        return mustBeSparse || collected > 0 && pages(true) < pages(false)
    }

    private func directoryEnd(_ isSparse: Bool) -> Int {
        guard isSparse else { return PackFormat.entry(entries.count) }
        // The filter notes the digest of the last slot, to know the store's state by.
        let isLastKept = entries.last.map(\.isCollected) ?? false
        return PackFormat.entry(entries.count - collected + (isLastKept ? 1 : 0)) + PackFormat.bitsSize(entries.count)
    }

    /// Writes the pack into a value of `byteCount` bytes.
    /// - Parameter first: slots from here on are compared with their check words once they are written.
    /// - Returns: false when one of these differs: what was hashed is not what was lent any more.
    func write(into value: inout MutableRawSpan, _ storeID: StoreID, checkingFrom first: Int = .max) -> Bool {
        var isTrue = true
        let isSparse = isSparse, directoryEnd = directoryEnd(isSparse)
        var offset = PackFormat.align(directoryEnd)
        value.zero(at: 0, count: PackFormat.headerSize)
        value.zero(at: directoryEnd, count: offset - directoryEnd)
        value.store(PackFormat.magic, at: 0)
        value.store(isSparse ? PackFormat.sparseFormat : PackFormat.format, at: 4)
        value.store(UInt16(entries.count), at: 6)
        value.store(number, at: 8)
        value.store(storeID.word0, at: 16)
        value.store(UInt32(byteCount), at: 24)
        value.store(version, at: 28)
        var place = PackFormat.headerSize
        if isSparse { place += storeBits(into: &value) }
        for slot in entries.indices where !isSparse || hasEntry(slot) {
            let entry = entries[slot]
            entry.digest.store(into: &value, at: place)
            value.store(entry.check ^ (isSparse ? PackFormat.mask(slot) : 0), at: place + 32)
            value.store(UInt32(offset / 16) | UInt32(entry.length - 1) << 16 | UInt32(entry.codec) << 28, at: place + 40)
            place += PackFormat.entrySize
            guard let source = entry.source else { continue }
            value.copy(source.bytes, to: offset)
            let end = PackFormat.align(offset + source.count)
            value.zero(at: offset + source.count, count: end - offset - source.count)
            if slot >= first, PackFormat.check(value.bytes.extracting(offset..<offset + source.count), entry.digest) != entry.check { isTrue = false }
            offset = end
        }
        if isSparse { value.store(PackFormat.bitsChecksum(value.bytes, slots: entries.count), at: 40) }
        value.store(PackView.headerChecksum(value.bytes, directoryEnd: directoryEnd), at: 32)
        return isTrue
    }

    /// Whether a slot of a sparse pack has an entry.
    private func hasEntry(_ slot: Int) -> Bool { !entries[slot].isCollected || slot == entries.count - 1 }

    /// - Returns: the bytes that they take.
    private func storeBits(into value: inout MutableRawSpan) -> Int {
        for word in 0..<PackFormat.bitsSize(entries.count) / 8 {
            var bits: UInt64 = 0
            for slot in word * 64..<min(word * 64 + 64, entries.count) where hasEntry(slot) { bits |= 1 << UInt64(slot % 64) }
            value.store(bits, at: PackFormat.headerSize + word * 8)
        }
        return PackFormat.bitsSize(entries.count)
    }
}
