internal import BlockModel
internal import Catalogue
internal import Store
internal import System

/// Blocks that are in the journal and not in the map yet: those of the records between two positions.
/// Changes under the staging's lock, and not at all once it is frozen.
final class Generation: @unchecked Sendable {
    private var table = BlockTable()
    /// Bytes of the journal that it takes, and those of them that are records.
    private(set) var journalBytes: UInt64 = 0
    private(set) var recordBytes: UInt64 = 0
    /// The journal's position behind it, and before it.
    var end = JournalPosition(sequence: 0, offset: 0)
    private(set) var start = JournalPosition(sequence: 0, offset: 0)
    /// When its first record came.
    private(set) var began = 0.0
    /// Copies of the disk that were begun, and have what it has once this is in the map.
    var copies: [String] = []

    /// No offset in a journal, all of which are small.
    static let discarded = UInt64.max
    /// Not staged here.
    static let absent = UInt64.max - 1
    /// Most blocks that it has.
    static let maximumBlocks = 32768

    init() {}

    /// An empty one at a position of the journal.
    convenience init(behind end: JournalPosition) {
        self.init()
        reset(end: end)
    }

    var isEmpty: Bool { journalBytes == 0 }
    var blockCount: Int { table.blocks.count }

    /// What is staged for a block: the offset of its 4096 bytes in the journal, `discarded` or `absent`.
    func place(_ block: UInt64) -> UInt64 { table[block] ?? Self.absent }

    func hasBlocks(_ range: Range<UInt64>) -> Bool { table.blocks.contains { range.contains($0) } }

    /// Blocks in ascending order, with their places.
    func sorted() -> [(block: UInt64, place: UInt64)] {
        table.blocks.sorted().map { ($0, place($0)) }
    }

    func reset(end: JournalPosition) {
        table.removeAll()
        journalBytes = 0
        recordBytes = 0
        copies = []
        self.end = end
        start = end
    }

    /// Takes in the unused end of the ring, which frees up with the records before it.
    func skip(_ bytes: UInt64, to start: JournalPosition) {
        if isEmpty { began = monotonicSeconds() }
        journalBytes += bytes
        end = start
    }

    /// Takes in a record whose payload is at `payload`. The last writer of a block wins.
    func stage(_ record: Journal.Record, payload: UInt64) {
        if isEmpty { began = monotonicSeconds() }
        for index in 0..<record.blocks {
            table[record.block &+ index] = record.kind == .write ? payload + index * UInt64(blockSize) : Self.discarded
        }
        journalBytes += UInt64(record.byteCount)
        recordBytes += UInt64(record.byteCount)
        end = JournalPosition(sequence: record.sequence, offset: payload + UInt64(record.payloadBytes))
    }
}

/// Staged blocks, and how far the committer is with them.
struct Staging {
    /// Being filled by whoever writes.
    var active = Generation()
    /// Being hashed and committed, the oldest first; at most `maximumFrozen`.
    var frozen: [Generation] = []
    /// Those of the frozen that nobody hashes yet.
    var unhashed: [Generation] = []
    /// For later use.
    var spare: [Generation] = []
    /// Those of the frozen that are hashed, each with its batch.
    var hashed: [(Generation, Batch)] = []
    /// Every record up to this one is in the map.
    var committed: UInt64
    /// When the last of them came there.
    private(set) var lastCommit: Double?
    /// Bytes a second at which the last large generation was hashed, or would be.
    var hashingRate = 0.0
    /// How many wait for room, for an empty staging or for a commit.
    var waiting = 0
    var isClosing = false
    /// Nothing more will be hashed.
    var isHashingDone = false
    /// Why the last commit failed; it is tried again.
    var failure: Failure?
    /// A commit was begun since the staging closes.
    var isTriedAtEnd = false
    /// Copies that could not be filled, until somebody has asked.
    var failedCopies: [String: Failure] = [:]
    /// Whether writers may wait for room in a full store. Nil: nobody has said so.
    var mayWaitForRoom: Bool?
    /// Seconds that a staged block waits at most.
    var patience = 1.0

    /// One is hashed while another is committed, and one more waits in between, so that neither waits for the other.
    static let maximumFrozen = 3

    init(end: JournalPosition) {
        active.end = end
        committed = end.sequence
    }

    /// Generations that are being hashed, or wait with their batches.
    var batched: Int { frozen.count - unhashed.count }

    /// Whether what failed stays in the journal, and all behind it: the staging closes, and what failed was tried since, as there might have been
    /// room by then; or another process did not go on, which was waited for as long as is right.
    var isGivenUp: Bool {
        guard isClosing, let failure else { return false }
        return isTriedAtEnd || failure.kind == .busy
    }

    /// Bytes of staged records.
    var recordBytes: UInt64 { frozen.reduce(active.recordBytes) { $0 + $1.recordBytes } }
    var isEmpty: Bool { active.isEmpty && frozen.isEmpty }

    /// Whether any of these blocks is staged. Looks at all that are.
    func hasBlocks(_ range: Range<UInt64>) -> Bool { active.hasBlocks(range) || frozen.contains { $0.hasBlocks(range) } }

    /// What is staged for `block`, or `Generation.absent`.
    func place(_ block: UInt64) -> UInt64 {
        let place = active.place(block)
        if place != Generation.absent { return place }
        for generation in frozen.reversed() {
            let place = generation.place(block)
            if place != Generation.absent { return place }
        }
        return Generation.absent
    }

    /// Takes what is staged out of the writers' way.
    mutating func freeze() {
        let generation = active
        active = spare.popLast() ?? Generation()
        active.reset(end: generation.end)
        frozen.append(generation)
        unhashed.append(generation)
    }

    /// Generations that there are at most before no more copies are begun.
    private static let mostFrozenForCopies = 8

    /// A copy has what was staged so far, and nothing of what comes. The generation may be one too many, or an empty one: writers are not
    /// kept waiting.
    /// - Returns: false: commits are far behind.
    mutating func copy(to name: String) -> Bool {
        // Nothing was staged since the last one: it is the same moment.
        if active.isEmpty, let last = unhashed.last, frozen.last === last {
            last.copies.append(name)
            return true
        }
        guard frozen.count < Self.mostFrozenForCopies, failure == nil else { return false }
        active.copies = [name]
        freeze()
        return true
    }

    /// A commit failed, be it because of a copy: all copies that wait are given up, so that what guests wait for goes on without them.
    mutating func giveUpCopies(because failure: Failure) {
        for generation in frozen {
            for copy in generation.copies { failedCopies[copy] = failure }
            generation.copies = []
        }
    }

    /// The oldest generation is in the map.
    /// - Returns: bytes of the journal that it took.
    mutating func finishOldest() -> UInt64 {
        guard !frozen.isEmpty else { return 0 }
        let generation = frozen.removeFirst()
        committed = generation.end.sequence
        lastCommit = monotonicSeconds()
        spare.append(generation)
        return generation.journalBytes
    }
}

/// From block to place: open addressing, eight neighbouring blocks side by side. Takes no memory but to grow.
struct BlockTable {
    /// The blocks, in the order in which they came.
    private(set) var blocks: [UInt64] = []
    /// Block plus one (0: free) and place, by turns.
    private var slots = [UInt64](repeating: 0, count: 2 * 1024)
    private var bits = 10
    /// Nobody who chooses blocks can know which of them collide.
    private let multiplier = UInt64.random(in: .min ... .max) | 1

    private func home(_ block: UInt64) -> Int {
        let group = ((block >> 3) &* multiplier) >> UInt64(64 - bits + 3)
        return Int(group << 3 | block & 7)
    }

    /// The slot that has the block, or the free one that it would take.
    private func find(_ block: UInt64) -> Int {
        let mask = slots.count / 2 - 1
        var slot = home(block)
        while slots[2 * slot] != 0, slots[2 * slot] != block + 1 { slot = (slot + 1) & mask }
        return slot
    }

    subscript(block: UInt64) -> UInt64? {
        get {
            let slot = find(block)
            return slots[2 * slot] == 0 ? nil : slots[2 * slot + 1]
        }
        set {
            guard let newValue else { return }
            if 2 * blocks.count >= slots.count / 2 { grow() }
            let slot = find(block)
            if slots[2 * slot] == 0 {
                slots[2 * slot] = block + 1
                blocks.append(block)
            }
            slots[2 * slot + 1] = newValue
        }
    }

    private mutating func grow() {
        let old = slots
        bits += 1
        slots = [UInt64](repeating: 0, count: 2 * old.count)
        for index in stride(from: 0, to: old.count, by: 2) where old[index] != 0 {
            let slot = find(old[index] - 1)
            slots[2 * slot] = old[index]
            slots[2 * slot + 1] = old[index + 1]
        }
    }

    mutating func removeAll() {
        guard !blocks.isEmpty else { return }
        blocks.removeAll(keepingCapacity: true)
        for index in slots.indices { slots[index] = 0 }
    }
}
