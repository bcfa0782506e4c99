import BlobModel
import BlockModel
import Glibc
import Hashing
import System
import Testing
import TestSupport

@testable import Index
@testable import LMDB
@testable import Packs
@testable import Store

/// Filter, table of recent blobs and index together against a dictionary: through merges, other processes, lost and
/// foreign files, and commits that fail half way.
@Suite struct FilterTests {
    let scratch: ScratchDirectory
    let store: Store

    init() throws {
        scratch = try ScratchDirectory()
        store = try Store(path: scratch.path + "/store", creating: true)
    }

    /// How far a commit of new blobs gets.
    enum End: CaseIterable { case whole, afterIndexing, afterPacks }

    /// Stores tiny blobs of these names as a commit does it.
    static func add(_ digests: [Digest], to store: Store, end: End = .whole) throws -> [BlobNumber] {
        var transaction = try StoreTransaction.begin(store)
        _ = try transaction.synchronizedFilter()
        let number = transaction.superblock.counted.pack + 1
        var builder = PackBuilder(number: number)
        let tiny = lend([UInt8](repeating: 1, count: 16))
        for digest in digests { builder.append(digest, check: PackFormat.check(tiny.bytes, digest), .raw, tiny) }
        try store.put(builder)
        let blobs = digests.indices.map { BlobNumber(pack: number, slot: $0) }
        try transaction.adoptUnknownBlobs()
        if end != .afterPacks { try transaction.advanceMerge(try transaction.synchronizedFilter(), entered: digests.count) }
        if end == .whole { try transaction.commit() } else { transaction.abandon() }
        return blobs
    }

    static func find(_ digests: [Digest], in store: Store) throws -> [BlobNumber] {
        var transaction = try StoreTransaction.begin(store)
        let filter = try transaction.synchronizedFilter()
        let found = try find(digests, filter, transaction.superblock.index, transaction.lmdb.view, store)
        // What it brought up to date counts.
        try transaction.commit()
        return found
    }

    static func find(_ digests: [Digest], _ filter: DigestFilter, _ state: IndexState, _ meta: View, _ store: Store) throws -> [BlobNumber] {
        let packs = try store.snapshot()
        var finder = PackFinder(packs)
        var lookup = try store.parts.index.lookup(filter, state, meta)
        var found: [BlobNumber] = []
        let guesses = try lookup.guess(digests.map(\.word0))
        for (digest, guess) in zip(digests, guesses) {
            let blob = try lookup.find(digest) { (blob) throws(Failure) in try finder.holds(digest, blob) }
            found.append(blob)
            // Of what is there, another blob is guessed only when it begins alike.
            if blob != .none, guess != blob { #expect(try finder.digest(guess).map { $0.word0 >> 16 } == digest.word0 >> 16) }
        }
        return found
    }

    @Test(arguments: 0..<6) func everyBlobIsFoundAndNothingElse(seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed))
        var expected: [Digest: BlobNumber] = [:]
        var open = store
        var kept: [UInt8]?
        var merges = 0
        var wasMerging = false
        for round in 0..<60 {
            let huddle = Int.random(in: 0..<8, using: &random) == 0
            let start = random.next() as UInt64
            let digests = (0..<Int.random(in: 1...900, using: &random)).map { _ in
                Digest(huddle ? start & ~0xff_ffff | random.next() & 0xff_ffff : random.next(), random.next(), random.next(), 0)
            }
            let end = Int.random(in: 0..<4, using: &random) == 0 ? End.allCases.randomElement(using: &random) ?? .whole : .whole
            for (digest, blob) in zip(digests, try Self.add(digests, to: open, end: end)) { expected[digest] = blob }
            // Some leave it missing, with a process that has it open all the same.
            let isThere = unsafe access(store.parts.index.filterPath, F_OK) == 0
            switch isThere ? Int.random(in: 0..<12, using: &random) : 0 {
            case 0: open = try Store(path: store.path)
            case 1: unsafe unlink(store.parts.index.filterPath)
            case 2: kept = try Files.bytes(store.parts.index.filterPath)
            case 3:
                // A copy of the file that was put aside: another file, as far as those go that have it mapped.
                if let kept {
                    unsafe unlink(store.parts.index.filterPath)
                    try Files.write(store.parts.index.filterPath, kept)
                    open = try Store(path: store.path)
                }
            case 4:
                try Files.flip(store.parts.index.filterPath, at: [0, 8, 16, 32, 48, 72].randomElement(using: &random) ?? 0)
                open = try Store(path: store.path)
            case 5:
                let half = try Files.bytes(store.parts.index.filterPath)
                unsafe unlink(store.parts.index.filterPath)
                try Files.write(store.parts.index.filterPath, Array(half.prefix(half.count / 2)))
            default: break
            }
            let all = Array(expected.keys)
            let found = try Self.find(all, in: open)
            #expect(zip(all, found).allSatisfy { expected[$0] == $1 }, "seed \(seed), round \(round)")
            let strangers = (0..<50).map { _ in Digest(random.next(), 1, 2, 3) }
            #expect(try Self.find(strangers, in: open).allSatisfy { $0 == .none })
            do {
                let state = try store.superblock().index
                if wasMerging, state.merging == .start { merges += 1 }
                wasMerging = state.merging != .start
            }
            if round % 12 == 11 { #expect(try store.check(readData: false, repair: false) { _, _ in }.problems == [], "seed \(seed), round \(round)") }
        }
        #expect(merges > 0, "seed \(seed): no merge came to its end")
        try store.completeIndex()
        let all = Array(expected.keys)
        #expect(try zip(all, Self.find(all, in: open)).allSatisfy { expected[$0] == $1 }, "seed \(seed)")
        #expect(open.parts.index.filter.withLock { $0?.recent } == 0, "the table keeps what the index has")
        #expect(try store.check(readData: false, repair: false) { _, _ in }.problems == [], "seed \(seed)")
    }

    /// More names that begin alike than lie side by side in the table.
    @Test func namesThatHuddle() throws {
        var random = SeededGenerator(seed: 5)
        var expected: [Digest: BlobNumber] = [:]
        for _ in 0..<7 {
            let digests = (0..<900).map { _ in Digest(0x1234_5678_9a00_0000 | random.next() & 0xff_ffff, random.next(), 0, 0) }
            for (digest, blob) in zip(digests, try Self.add(digests, to: store)) { expected[digest] = blob }
        }
        let all = Array(expected.keys)
        #expect(try zip(all, Self.find(all, in: store)).allSatisfy { expected[$0] == $1 })
        #expect(try zip(all, Self.find(all, in: try Store(path: store.path))).allSatisfy { expected[$0] == $1 })
        #expect(try store.check(readData: false, repair: false) { _, _ in }.problems == [])
    }

    /// What went past the table into the index is lost with its commit, and must not count as known.
    @Test func aFailedCommitOfNamesThatHuddle() throws {
        var random = SeededGenerator(seed: 6)
        var expected: [Digest: BlobNumber] = [:]
        for round in 0..<8 {
            let digests = (0..<900).map { _ in Digest(0x1234_5678_9a00_0000 | random.next() & 0xff_ffff, random.next(), 0, 0) }
            let blobs = try Self.add(digests, to: store, end: round >= 5 ? .afterIndexing : .whole)
            for (digest, blob) in zip(digests, blobs) { expected[digest] = blob }
        }
        let all = Array(expected.keys)
        #expect(try zip(all, Self.find(all, in: store)).allSatisfy { expected[$0] == $1 })
        #expect(try store.check(readData: false, repair: false) { _, _ in }.problems == [])
    }

    /// The same, when the next commit is one that looks for nothing: it counts the blobs that it finds.
    @Test func aFailedCommitOfNamesThatHuddleAndOneOfNoBlocks() throws {
        var random = SeededGenerator(seed: 9)
        var expected: [Digest: BlobNumber] = [:]
        for round in 0..<6 {
            let digests = (0..<900).map { _ in Digest(0x1234_5678_9a00_0000 | random.next() & 0xff_ffff, random.next(), 0, 0) }
            let blobs = try Self.add(digests, to: store, end: round == 5 ? .afterIndexing : .whole)
            for (digest, blob) in zip(digests, blobs) { expected[digest] = blob }
        }
        try store.create("d", byteCount: 4096)
        let all = Array(expected.keys)
        #expect(try zip(all, Self.find(all, in: store)).allSatisfy { expected[$0] == $1 })
        #expect(try store.check(readData: false, repair: false) { _, _ in }.problems == [])
    }

    /// The filter of a store that was the same once, and went on in another way, or further.
    @Test(arguments: [0, 1]) func theFilterOfAnotherCourseOfEvents(commits: Int) throws {
        var random = SeededGenerator(seed: 10)
        var expected: [Digest: BlobNumber] = [:]
        func add(to store: Store, isExpected: Bool = true) throws {
            let digests = (0..<900).map { _ in Digest(random.next(), random.next(), 0, 0) }
            for (digest, blob) in zip(digests, try Self.add(digests, to: store)) where isExpected { expected[digest] = blob }
        }
        try add(to: store)
        let path = scratch.path + "/copy"
        #expect(try Child("/bin/cp", ["-r", "--sparse=always", store.path, path]).wait().status == 0)
        try add(to: store, isExpected: false)
        for _ in 0..<commits { try add(to: try Store(path: path)) }
        unsafe unlink(path + "/filter")
        try Files.write(path + "/filter", try Files.bytes(store.parts.index.filterPath))
        let copy = try Store(path: path)
        for _ in 0..<8 {
            let all = Array(expected.keys)
            #expect(try zip(all, Self.find(all, in: copy)).allSatisfy { expected[$0] == $1 })
            try add(to: copy)
        }
        #expect(try copy.check(readData: false, repair: false) { _, _ in }.problems == [])
    }

    /// However large commits are, none finds the table full.
    @Test(arguments: [50, 1000, 1500]) func mergesKeepUp(size: Int) throws {
        var random = SeededGenerator(seed: 11)
        var merges = 0
        var indexed = PackPlace.start
        for _ in 0..<30_000 / size {
            _ = try Self.add((0..<size).map { _ in Digest(random.next(), random.next(), 0, 0) }, to: store)
            let state = try StoreTransaction.begin(store).superblock.index
            #expect(state.pastTable == 0)
            if state.indexed != indexed { merges += 1 }
            indexed = state.indexed
        }
        #expect(merges >= 5)
    }

    /// A full filesystem leaves the filter to the process.
    @Test func withoutAFile() throws {
        // A directory in its place.
        #expect(unsafe mkdir(store.parts.index.filterPath, 0o700) == 0)
        var random = SeededGenerator(seed: 7)
        let digests = (0..<100).map { _ in Digest(random.next(), random.next(), 0, 0) }
        let blobs = try Self.add(digests, to: store)
        #expect(try Self.find(digests, in: store) == blobs)
        #expect(try File.status(of: store.parts.index.filterPath)?.kind == .directory)
        #expect(Set(File.names(in: store.path)).isSubset(of: ["meta", "packs", "journals", "filter", "reserve", "lock"]))
        #expect(try Self.find(digests, in: try Store(path: store.path)) == blobs)
    }

    @Test func surelyNewIsSeldomUnsure() throws {
        var random = SeededGenerator(seed: 8)
        let filter = try DigestFilter(making: scratch.path + "/f", capacity: 100_000, storeID: StoreID(1, 2))
        let words = (0..<100_000).map { _ in random.next() as UInt64 }
        for word in words { filter.enter(word) }
        #expect(words.allSatisfy { filter.mayContain($0) })
        let unsure = (0..<100_000).count { _ in filter.mayContain(random.next()) }
        #expect(unsure < 8_000, "full, it is unsure of \(unsure) in 100,000")
    }
}
