import BlockModel
import Disk
import Foundation
import Glibc
import Store
import Synchronization

/// What is measured.
typealias BenchDisk = StoreDisk

/// A store for one measurement, removed with this.
final class BenchStore {
    let path: String
    let store: Store

    /// Makes a store at `path` and a number.
    init(_ path: String, compression: Compression = .none) throws {
        // A process has each environment open once, by its path.
        let path = "\(path)-\(Self.count.add(1, ordering: .relaxed).newValue)"
        self.path = path
        store = try Store(path: path, creating: true, compression: compression)
    }

    private static let count = Atomic(0)

    deinit { removeAll(path) }

    /// Makes a disk, and opens it.
    func create(_ name: String, blocks: Int) throws -> BenchDisk {
        try store.create(name, byteCount: UInt64(blocks * blockSize))
        return try open(name)
    }

    /// Makes a disk whose journal has been written all over, so that writing to it makes no file grow.
    /// - Parameter rest: seconds after that, in which all of it gets committed.
    func createWarm(_ name: String, blocks: Int, rest: Double) throws -> BenchDisk {
        let lap = Shape(blocks: Int(StoreDisk.defaultJournalBytes) / blockSize * 5 / 4, requestBlocks: BlockSource.span)
        let disk = try create(name, blocks: max(blocks, lap.blocks))
        _ = try run(.write(generation: 1 << 20), on: disk, lap, closing: false)
        try disk.flush()
        usleep(UInt32(rest * 1e6))
        // What the lap left in the page cache would all be in the first sync.
        var source = BlockSource()
        let place = source.prepare(1 << 40, count: 1)
        try disk.write(at: 0, source.bytes.rawBytes.extracting(place))
        try disk.flush()
        return disk
    }

    func open(_ name: String, readOnly: Bool = false) throws -> BenchDisk {
        try BenchDisk(store, name, readOnly: readOnly)
    }

    /// Has the filesystem allocate pages for what is to come, beyond what the files have now and in their holes: else
    /// writing to a filesystem in memory mostly measures how the kernel finds and clears pages.
    func touch(packs: Int, meta: Int) throws {
        var files = [(path + "/packs/data.mdb", packs), (path + "/meta/data.mdb", meta)]
        for name in (try? FileManager.default.contentsOfDirectory(atPath: path + "/journals")) ?? [] {
            files.append((path + "/journals/" + name, Int(StoreDisk.defaultJournalBytes)))
        }
        for (file, more) in files { try allocate(file, more: more) }
    }
}

/// fallocate(1) of a file with its size kept: `more` bytes beyond its end, and its holes. No content changes.
private func allocate(_ path: String, more: Int) throws {
    var status = stat()
    guard stat(path, &status) == 0 else { return }
    try succeed("fallocate", ["--keep-size", "--offset", "0", "--length", "\(Int(status.st_size) + more)", path])
}

/// Removes a file or a directory with all in it; that there is none is no error.
func removeAll(_ path: String) { try? FileManager.default.removeItem(atPath: path) }
