internal import BlobModel
internal import CLinux
internal import Glibc
internal import Hashing
internal import Synchronization
internal import System

/// What writers know of the store's digests without a look at LMDB: a filter that tells what is surely new, and a table
/// of the blobs that are not in the digest index yet. One file, mapped by every process that writes to the store:
///
///      0  magic            u64     "DDFILTER"
///      8  version          u32     2
///     12  0                u32
///     16  store id         2 × u64
///     32  boot             2 × u64 what this start of the machine is called (random(4), boot_id)
///     48  blobs            u64     that it is made for
///     56  lines            u64     lines of the filter
///     64  slots            u64     of the table of recent blobs
///     72  checksum         u64     XXH3-64 of bytes 0–71
///     80  valid            u64     0 while the fields below change together; else 1
///     88  covered          2 × u64 pack and slots: filter and table have every blob before this place
///    104  tail             u64     first word of the digest in the slot before that place: a store put back from a copy has another
///    112  purged           2 × u64 the table has no blob before this place, as the index has them all
///    128  entered          u64     digests in the filter
///    136  recent           u64     entries in the table
///    144  unsure           u32     0; or the *past table* that a commit gives to the superblock, as it puts blobs into the index past
///                                  the table. If the superblock has another one, that commit failed, and the filter is made anew
///    148  0                u32
///    152  replaced         u64     1: another file is in its place
///    160  moment           u64     purges that were begun and that were done, together
///   4096  lines × 64       a split Bloom filter (Putze, Sanders, Singler 2007): a digest has five bits, all in one line
///     …   (slots + 4096) × 12  key, the first 48 bits of the digest: u32, u16; slot u16; pack u32, 0: free. Ordered by key
///                            but for collisions
///
/// It is made anew from the index and the packs' directories when it is lost, when it is of an earlier start of the machine (its pages
/// are never synced), or when it is behind or ahead of the store. It may have blobs that are not there, as their commit
/// failed, so that every find is compared with the pack's directory; but it never lacks one before `covered`. Whoever holds
/// `meta`'s write transaction may change it, and may be killed at any instant.
@safe
public final class DigestFilter: @unchecked Sendable {
    private let base: UnsafeMutableRawPointer
    private let byteCount: Int
    private let lines, slots: UInt64
    /// Digests that it is made for.
    let capacity: UInt64
    /// No file has it: other processes neither see nor change it.
    var isPrivate: Bool { obstacle != nil }
    /// Why it has no file.
    let obstacle: Failure?
    /// What the superblock's `pastTable` was when this process last had it up to date.
    var mark: UInt32?

    private static let magic: UInt64 = 0x5245_544c_4946_4444
    private static let headerSize = 4096
    private static let lineSize = 64
    /// Slots behind the last one, so that nothing wraps around.
    private static let tailSlots: UInt64 = 4096
    private enum Field {
        static let valid = 80, covered = 88, tail = 104, purged = 112, entered = 128, recent = 136, unsure = 144, replaced = 152, moment = 160
    }

    /// What a filter for that many digests looks like: 7 bits a digest for the filter when it is full, and a slot for
    /// each 18 digests; small stores have more, as there the merges would cost most.
    private static func shape(_ capacity: UInt64) -> (lines: UInt64, slots: UInt64, bytes: Int) {
        let lines = capacity * 7 / 512 + 1
        let slots = max(capacity / 18, min(capacity / 12, 1 << 18))
        return (lines, slots, headerSize + Int(lines) * lineSize + Int(slots + tailSlots) * MemoryLayout<RecentBlob>.stride)
    }

    /// A capacity whose table has room for that many recent blobs, and is due for a merge then.
    static func capacity(forRecent blobs: UInt64) -> UInt64 { blobs <= 200_000 ? blobs * 15 : blobs * 21 }

    /// Maps the file at `path`. Nil: there is none, or it is not this store's of this start of the machine.
    init?(path: String, storeID: StoreID) {
        let descriptor = unsafe open(path, O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { _ = close(descriptor) }
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0, status.st_size >= Self.headerSize,
            let base = unsafe Self.map(Int(status.st_size), descriptor)
        else { return nil }
        let header = unsafe RawSpan(_unsafeStart: base, byteCount: Self.headerSize)
        let capacity: UInt64 = header.load(at: 48)
        let known = Self.header(capacity <= 1 << 48 ? capacity : 0, storeID)
        let shape = Self.shape(capacity <= 1 << 48 ? capacity : 0)
        let isKnown = unsafe memcmp(known, base, known.count) == 0
        guard isKnown, shape.bytes == Int(status.st_size) else {
            unsafe munmap(base, Int(status.st_size))
            return nil
        }
        unsafe self.base = base
        byteCount = shape.bytes
        (lines, slots) = (shape.lines, shape.slots)
        self.capacity = capacity
        obstacle = nil
    }

    /// Makes a new one for `capacity` digests and puts it at `path`, or, where that can't be (a full filesystem), keeps it
    /// to this process.
    init(making path: String, capacity: UInt64, storeID: StoreID) throws(Failure) {
        let shape = Self.shape(capacity)
        var new: NewFile?
        var obstacle: Failure?
        do throws(Failure) { new = try Self.wholeFile(for: path, shape.bytes) } catch { obstacle = error }
        let mapped = unsafe new.map { unsafe $0.file.withNumber { unsafe Self.map(shape.bytes, $0) } } ?? Self.map(shape.bytes, -1)
        guard let base = unsafe mapped else { throw Failure(systemCall: "map", .file(path), errno: errno) }
        unsafe self.base = base
        byteCount = shape.bytes
        (lines, slots) = (shape.lines, shape.slots)
        self.capacity = capacity
        let header = Self.header(capacity, storeID)
        unsafe base.copyMemory(from: header, byteCount: header.count)
        // Where it can't have its name, this process alone uses it.
        do throws(Failure) { try new?.put(durably: false) } catch { obstacle = error }
        self.obstacle = obstacle
    }

    /// A new file with all of its blocks: a page that finds no room later would be a bus error.
    private static func wholeFile(for path: String, _ byteCount: Int) throws(Failure) -> NewFile {
        let new = try NewFile(for: path)
        let code = new.file.withNumber { posix_fallocate($0, 0, off_t(byteCount)) }
        guard code == 0 else { throw Failure(systemCall: "set room aside for", .file(path), errno: code) }
        try new.belongToDirectory()
        return new
    }

    deinit { unsafe munmap(base, byteCount) }

    /// mmap(2): shared, or private memory when there is no file.
    @unsafe private static func map(_ byteCount: Int, _ descriptor: CInt) -> UnsafeMutableRawPointer? {
        let flags = descriptor >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS
        let address = unsafe mmap(nil, byteCount, PROT_READ | PROT_WRITE, flags, descriptor, 0)
        return unsafe address == MAP_FAILED ? nil : address
    }

    private static func header(_ capacity: UInt64, _ storeID: StoreID) -> [UInt8] {
        let shape = shape(capacity)
        return [UInt8](count: 80) { bytes in
            bytes.store(magic, at: 0)
            bytes.store(UInt32(2), at: 8)
            bytes.store(storeID.word0, at: 16)
            bytes.store(storeID.word1, at: 24)
            bytes.store(boot.0, at: 32)
            bytes.store(boot.1, at: 40)
            bytes.store(capacity, at: 48)
            bytes.store(shape.lines, at: 56)
            bytes.store(shape.slots, at: 64)
            bytes.store(checksum(bytes.bytes.extracting(0..<72)), at: 72)
        }
    }

    /// Pages that were not synced do not outlive the machine's start, whose name tells.
    private static let boot: (UInt64, UInt64) = {
        guard let name = MachineStart.name else {
            // Then no file is trusted but one that this process made.
            var random = SystemRandomNumberGenerator()
            return (random.next(), random.next())
        }
        let bytes = Array(name.utf8)
        return (checksum(bytes.rawBytes), checksum(bytes.rawBytes, seed: 1))
    }()

    // MARK: Header

    private subscript(_ field: Int) -> UInt64 {
        get { unsafe base.load(fromByteOffset: field, as: UInt64.self) }
        set { unsafe base.storeBytes(of: newValue, toByteOffset: field, as: UInt64.self) }
    }

    private func place(_ field: Int) -> PackPlace { PackPlace(pack: self[field], slots: self[field + 8]) }
    private func put(_ place: PackPlace, _ field: Int) {
        self[field + 8] = place.slots
        atomicMemoryFence(ordering: .releasing)
        self[field] = place.pack
    }

    var isValid: Bool { self[Field.valid] == 1 && self[Field.replaced] == 0 }
    var covered: PackPlace { place(Field.covered) }
    var tail: UInt64 { self[Field.tail] }
    var purged: PackPlace { place(Field.purged) }
    var unsure: UInt32 { UInt32(truncatingIfNeeded: self[Field.unsure]) }
    /// Digests that were entered, those that are gone included.
    var entered: UInt64 { self[Field.entered] }
    /// Recent blobs, and those that fit before they slow each other down.
    var recent: UInt64 { self[Field.recent] }
    var recentLimit: UInt64 { slots / 8 * 7 }
    /// From so many on they should move to the index.
    var isMergeDue: Bool { recent >= slots / 16 * 7 }

    /// How many of them to move with `added` new ones: so many that the merge, which is at the key `merged`, is done when 13 in
    /// 16 slots are taken, and all commits have about the same to do.
    func mergePiece(from merged: UInt64, adding added: Int) -> Int {
        let left = recent.multipliedFullWidth(by: ~merged).high
        let room = max(1, Int(slots / 16 * 13) - Int(recent))
        return max(512, min(Int(left) * added / room, 8 * added))
    }

    /// Changes when recent blobs are taken out, and are not to be found in between.
    public var moment: UInt64 {
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        return self[Field.moment]
    }

    /// Whether nothing was taken out since that moment: then what it did not find was not there.
    public func isSteady(since moment: UInt64) -> Bool { moment % 2 == 0 && self.moment == moment }

    /// Makes it anew with the next use.
    func invalidate() { self[Field.valid] = 0 }
    /// Tells the other processes, which have it mapped, that it is not the store's any more.
    func retire() { self[Field.replaced] = 1 }

    /// Everything before `place` has been entered; the state between two values is one between the two states.
    func cover(_ place: PackPlace, tail: UInt64) {
        atomicMemoryFence(ordering: .releasing)
        put(place, Field.covered)
        self[Field.tail] = tail
    }

    func noteUnsure(_ mark: UInt32) {
        self[Field.unsure] = UInt64(mark)
        atomicMemoryFence(ordering: .releasing)
    }

    /// A new filter is complete.
    func validate(purged: PackPlace) {
        put(purged, Field.purged)
        atomicMemoryFence(ordering: .releasing)
        self[Field.valid] = 1
    }

    // MARK: The filter

    /// The line of a digest, by its first bits, and the bits in it, from the first 48, which are all that the index has.
    @inline(__always)
    private func line(_ word: UInt64) -> (UnsafeMutablePointer<UInt64>, UInt64) {
        let first = word & ~0xffff
        let index = first.multipliedFullWidth(by: lines).high
        let start = unsafe (base + Self.headerSize + Int(index) * Self.lineSize).assumingMemoryBound(to: UInt64.self)
        return unsafe (start, (first >> 16) &* 0x9e37_79b9_7f4a_7c15)
    }

    /// Whether a digest with that first word may be in the store. False is sure.
    @inline(__always)
    func mayContain(_ word: UInt64) -> Bool {
        var (start, bits) = unsafe line(word)
        for _ in 0..<5 {
            if unsafe start[Int(bits >> 61)] >> (bits >> 55 & 63) & 1 == 0 { return false }
            bits = bits << 9 | bits >> 55
        }
        return true
    }

    /// Has the processor fetch what is looked at for a digest with that first word.
    @inline(__always)
    func prefetch(_ word: UInt64) {
        unsafe clinux_prefetch(line(word).0)
        unsafe clinux_prefetch(table + home(word))
    }

    /// Enters the first 48 bits of a digest, or more of them.
    func enter(_ word: UInt64) {
        var (start, bits) = unsafe line(word)
        for _ in 0..<5 {
            unsafe start[Int(bits >> 61)] |= 1 << (bits >> 55 & 63)
            bits = bits << 9 | bits >> 55
        }
        self[Field.entered] &+= 1
    }

    // MARK: Recent blobs

    private var table: UnsafeMutablePointer<RecentBlob> {
        unsafe (base + Self.headerSize + Int(lines) * Self.lineSize).assumingMemoryBound(to: RecentBlob.self)
    }

    private func home(_ word: UInt64) -> Int { Int((word & ~0xffff).multipliedFullWidth(by: slots).high) }
    private var tableEnd: Int { Int(slots + Self.tailSlots) }

    /// Calls `body` with each recent blob whose first 48 bits are those of `word` until it says true.
    /// - Returns: whether it did.
    @inline(__always)
    func findRecent(_ word: UInt64, _ body: (BlobNumber) throws(Failure) -> Bool) throws(Failure) -> Bool {
        var slot = home(word)
        while slot < tableEnd {
            let entry = unsafe table[slot]
            if entry.isFree { return false }
            if entry.key == word & ~0xffff, try body(entry.blob) { return true }
            slot += 1
        }
        return false
    }

    /// Enters a blob in filter and table.
    /// - Returns: false when there is no room for it near its place: it has to go to the index at once.
    func insert(_ word: UInt64, _ blob: BlobNumber) -> Bool {
        enter(word)
        guard recent < recentLimit else { return false }
        let entry = RecentBlob(word, blob)
        var slot = home(word)
        let end = min(tableEnd, slot + Int(Self.tailSlots))
        while slot < end, unsafe !table[slot].isFree {
            if unsafe table[slot] == entry { return true }
            slot += 1
        }
        guard slot < end else { return false }
        unsafe table[slot] = entry.free
        // A process that is killed in between leaves a free slot.
        atomicMemoryFence(ordering: .releasing)
        unsafe table[slot].pack = entry.pack
        self[Field.recent] &+= 1
        return true
    }

    /// The recent blobs before `mark` whose keys are `first` or more, about `limit` of them and all of each key.
    /// - Returns: them, in no order, and the key to go on from; nil: there are none beyond.
    func recent(from first: UInt64, before mark: PackPlace, limit: Int) -> ([IndexEntry], next: UInt64?) {
        // Of a word, its first 48 bits count.
        let first = first & ~0xffff
        var found: [IndexEntry] = []
        found.reserveCapacity(limit + 64)
        var slot = home(first)
        // Where the piece ends: at a slot's first key, which no key with an earlier home reaches.
        var next: UInt64?
        while slot < tableEnd {
            let entry = unsafe table[slot]
            if !entry.isFree {
                if let next, entry.key >= next {
                    // Belongs to the next piece.
                } else if entry.key >= first, mark.isBehind(entry.blob) {
                    found.append(IndexEntry(word: entry.key, entry.blob))
                }
            } else if next != nil {
                break  // The run that the piece's last keys may have been pushed into ends here.
            }
            slot += 1
            if next == nil, found.count >= limit, slot < Int(slots) { next = firstKey(ofHome: slot) }
        }
        return (found, next)
    }

    /// The least key whose home is `slot`.
    private func firstKey(ofHome slot: Int) -> UInt64 {
        // The inverse of `home`, rounded up.
        let (quotient, remainder) = slots.dividingFullWidth((UInt64(slot), 0))
        return remainder == 0 ? quotient : quotient + 1
    }

    /// Takes out the recent blobs before `place`, which are in the index now.
    func purge(before place: PackPlace) {
        invalidate()
        self[Field.moment] &+= 1
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        var rest: [RecentBlob] = []
        for slot in 0..<tableEnd {
            let entry = unsafe table[slot]
            if !entry.isFree, !place.isBehind(entry.blob) { rest.append(entry) }
        }
        unsafe UnsafeMutableRawPointer(table).initializeMemory(
            as: UInt8.self, repeating: 0, count: tableEnd * MemoryLayout<RecentBlob>.stride)
        self[Field.recent] = 0
        let count = entered
        for entry in rest { _ = insert(entry.key, entry.blob) }
        self[Field.entered] = count
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        self[Field.moment] &+= 1
        validate(purged: place)
    }
}

/// A slot of the table of recent blobs. The smaller they are, the more there are, and the fewer pages a merge writes.
private struct RecentBlob: Equatable {
    /// The first 48 bits of the digest.
    var high: UInt32, low: UInt16
    var slot: UInt16
    /// 0: the slot is free.
    var pack: UInt32

    init(_ word: UInt64, _ blob: BlobNumber) {
        high = UInt32(word >> 32)
        low = UInt16(truncatingIfNeeded: word >> 16)
        slot = UInt16(truncatingIfNeeded: blob.slot)
        pack = UInt32(truncatingIfNeeded: blob.pack)
    }

    var isFree: Bool { pack == 0 }
    /// The digest's first word, as far as it is known.
    var key: UInt64 { UInt64(high) << 32 | UInt64(low) << 16 }
    var blob: BlobNumber { BlobNumber(pack: UInt64(pack), slot: Int(slot)) }
    /// All of it but what makes it one.
    var free: RecentBlob {
        var entry = self
        entry.pack = 0
        return entry
    }
}
