import BlockModel
import Foundation
import Glibc
import Hashing
import System
import TestSupport

/// What the machine can do, for the work of a store to be compared with.
final class Limits {
    let plan: Plan
    /// Whether limits are not measured now: each is no number.
    private var isMuted: Bool
    /// Gibibytes where the caches are large: not before they are needed.
    private lazy var cold = Result { try ColdMemory(file: plan.memory + "/cold", byteCount: coldBytes) }
    private lazy var anonymous = Result { try ColdMemory(byteCount: coldBytes) }
    private var target = [UInt8](repeating: 1, count: BlockSource.span * blockSize)

    init(_ plan: Plan) {
        self.plan = plan
        isMuted = plan.isAlone
    }

    private var coldBytes: Int { plan.isShort ? 64 << 20 : max(256 << 20, 8 * Plan.lastLevelCacheBytes / plan.share) }

    /// SHA-256 of 4 KiB blocks by one core, bytes a second.
    func hash(byteCount: Int? = nil) throws -> (name: String, value: Double) {
        ("SHA-256, one core", isMuted ? .nan : try Self.hash(byteCount ?? plan.size(128 << 20, short: 8 << 20), threads: 1))
    }

    /// The same by all cores.
    func hashOnAllCores() throws -> (name: String, value: Double) {
        ("SHA-256, all cores", try Self.hash(plan.size(128 << 20, short: 8 << 20), threads: Plan.cores))
    }

    /// The same by one core, sixteen blocks at a time: at once, where the processor's vectors allow it.
    private func hashSixteen() throws -> (name: String, value: Double) {
        ("the same, sixteen blocks at a time", try Self.hash(plan.size(128 << 20, short: 8 << 20), threads: 1, together: 16))
    }

    private static func hash(_ byteCount: Int, threads: Int, together: Int = 1) throws -> Double {
        let spent = try time {
            _ = try onThreads(threads) { _ in
                let hasher = try SHA256()
                var source = BlockSource()
                var words: UInt64 = 0
                for block in stride(from: 0, to: UInt64(byteCount / blockSize), by: together) {
                    let range = source.prepare(block, count: together)
                    if together == 1 {
                        words ^= try hasher.digest(source.bytes.rawBytes.extracting(range)).word0
                    } else {
                        words ^= try source.bytes.withUnsafeBytes { bytes in
                            let messages = stride(from: range.lowerBound, to: range.upperBound, by: blockSize).compactMap { offset in
                                bytes.baseAddress.map { $0 + offset }
                            }
                            return try hasher.digests(of: messages, byteCount: blockSize).reduce(0) { $0 ^ $1.word0 }
                        }
                    }
                }
                return words
            }
        }
        return Double(byteCount * threads) / spent
    }

    /// memcpy of blocks that no cache of the CPU holds, out of a mapped file, into a buffer of a request's size.
    func coldCopy(_ order: Shape.Order, requestBlocks: Int) throws -> (name: String, value: Double) {
        ("memcpy of cold blocks", isMuted ? .nan : try cold.get().copy(order, requestBlocks: requestBlocks, into: &target))
    }

    /// memcpy of the same blocks out of a mapping that is made anew: with the page faults of a first look.
    func faultingCopy() throws -> Double { try cold.get().remapped().copy(.sequential, requestBlocks: 256, into: &target) }

    /// The same out of anonymous memory, which may be in larger pages.
    func anonymousCopy() throws -> (name: String, value: Double) {
        ("memcpy of anonymous memory", isMuted ? .nan : try anonymous.get().copy(.sequential, requestBlocks: BlockSource.span, into: &target))
    }

    /// A new file, written from its beginning to its end and made durable: bytes a second.
    func sequentialFile(_ directory: String, byteCount: Int) throws -> (name: String, value: Double) {
        let name = "file write + fdatasync"
        guard !isMuted else { return (name, .nan) }
        let path = directory + "/raw"
        defer { unlink(path) }
        var source = BlockSource()
        let spent = try time {
            let file = try File(path: path, options: [.write, .create, .truncate])
            for offset in stride(from: 0, to: byteCount, by: BlockSource.span * blockSize) {
                let range = source.prepare(UInt64(offset / blockSize), count: min(BlockSource.span, (byteCount - offset) / blockSize))
                try file.write(at: UInt64(offset), source.bytes.rawBytes.extracting(range))
            }
            try file.synchronizeData()
        }
        return (name, Double(byteCount) / spent)
    }

    /// 4 KiB written over, then fdatasync, `threads` at a time: seconds for one, as one thread sees it.
    func overwrites(_ directory: String, count: Int, threads: Int = 1) throws -> (name: String, value: Double) {
        let name = "overwrite + fdatasync"
        guard !isMuted else { return (name, .nan) }
        let path = directory + "/raw"
        defer { unlink(path) }
        let file = try OverwrittenFile(path, blocks: count)
        let next = NextIndex()
        let spent = try time {
            _ = try onThreads(threads) { _ in
                var source = BlockSource()
                while let index = next.take(below: count)?.first {
                    let range = source.prepare(UInt64(index), count: 1)
                    try file.file.write(at: UInt64(index * blockSize), source.bytes.rawBytes.extracting(range))
                    try file.file.synchronizeData()
                }
            }
        }
        return (name, spent / Double(count))
    }

    /// The section of the limits by themselves.
    func section() throws -> Section {
        isMuted = false
        defer { isMuted = plan.isAlone }
        var section = Section(
            name: "limits", title: "What the machine can do",
            caveat: """
                Each is the best case of one thing done alone. Files in memory cost no device; a virtual machine's disk may lie \
                about fdatasync, and its host caches.
                """)
        var comparison = Comparison()
        for _ in 0..<plan.rounds {
            for limit in [try hash(), try hashSixteen(), try hashOnAllCores(), try anonymousCopy()] { comparison.add(limit.name, limit.value, .bytesPerSecond) }
            for order in Shape.Order.allCases {
                for blocks in order == .sequential ? [16, 256] : [1, 16] {
                    let limit = try coldCopy(order, requestBlocks: blocks)
                    comparison.add("\(limit.name), \(order.rawValue) \(sizeText(blocks))", limit.value, .bytesPerSecond)
                }
            }
            comparison.add("the same, mapped anew: page faults included", try faultingCopy(), .bytesPerSecond)
            let file = try sequentialFile(plan.disk, byteCount: plan.size(1 << 30, short: 16 << 20))
            comparison.add(file.name, file.value, .bytesPerSecond)
            comparison.add("4 KiB overwrite + fdatasync", try overwrites(plan.disk, count: plan.size(500, short: 20)).value, .seconds)
            comparison.add("making a 4 KiB block's content", try generator(), .seconds, remark: "in every figure, subtracted from none")
        }
        section.rows = comparison.rows
        return section
    }

    /// Seconds to make a block's content.
    private func generator() throws -> Double {
        let count = 1 << 20
        var source = BlockSource()
        return time { for block in 0..<UInt64(count) { _ = source.prepare(block, count: 1) } } / Double(count)
    }
}

/// Bytes of so many blocks, for people.
func sizeText(_ blocks: Int) -> String { blocks < 256 ? "\(blocks * 4) KiB" : "\(blocks / 256) MiB" }

/// A file all of whose blocks are on the disk, open to be written over.
private final class OverwrittenFile: Sendable {
    let file: File
    init(_ path: String, blocks: Int) throws {
        file = try File(path: path, options: [.write, .create])
        let source = BlockSource()
        for block in 0..<blocks { try file.write(at: UInt64(block * blockSize), source.bytes.rawBytes.extracting(0..<blockSize)) }
        try file.synchronize()
    }
}

/// More memory than the CPU caches, all of it touched before.
final class ColdMemory {
    let byteCount: Int
    /// The file that is mapped; nil: anonymous memory.
    private let path: String?
    private let memory: UnsafeMutableRawPointer

    /// A file in the page cache, mapped in pages of 4 KiB, as LMDB's are.
    init(file path: String, byteCount: Int) throws {
        let file = try File(path: path, options: [.write, .create, .truncate])
        let source = BlockSource()
        for offset in stride(from: 0, to: byteCount, by: source.bytes.count) { try file.write(at: UInt64(offset), source.bytes.rawBytes) }
        self.path = path
        self.byteCount = byteCount
        memory = try Self.map(path, byteCount)
        touch()
    }

    init(byteCount: Int) throws {
        path = nil
        self.byteCount = byteCount
        memory = try Self.map(nil, byteCount)
        memory.initializeMemory(as: UInt8.self, repeating: 1, count: byteCount)
    }

    private init(remapping path: String, _ byteCount: Int) throws {
        self.path = nil
        self.byteCount = byteCount
        memory = try Self.map(path, byteCount)
    }

    /// A file that is there, all of which is looked at.
    init(mapping path: String) throws {
        self.path = nil
        byteCount = Int(try File(path: path).size()) / blockSize * blockSize
        memory = try Self.map(path, byteCount)
        touch()
    }

    deinit {
        munmap(memory, byteCount)
        if let path { unlink(path) }
    }

    /// No fault is left.
    private func touch() {
        for offset in stride(from: 0, to: byteCount, by: blockSize) { _ = memory.load(fromByteOffset: offset, as: UInt64.self) }
    }

    /// The same file at another address, not looked at yet.
    func remapped() throws -> ColdMemory {
        guard let path else { throw Failure(.usage, "map anew", "it is not a file") }
        return try ColdMemory(remapping: path, byteCount)
    }

    private static func map(_ path: String?, _ byteCount: Int) throws -> UnsafeMutableRawPointer {
        let descriptor = path.map { open($0, O_RDONLY | O_CLOEXEC) } ?? -1
        defer { if descriptor >= 0 { close(descriptor) } }
        let memory = mmap(
            nil, byteCount, path == nil ? PROT_READ | PROT_WRITE : PROT_READ, path == nil ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED,
            descriptor, 0)
        guard let memory, memory != MAP_FAILED else { throw Failure(systemCall: "map", .file(path ?? "memory"), errno: errno) }
        if path != nil { madvise(memory, byteCount, MADV_NOHUGEPAGE) }
        return memory
    }

    /// Bytes a second, of `limit` requests at most.
    func copy(_ order: Shape.Order, requestBlocks: Int, limit: Int = .max, into target: inout [UInt8]) -> Double {
        let shape = Shape(blocks: byteCount / blockSize, requestBlocks: requestBlocks, order: order, limit: limit)
        let starts = shape.starts()
        let blocks = RawSpan(_unsafeStart: memory, byteCount: byteCount)
        var span = target.mutableSpan
        var bytes = span.mutableBytes
        // By the copy that is not slower where an array begins just behind a page's beginning, as it may: a limit is what can be
        // had (see `clinux_copy`).
        let spent = time {
            for start in starts {
                for index in 0..<requestBlocks {
                    let place = (Int(start) + index) * blockSize
                    bytes.copy(blocks.extracting(place..<place + blockSize), to: index * blockSize)
                }
            }
        }
        return Double(shape.byteCount) / spent
    }
}
