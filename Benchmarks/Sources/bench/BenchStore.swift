import BlockModel
import Disk
import Foundation
import Glibc
import Packs
import Store
import Synchronization
import System

/// What is measured.
typealias BenchDisk = StoreDisk

/// A store for one measurement, removed when this ends.
final class BenchStore {
    let path: String
    let store: Store

    /// Makes a store at `path` with a number behind it.
    init(_ path: String, codec: BlobCodec = .raw) throws {
        // A path of its own: a process may open each environment once only, and the last store may still be open.
        let path = "\(path)-\(Self.count.add(1, ordering: .relaxed).newValue)"
        self.path = path
        store = try Store(path: path, creating: true, codec: codec)
    }

    private static let count = Atomic(0)

    deinit { removeAll(path) }

    /// Makes a disk, and opens it.
    func create(_ name: String, blocks: Int) throws -> BenchDisk {
        try store.create(name, byteCount: UInt64(blocks * blockSize))
        return try open(name)
    }

    /// Makes a disk whose journal has been written all over, so that writing to it makes no file grow.
    /// - Parameters:
    ///   - rest: seconds of rest after that, in which all of it is committed; nil: there is none.
    ///   - byteCount: bytes that are going to be written, for which pages are made ready (`touch`).
    func createWarm(_ name: String, blocks: Int, rest: Double?, touching byteCount: Int = 0, isNew: Bool = true) throws -> BenchDisk {
        let lap = Shape(blocks: Int(StoreDisk.defaultJournalBytes) / blockSize * 5 / 4, requestBlocks: BlockSource.span)
        let disk = try create(name, blocks: max(blocks, lap.blocks))
        _ = try run(.write(generation: 1 << 20), on: disk, lap, closing: false)
        try disk.flush()
        if let rest {
            usleep(UInt32(rest * 1e6))
            if byteCount > 0 { try touch(byteCount, isNew: isNew) }
        }
        // Else the first sync of the measurement would write what this left in the page cache.
        var source = BlockSource()
        let place = source.prepare(1 << 40, count: 1)
        try disk.write(at: 0, source.bytes.rawBytes.extracting(place))
        try disk.flush()
        return disk
    }

    func open(_ name: String, readOnly: Bool = false) throws -> BenchDisk {
        try BenchDisk(store, name, readOnly: readOnly)
    }

    /// Gives the store's files pages for what is to come, in their holes and behind their ends, by writing zeros there. Else a measurement
    /// on a filesystem in memory shows mostly how the kernel, and in a virtual machine its host, finds and clears pages.
    /// Nothing may be on its way into the store meanwhile.
    /// - Parameters:
    ///   - byteCount: what is going to be written.
    ///   - isNew: the store does not have it.
    func touch(_ byteCount: Int, isNew: Bool = true) throws {
        // No more than are needed: those that are left are given back when the disk is closed, within the time that is measured.
        try fillHoles(path + "/packs/data.mdb", more: (isNew ? byteCount * 33 / 32 : 0) + (2 << 20))
        try fillHoles(path + "/meta/data.mdb", more: byteCount / 64 + (4 << 20))
        for name in (try? FileManager.default.contentsOfDirectory(atPath: path + "/journals")) ?? [] {
            try fillHoles(path + "/journals/" + name, more: 0)
        }
    }
}

/// Writes zeros into the holes of a file, where they change nothing, and `more` bytes of them behind its end, where LMDB has
/// nothing yet.
private func fillHoles(_ path: String, more: Int) throws {
    let file = try File(path: path, options: [.write])
    let zeros = [UInt8](repeating: 0, count: BlockSource.span * blockSize)
    let size = try file.size()
    var start: UInt64 = 0
    while start < size {
        let data = try file.nextData(at: start)
        try write(from: start, to: data?.lowerBound ?? size)
        start = data?.upperBound ?? size
    }
    try write(from: size, to: size + UInt64(more))

    func write(from start: UInt64, to end: UInt64) throws {
        for offset in stride(from: start, to: end, by: zeros.count) {
            try file.write(at: offset, zeros.rawBytes.extracting(first: min(zeros.count, Int(end - offset))))
        }
    }
}

/// Removes a file or a directory with all in it; that there is none is no error.
func removeAll(_ path: String) { try? FileManager.default.removeItem(atPath: path) }
