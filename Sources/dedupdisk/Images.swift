import ArgumentParser
import BlockModel
import Disk
import Glibc
import Serve
import Store

struct Import: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Make a disk of a raw image.",
        discussion: "The disk appears when all of it is in. Holes of a sparse file take no time and no space. Other formats: qemu-img convert -O raw IMAGE /dev/stdout, into a pipe.")
    @OptionGroup var options: StoreOptions
    @Argument(help: "The image, or - for standard input.") var file: String
    @Argument(help: "Name of the new disk.", transform: CommandLineText.name) var disk: String

    func run() throws {
        let source = try File(path: file == "-" ? "/dev/stdin" : file)
        guard try source.kind() != .directory else {
            throw Failure(.system, "import \(file)", "it is a directory", remedy: "name a raw image, a block device or a pipe")
        }
        let isPipe = try !source.isSeekable()
        let store = try options.openOrCreate()
        try store.removeLeftovers()
        let stop = try StopRequest()
        stop.sendOnSignals()
        let progress = Progress("imported")
        defer { progress.end() }
        try Image.load(source, sequential: isPipe, into: store, as: disk, shouldStop: { stop.take() > 0 }) { progress.update($0, of: $1) }
    }
}

struct Export: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Write a disk as a raw image.",
        discussion: "What is not mapped becomes a hole in a file, zeros in a pipe. The file appears when all of it is written.")
    @OptionGroup var options: StoreOptions
    @Argument(help: "Name of the disk.", transform: CommandLineText.name) var disk: String
    @Argument(help: "The image, or - for standard output.") var file: String

    func run() throws {
        let store = try options.open(for: .reading)
        guard try store.disk(disk) != nil else { throw store.noSuchDisk(disk) }
        let source = try StoreDisk(store, disk, readOnly: true)
        let stop = try StopRequest()
        stop.sendOnSignals()
        let progress = Progress("exported")
        defer { progress.end() }
        if file == "-" {
            let target = try File.standardOutput()
            try Image.save(source, to: target, sequential: true, shouldStop: { stop.take() > 0 }) { progress.update($0, of: $1) }
            return
        }
        // A device, say, is written where it is; a file is put in place when it is whole.
        let isInPlace = try !File.isMissingOrRegular(file)
        let path = isInPlace ? file : file + ".partial"
        do {
            let target = try File(path: path, options: isInPlace ? [.write] : [.write, .create, .truncate], mode: 0o644)
            if isInPlace, try target.size() < source.byteCount {
                throw Failure(.noSpace, "export to \(file)", "it has \(try target.size()) bytes, the disk \(source.byteCount)")
            }
            try Image.save(source, to: target, sequential: false, shouldStop: { stop.take() > 0 }) { progress.update($0, of: $1) }
            if !isInPlace, unsafe rename(path, file) != 0 { throw Failure(systemCall: "put in place", file, errno: errno) }
        } catch {
            if !isInPlace { unsafe unlink(path) }
            throw error
        }
    }
}
