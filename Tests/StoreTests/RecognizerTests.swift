import BlockModel
import Packs
import System
import Testing
import TestSupport

@testable import Store

/// Blocks that come again, named without being hashed.
@Suite struct RecognizerTests {
    let scratch: ScratchDirectory
    let store: Store

    init() throws {
        scratch = try ScratchDirectory()
        store = try Store(path: scratch.path + "/store", creating: true)
        for name in ["a", "b"] { try store.create(name, byteCount: 64 << 20) }
    }

    func write(_ name: String, _ numbers: [UInt64]) throws {
        try SharingTests.commit(numbers.enumerated().map { (UInt64($0.offset), $0.element) }, to: name, of: store)
    }

    var recognized: Int { store.recognizers.withLock { $0.reduce(0) { $0 + $1.recognizedBlocks } } }

    func expect(_ name: String, _ numbers: [UInt64], location: SourceLocation = #_sourceLocation) throws {
        #expect(try SharingTests.read(name, of: store, blocks: numbers.count) == numbers.flatMap { block($0) }, sourceLocation: location)
    }

    func expectClean(location: SourceLocation = #_sourceLocation) throws {
        #expect(try store.check(readData: true, repair: false) { _, _ in }.problems == [], sourceLocation: location)
    }

    /// Of each piece of 32 blocks, the first is hashed; the runs go on over the ends of packs.
    @Test func runsThatComeAgain() throws {
        let numbers = (1...500 as ClosedRange<UInt64>).map { $0 }
        try write("a", numbers)
        #expect(recognized == 0)
        try write("b", numbers)
        #expect(recognized == 500 - 16)
        try expect("b", numbers)
        #expect(try store.statistics().uniqueBytes == 500 * 4096)
        try expectClean()
    }

    /// Whatever comes in whatever order, what is read is what was written, and each content is stored once.
    @Test(arguments: [BlobCodec.raw, .lz4]) func anyMixture(codec: BlobCodec) throws {
        try store.use(codec)
        var generator = SeededGenerator(seed: 7)
        var known: [UInt64] = []
        var next: UInt64 = 1
        var disks: [String: [UInt64]] = [:]
        for round in 0..<12 {
            var numbers: [UInt64] = []
            while numbers.count < 400 {
                let length = Int.random(in: 1...60, using: &generator)
                switch Int.random(in: 0..<3, using: &generator) {
                case 0 where !known.isEmpty:
                    let start = Int.random(in: 0..<known.count, using: &generator)
                    numbers += known[start..<min(known.count, start + length)]
                case 1 where !known.isEmpty:
                    numbers.append(known[Int.random(in: 0..<known.count, using: &generator)])
                default:
                    let fresh = (next..<next + UInt64(length)).map { $0 }
                    next += UInt64(length)
                    numbers += fresh
                }
            }
            let name = round % 2 == 0 ? "a" : "b"
            try write(name, numbers)
            disks[name] = numbers
            known += numbers
        }
        for (name, numbers) in disks { try expect(name, numbers) }
        let statistics = try store.statistics()
        #expect(statistics.uniqueBytes + statistics.reclaimableBytes == UInt64(Set(known).count * blockSize))
        // Noise is stored as it is.
        #expect(recognized > 500)
        try expectClean()
    }

    /// A blob that has rotten into what another block is does not give that block its name.
    @Test func aBlobThatHasRotten() throws {
        let numbers = (1...40 as ClosedRange<UInt64>).map { $0 }
        try write("a", numbers)
        var other = block(11)
        other[100] ^= 0x40
        #expect(try Files.flip(store.path + "/packs/data.mdb", every: block(11), skip: 100) == 1)
        let data = (1...10).flatMap { block($0) } + other + (12...20).flatMap { block($0) }
        let batch = try Batch(store)
        try unsafe data.withUnsafeBytes { bytes in
            for index in 0..<20 { unsafe batch.append(UInt64(index), lending: bytes.baseAddress! + index * blockSize) }
            try store.commit(batch, to: "b")
        }
        #expect(try SharingTests.read("b", of: store, blocks: 20) == data)
        #expect(recognized == 9 + 9)
    }
}
