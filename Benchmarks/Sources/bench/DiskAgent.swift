import ArgumentParser
import BlockModel
import Disk
import Foundation
import Store
import System

/// A process that holds disks of a store and does as it is told, a line at a time on its standard input; it answers each
/// with a line.
///
///     attach NAME             makes the disk if there is none, and opens it
///     write FIRST COUNT       writes blocks that no other number has, on the disk attached first
///     read COUNT              reads blocks from its beginning
///     load                    says "loading", and writes until it is killed, or the disk is full
struct DiskAgent: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "disk")
    /// Blocks of each disk that it makes: address space.
    static let diskBlocks = 1 << 24

    @Option(help: "The store.") var store: String
    @Flag(help: "Compressible blocks, in a store that compresses them.") var compressible = false

    func run() throws {
        Store.tuneAllocator()
        let store = try Store(path: store, creating: true, codec: compressible ? .lz4 : .raw)
        var disks: [StoreDisk] = []
        answer("open")
        while let line = readLine() {
            let words = line.split(separator: " ").map(String.init)
            let numbers = words.dropFirst().map { Int($0) ?? 0 }
            switch words.first {
            case "attach": disks.append(try attach(words.last ?? "a", store))
            case "write": try disks.first.map { try write($0, first: numbers[0], count: numbers[1]) }
            case "read": try disks.first.map { try read($0, count: numbers[0]) }
            case "load": try disks.first.map { try load($0) }
            default: throw ValidationError("There is no order '\(line)': attach, write, read and load are known.")
            }
            answer("done")
        }
        for disk in disks { try disk.close() }
    }

    private func answer(_ line: String) { FileHandle.standardOutput.write(Data("\(line)\n".utf8)) }

    private func attach(_ name: String, _ store: Store) throws -> StoreDisk {
        if try store.disk(name) == nil { try store.create(name, byteCount: UInt64(Self.diskBlocks * blockSize)) }
        return try StoreDisk(store, name)
    }

    private func write(_ disk: StoreDisk, first: Int, count: Int) throws {
        var source = BlockSource(compressible ? .compressible : .noise)
        for block in stride(from: first, to: first + count, by: BlockSource.span) {
            let range = source.prepare(UInt64(block), count: min(BlockSource.span, first + count - block))
            try disk.write(at: UInt64(block * sectorsPerBlock), source.bytes.rawBytes.extracting(range))
        }
    }

    private func read(_ disk: StoreDisk, count: Int) throws {
        var target = [UInt8](repeating: 0, count: BlockSource.span * blockSize)
        for block in stride(from: 0, to: count, by: BlockSource.span) {
            try target.withMutableBytes { (bytes) throws(Failure) in try disk.read(at: UInt64(block * sectorsPerBlock), into: &bytes) }
        }
    }

    private func load(_ disk: StoreDisk) throws {
        answer("loading")
        var first = 0
        while first < Self.diskBlocks {
            try write(disk, first: first, count: BlockSource.span)
            first += BlockSource.span
        }
    }
}
