import ArgumentParser
import BlockModel
import Catalogue
import Control
import Disk
import Foundation
import Histogram
import Store
import Synchronization
import System

/// A small disk is written over for a long time, with a snapshot each minute, and nobody runs a command: what the store takes meanwhile.
struct Soak: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Overwrite a disk for a long time, and draw what the store takes.",
        discussion: """
            Single blocks in any order, none twice the same, on two threads, each with a flush now and then. Maintenance is what whoever serves a disk \
            does; snapshots of the last minutes are kept. soak.csv and soak.svg have a row and a point each second. Status 1: the store took more \
            than 1.5 times what was referred to and 512 MiB.
            """)
    @Option(help: "How long.") var minutes = 30.0
    @Option(help: ArgumentHelp("MiB of the disk.", valueName: "n")) var size = 256
    @Option(help: ArgumentHelp("Of so many blocks, one is kept for ever on another disk; 0: none.", valueName: "n")) var keep = 0
    @Option(help: ArgumentHelp("Seconds between snapshots, of which the last five are kept; 0: none.", valueName: "n")) var snapshots = 60
    @Option(help: ArgumentHelp("Seconds for which one read of the store's state is held, beside it; 0: none is.", valueName: "n")) var reader = 0
    @Option(help: ArgumentHelp("The store's compression: \(Compression.allCases.map(\.rawValue).joined(separator: ", ")).", valueName: "how"))
    var compression = Compression.none
    @Flag(help: "Blocks are parts of a program, which a codec makes smaller; else they are noise.") var code = false
    @Flag(help: "Nine of ten writes go to a tenth of the disk.") var skewed = false
    @Option(help: ArgumentHelp("MiB a second that are written at the most; 0: as many as go.", valueName: "n")) var rate = 0
    @Option(help: ArgumentHelp("Where it is done.", valueName: "dir")) var disk = "/dev/shm"
    @Option(help: ArgumentHelp("Where the chart goes.", valueName: "dir")) var output = ".build/bench"

    /// As `dedupdisk set compression=` has it.
    enum Compression: String, CaseIterable, ExpressibleByArgument {
        case none, lz4, zstd, background

        var setting: Settings.Compression {
            switch self {
            case .none: .atOnce(.raw)
            case .lz4: .atOnce(.lz4)
            case .zstd: .atOnce(.zstd)
            case .background: .background
            }
        }
    }

    private static let factor = 1.5, extra = Double(512 << 20), warmUp = 20.0

    func validate() throws {
        guard minutes > 0, size >= 16, keep >= 0, snapshots >= 0, reader >= 0, rate >= 0 else {
            throw ValidationError("numbers are above zero; --size is 16 at least")
        }
    }

    /// What the threads that write have done so far.
    private final class Progress: Sendable {
        let isOver = Atomic(false)
        let blocks = Atomic(0)
        let latencies = Mutex(Histogram<UInt64>.ofLatencies())
        let failure = Mutex<String?>(nil)
    }

    private struct Point {
        let seconds, stored, referred, memory: Double
        let blocks, descriptors: Int
        let longest: Double
    }

    func run() throws {
        Store.tuneAllocator()
        let bench = try BenchStore(absolute(disk) + "/dedupdisk-soak-\(getpid())")
        let store = bench.store, blocks = size << 8
        try store.change { $0.compression = compression.setting }
        let target = try bench.create("a", blocks: blocks), kept = try bench.create("kept", blocks: 1 << 30)
        let maintainer = Maintainer(store), progress = Progress()
        try maintainer.start()
        let writers = try (0..<2).map { number in
            try System.Thread("write") {
                do { try write(target, kept, UInt64(number), progress) } catch { progress.failure.withLock { $0 = "\(error)" } }
            }
        }
        let began = seconds(), writtenBefore = try deviceBytes()
        var points: [Point] = []
        var nextSnapshot = Double(snapshots), number = 0, held: BlockReader?, heldSince = 0.0
        while seconds() - began < minutes * 60, progress.failure.withLock({ $0 }) == nil {
            usleep(1_000_000)
            let now = seconds() - began
            if snapshots > 0, now >= nextSnapshot {
                nextSnapshot += Double(snapshots)
                number += 1
                try snapshot(target, "a@\(number)", of: store)
                for old in try store.snapshots(of: "a").dropLast(5) { try store.delete(try store.lock(old.name)) }
            }
            if reader > 0, held == nil || now - heldSince > Double(reader) {
                held = try BlockReader(store, disk: "a")
                heldSince = now
            }
            points.append(try point(now, store, progress))
            if points.count % 60 == 0, let last = points.last {
                say(
                    "soak: \(Int(now)) s, \(last.blocks >> 8) MiB written, stored \(Unit.bytes.text(last.stored)), referred to \(Unit.bytes.text(last.referred))"
                )
            }
        }
        progress.isOver.store(true, ordering: .releasing)
        for writer in writers { writer.join() }
        held = nil
        try target.close()
        try kept.close()
        maintainer.stop()
        let written = try deviceBytes() - writtenBefore
        if let failure = progress.failure.withLock({ $0 }) { throw Failure(.system, "soak", "its writers", failure) }
        let problems = try store.check(readData: true, repair: false) { _, _ in }.problems
        guard problems.isEmpty else { throw Failure(.damage, "check", "the store", "\(problems)") }
        try report(points, writtenToDevice: written)
    }

    /// Bytes that this process has had written to devices: none of a filesystem in memory.
    private func deviceBytes() throws -> Double {
        let line = try procText("/proc/self/io").split(separator: "\n").first { $0.hasPrefix("write_bytes:") }
        return line?.split(separator: " ").last.flatMap { Double($0) } ?? 0
    }

    private func write(_ disk: BenchDisk, _ kept: BenchDisk, _ thread: UInt64, _ progress: Progress) throws {
        var source = BlockSource(code ? .code : .noise), generator = SystemRandomNumberGenerator(), count: UInt64 = 0, own = Histogram<UInt64>.ofLatencies()
        let began = seconds()
        while !progress.isOver.load(ordering: .relaxed) {
            if rate > 0 {
                // Two threads share it.
                let early = Double(count * UInt64(blockSize) * 2) / Double(rate << 20) - (seconds() - began)
                if early > 0.001 { usleep(UInt32(min(early, 1) * 1e6)) }
            }
            count += 1
            let number = (thread + 1) << 56 | count
            let range = source.prepare(number, count: 1), bytes = source.bytes.rawBytes.extracting(range)
            let start = nanoseconds()
            try disk.write(at: place(&generator) * UInt64(sectorsPerBlock), bytes)
            if count % 1000 == 0 { try disk.flush() }
            own.record(nanoseconds() - start)
            if keep > 0, count % UInt64(keep) == 0 { try kept.write(at: (count / UInt64(keep) * 2 + thread) * UInt64(sectorsPerBlock), bytes) }
            if count % 256 == 0 {
                progress.blocks.add(256, ordering: .relaxed)
                progress.latencies.withLock { $0.add(own) }
                own.reset()
            }
        }
    }

    /// The block that is written next.
    private func place(_ generator: inout SystemRandomNumberGenerator) -> UInt64 {
        let blocks = UInt64(size << 8)
        let isHot = skewed && UInt64.random(in: 0..<10, using: &generator) > 0
        return UInt64.random(in: 0..<(isHot ? blocks / 10 : blocks), using: &generator)
    }

    private func snapshot(_ disk: BenchDisk, _ name: String, of store: Store) throws {
        guard let snapshot = SnapshotName(name) else { return }
        let copy = try store.beginCopy()
        if try disk.copy(to: copy.record.name) {
            try disk.finishCopy(copy.record.name)
            try store.name([(copy.record.name, .snapshot(snapshot))])
        }
    }

    private func point(_ now: Double, _ store: Store, _ progress: Progress) throws -> Point {
        let found = try store.statistics()
        let longest = progress.latencies.withLock { latencies in
            defer { latencies.reset() }
            return Double(latencies.max) / 1e9
        }
        let memory = try procText("/proc/self/status").split(separator: "\n").first { $0.hasPrefix("RssAnon:") }?.split(separator: " ").dropFirst().first
        let descriptors = try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").count
        return Point(
            seconds: now, stored: Double(found.storedBytes), referred: Double(found.uniqueBytes), memory: (memory.flatMap { Double($0) } ?? 0) * 1024,
            blocks: progress.blocks.load(ordering: .relaxed), descriptors: descriptors, longest: longest)
    }

    // MARK: What came of it

    private func bound(_ point: Point) -> Double { Self.factor * point.referred + Self.extra }

    private func report(_ points: [Point], writtenToDevice: Double) throws {
        try FileManager.default.createDirectory(atPath: output, withIntermediateDirectories: true)
        let rows = points.map {
            "\(Int($0.seconds)),\($0.blocks * blockSize),\(Int($0.stored)),\(Int($0.referred)),\(Int($0.memory)),\($0.descriptors),\($0.longest)"
        }
        try ("seconds,written,stored,referred,memory,descriptors,longest\n" + rows.joined(separator: "\n") + "\n").write(
            toFile: output + "/soak.csv", atomically: true, encoding: .utf8)
        try svg(points).write(toFile: output + "/soak.svg", atomically: true, encoding: .utf8)
        let over = points.filter { $0.stored > bound($0) }
        let settled = points.filter { $0.seconds > Self.warmUp }
        let share = settled.map { max(0, $0.stored - Self.extra) / max(1, $0.referred) }.max() ?? 0
        let rates = zip(points, points.dropFirst()).map { Double($1.blocks - $0.blocks) * Double(blockSize) / ($1.seconds - $0.seconds) }.sorted()
        if let last = points.last {
            print("written \(Unit.bytes.text(Double(last.blocks * blockSize))), \(last.blocks / (size << 8)) times the disk")
            print(
                "stored at the end \(Unit.bytes.text(last.stored)), referred to \(Unit.bytes.text(last.referred)); the most but for 512 MiB: \(Unit.ratio.text(share)) of it"
            )
            print(
                "a second: \(Unit.bytesPerSecond.text(rates.isEmpty ? 0 : rates[rates.count / 2])); longest request \(Unit.seconds.text(points.map(\.longest).max() ?? 0))"
            )
            if writtenToDevice > 0 {
                print(
                    "to the device \(Unit.bytes.text(writtenToDevice)), "
                        + "\(Unit.ratio.text(writtenToDevice / Double(max(1, last.blocks * blockSize)))) times what was written")
            }
            print("memory \(Unit.bytes.text(points.map(\.memory).max() ?? 0)), descriptors \(points.map(\.descriptors).max() ?? 0)")
        }
        print("\(output)/soak.svg, soak.csv; beyond the bound: \(over.count) of \(points.count) s")
        guard over.isEmpty else { throw ExitCode.failure }
    }

    /// What is stored, what is referred to, and the bound, over time.
    private func svg(_ points: [Point]) -> String {
        let width = 900.0, height = 320.0, left = 70.0, top = 20.0, bottom = 40.0
        let end = max(1, points.last?.seconds ?? 1), most = max(1, points.map { max($0.stored, bound($0)) }.max() ?? 1) * 1.05
        func x(_ seconds: Double) -> Double { left + (width - left - 10) * seconds / end }
        func y(_ bytes: Double) -> Double { top + (height - top - bottom) * (1 - bytes / most) }
        func line(_ name: String, _ value: (Point) -> Double) -> String {
            let places = points.map { String(format: "%.1f,%.1f", x($0.seconds), y(value($0))) }.joined(separator: " ")
            return "<polyline class=\"\(name)\" points=\"\(places)\"/>\n"
        }
        let ticks = (0...4).map { index in
            let bytes = most / 4 * Double(index)
            return "<line class=\"grid\" x1=\"\(left)\" x2=\"\(width - 10)\" y1=\"\(y(bytes))\" y2=\"\(y(bytes))\"/>"
                + "<text x=\"\(left - 6)\" y=\"\(y(bytes) + 4)\" text-anchor=\"end\">\(Unit.bytes.text(bytes))</text>"
        }.joined(separator: "\n")
        let times = (0...6).map { index in
            let seconds = end / 6 * Double(index)
            return "<text x=\"\(x(seconds))\" y=\"\(height - bottom + 18)\" text-anchor=\"middle\">\(Int(seconds / 60)) min</text>"
        }.joined(separator: "\n")
        return """
            <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(width) \(height)" role="img" aria-label="What the store takes while a disk is written over">
            <style>svg { font: 12px system-ui, "DejaVu Sans", sans-serif; background: #fff } text { fill: #5c6670 } .grid { stroke: #e3e7ea }
            polyline { fill: none; stroke-width: 1.5 } .bound { stroke: #d1722a; stroke-dasharray: 5 4 } .stored { stroke: #3a7fc1 } .referred { stroke: #2b9356 }
            .k1 { fill: #d1722a } .k2 { fill: #3a7fc1 } .k3 { fill: #2b9356 }</style>
            \(ticks)
            \(times)
            \(line("bound", bound))\(line("stored") { $0.stored })\(line("referred") { $0.referred })
            <text class="k1" x="\(left + 10)" y="\(height - 6)">the bound: 1.5 × what is referred to + 512 MiB</text>
            <text class="k2" x="\(left + 330)" y="\(height - 6)">on the filesystem</text><text class="k3" x="\(left + 470)" y="\(height - 6)">referred to</text>
            </svg>

            """
    }
}
