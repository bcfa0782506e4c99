internal import BlockModel
internal import Catalogue
internal import Hashing
internal import Store
internal import System

/// A disk's journal: writes that were acknowledged and are not in the map yet. They survive the process from the moment at which they are
/// written, and the loss of power after a flush. A ring of records, one behind the other, numbered without a gap:
///
///      0  magic             u32   "DDJ1"
///      4  kind              u32   1 write, 2 discard, 3 skip (the next record is at offset 0)
///      8  sequence          u64   one more than the record before
///     16  first block       u64
///     24  blocks            u64
///     32  payload checksum  u64   XXH3-64
///     40  0                       to 55
///     56  header checksum   u64   XXH3-64 of bytes 0–55, seeded with the journal's id
///     64  payload                 kind 1: 4096 bytes a block
///
/// The map remembers, in the commit that takes records in, the last sequence it holds and where the next record
/// is. A record is valid when its checksums are right and its sequence is the one expected; the first that is not
/// ends the journal. Each opening begins a new era of sequences, so that no older record can ever fit behind a
/// newer one.
struct Journal: ~Copyable, Sendable {
    static let magic: UInt32 = 0x314a_4444
    static let headerSize = 64
    enum Kind: UInt32 { case write = 1, discard, skip }

    struct Record {
        let kind: Kind
        var sequence: UInt64
        let block: UInt64
        let blocks: UInt64
        var payloadBytes: Int { kind == .write ? Int(blocks) * blockSize : 0 }
        /// Bytes of header and payload.
        var byteCount: Int { headerSize + payloadBytes }
    }

    /// A record to be written: its number is yet to come.
    struct Entry {
        var record: Record
        /// Where in the writer's memory its payload is, and the payload's `checksum`; 0 where there is none.
        let payload: Range<Int>
        let sum: UInt64

        init(_ kind: Kind, _ block: UInt64, blocks: UInt64, payload: Range<Int> = 0..<0, sum: UInt64 = 0) {
            record = Record(kind: kind, sequence: 0, block: block, blocks: blocks)
            self.payload = payload
            self.sum = sum
        }

        /// Of whole blocks, at most `maximumBlocks`.
        init(_ block: UInt64, _ payload: Range<Int>, of bytes: RawSpan) {
            self.init(.write, block, blocks: UInt64(payload.count / blockSize), payload: payload, sum: checksum(bytes.extracting(payload)))
        }
    }

    /// Most blocks of one record, and of all that are written at once: 1 MiB.
    static let maximumBlocks = 256
    /// Room for the most records that are written at once.
    typealias Entries = InlineArray<32, Entry>
    static let maximumEntries = Entries.count
    static let headersByteCount = maximumEntries * headerSize

    let storage: any JournalStorage
    /// Bytes of the ring.
    let capacity: UInt64
    /// Bytes at its beginning that small loads stay in, as the ring begins anew behind them when nothing is staged.
    var frontBytes: UInt64 { capacity / 8 }
    private let id: UInt64
    /// The storage's, kept here so that reads of staged blocks need no call through an existential.
    private let memory: JournalMemory

    init(_ storage: any JournalStorage, id: UInt64, capacity: UInt64) {
        self.storage = storage
        memory = storage.memory
        self.id = id
        self.capacity = capacity
    }

    /// Copies the block of a record that was written, at `place`, to `buffer` at `offset`.
    func copyBlock(at place: UInt64, to buffer: inout MutableRawSpan, at offset: Int) {
        buffer.copy(memory.bytes(at: Int(place), count: blockSize), to: offset)
    }

    /// Where that block is, for as long as the journal is, and no other record takes its place.
    @unsafe func address(ofBlockAt place: UInt64) -> UnsafeRawPointer { unsafe memory.address(at: Int(place), count: blockSize) }

    /// First sequence of the era after the one that `sequence` belongs to.
    static func nextEra(after sequence: UInt64) -> UInt64 { ((sequence >> 32) &+ 1) << 32 }

    /// Writes records, one behind the other; they survive this process when the call returns.
    /// - Parameters:
    ///   - entries: at most `maximumEntries`; they get the numbers behind the position's.
    ///   - bytes: what has their payloads.
    ///   - headers: `headersByteCount` bytes of room.
    ///   - parts: room, too. When this throws, what is left in it was not written.
    func write(
        _ entries: inout MutableSpan<Entry>, at position: JournalPosition, of bytes: RawSpan, headers: inout [UInt8], parts: inout Gather
    ) throws(Failure) {
        try headers.withMutableBytes { (headers) throws(Failure) in
            for index in entries.indices {
                entries[index].record.sequence = position.sequence &+ UInt64(index + 1)
                Self.encode(entries[index], id, into: &headers, at: index * Self.headerSize)
            }
            parts.removeAll()
            for index in entries.indices {
                unsafe parts.append(headers.bytes.extracting(index * Self.headerSize..<(index + 1) * Self.headerSize))
                unsafe parts.append(bytes.extracting(entries[index].payload))
            }
            try storage.write(at: position.offset, &parts)
        }
    }

    private static func encode(_ entry: Entry, _ id: UInt64, into headers: inout MutableRawSpan, at offset: Int) {
        headers.store(magic, at: offset)
        headers.store(entry.record.kind.rawValue, at: offset + 4)
        headers.store(entry.record.sequence, at: offset + 8)
        headers.store(entry.record.block, at: offset + 16)
        headers.store(entry.record.blocks, at: offset + 24)
        headers.store(entry.sum, at: offset + 32)
        headers.zero(at: offset + 40, count: 16)
        headers.store(checksum(headers.bytes.extracting(offset..<offset + 56), seed: id), at: offset + 56)
    }

    /// Has room for records up to `end`, and a mebibyte behind it, before they are written.
    /// - Parameter length: how far there was some since it was opened; a multiple of 4096.
    func allocate(_ length: inout UInt64, beyond end: UInt64) {
        guard end > length else { return }
        length = storage.allocate(length..<max(length, min(capacity, end &+ (1 << 20)) & ~4095)) & ~4095
    }

    /// Calls `body` with each valid record from `position` on, and the offset of its payload. They may have been written to
    /// a ring of another size, so that the file's length counts, and not `capacity`.
    /// - Parameter limit: bytes of records behind which no further one is begun.
    /// - Returns: the position behind the last.
    func replay(
        from position: JournalPosition, limit: Int = .max, _ body: (Record, UInt64) throws(Failure) -> Void
    ) throws(Failure) -> JournalPosition {
        var position = position
        var taken = 0
        // As large as the largest that was there: mostly there is none.
        var payload: [UInt8] = []
        let end = try storage.byteCount()
        // Each record takes at least its header, so a ring of `end` bytes has no more than this many.
        for _ in 0...end / UInt64(Self.headerSize) {
            if taken >= limit { break }
            if position.offset + UInt64(Self.headerSize) > end { position.offset = 0 }
            guard let (record, sum) = try header(at: position.offset), record.sequence == position.sequence &+ 1 else { break }
            if record.kind == .skip {
                position = JournalPosition(sequence: record.sequence, offset: 0)
                continue
            }
            let start = position.offset + UInt64(Self.headerSize)
            if payload.count < record.payloadBytes { payload = [UInt8](repeating: 0, count: record.payloadBytes) }
            let isWhole = try payload.withMutableBytes { (bytes) throws(Failure) in
                var room = bytes._mutatingExtracting(0..<record.payloadBytes)
                let got = try storage.read(at: start, into: &room)
                return got == record.payloadBytes && (record.kind != .write || checksum(room.bytes) == sum)
            }
            guard isWhole else { break }
            try body(record, start)
            taken += record.byteCount
            position = JournalPosition(sequence: record.sequence, offset: position.offset + UInt64(record.byteCount))
        }
        return position
    }

    /// Sees to it that no record begins at an offset where one was written.
    func invalidate(at offset: UInt64) throws(Failure) {
        try storage.write(at: offset, [UInt8](repeating: 0, count: Self.headerSize).rawBytes)
    }

    /// Gives back the room of the records between two positions, which are in the map.
    func giveBack(from start: JournalPosition, to end: JournalPosition) throws(Failure) {
        if start.offset <= end.offset { return try storage.giveBack(start.offset..<end.offset) }
        try storage.giveBack(start.offset..<max(start.offset, storage.byteCount()))
        try storage.giveBack(0..<end.offset)
    }

    private func header(at offset: UInt64) throws(Failure) -> (Record, UInt64)? {
        var bytes = [UInt8](repeating: 0, count: Self.headerSize)
        let got = try bytes.withMutableBytes { (bytes) throws(Failure) in try storage.read(at: offset, into: &bytes) }
        let span = bytes.rawBytes
        guard got == Self.headerSize, span.load(at: 0, as: UInt32.self) == Self.magic,
            span.load(at: 56, as: UInt64.self) == checksum(span.extracting(0..<56), seed: id),
            let kind = Kind(rawValue: span.load(at: 4))
        else { return nil }
        let record = Record(kind: kind, sequence: span.load(at: 8), block: span.load(at: 16), blocks: span.load(at: 24))
        guard kind != .write || record.blocks <= UInt64(Self.maximumBlocks) else { return nil }
        return (record, span.load(at: 32))
    }
}
