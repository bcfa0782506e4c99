import BlockModel
import Disk
import Glibc
import Hashing
import Store

// bench DIRECTORY [MEBIBYTES]: what the engine does, beside what the same machine can do, in one run.
//
// DIRECTORY in memory (/dev/shm) shows what the CPU allows; on a disk, what is durable there. Rates are medians of
// three rounds. They say nothing of a guest: no ring, no grant copy, no hypervisor is involved.

func complain(_ text: String) {
    let line = text + "\n"
    _ = line.utf8CString.withUnsafeBytes { write(2, $0.baseAddress, $0.count - 1) }
}

guard CommandLine.arguments.count >= 2 else {
    complain("usage: bench DIRECTORY [MEBIBYTES]")
    exit(64)
}
let directory = CommandLine.arguments[1]
let mebibytes = CommandLine.arguments.count > 2 ? Int(CommandLine.arguments[2]) ?? 256 : 256
let chunk = 1 << 20

func seconds() -> Double {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
}

/// Unique blocks: the first 8 bytes of each count up from `base`.
func fill(_ buffer: inout [UInt8], base: UInt64) {
    buffer.withUnsafeMutableBytes { bytes in
        for offset in stride(from: 0, to: bytes.count, by: blockSize) {
            bytes.storeBytes(of: base &+ UInt64(offset / blockSize), toByteOffset: offset, as: UInt64.self)
        }
    }
}

struct Row {
    let name: String
    let rate: Double
    let limit: String
    let ratio: Double
}

import Foundation
func cpu() -> [String: Double] {
    var all: [String: Double] = [:]
    for task in (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/task")) ?? [] {
        let name = (try? String(contentsOfFile: "/proc/self/task/\(task)/comm", encoding: .utf8))?.trimmingCharacters(in: .whitespacesAndNewlines) ?? "?"
        let stat = (try? String(contentsOfFile: "/proc/self/task/\(task)/schedstat", encoding: .utf8)) ?? "0"
        all[name, default: 0] += Double(stat.split(separator: " ")[0]) ?? 0
    }
    return all
}
func report(_ what: String, _ before: [String: Double], rounds: Double = 3) {
    let after = cpu()
    let blocks = Double(mebibytes * 256) * rounds
    let parts = after.map { ($0.key, ($0.value - (before[$0.key] ?? 0)) / blocks) }.sorted { $0.0 < $1.0 }
    complain("\(what): " + parts.map { "\($0.0) \(Int($0.1))" }.joined(separator: ", ") + " = \(Int(parts.reduce(0) { $0 + $1.1 })) ns a block")
}
/// Median MB/s of three rounds.
func measure(_ body: (Int) throws -> Void) rethrows -> Double {
    var rates: [Double] = []
    for round in 0..<3 {
        let start = seconds()
        try body(round)
        rates.append(Double(mebibytes << 20) / 1e6 / (seconds() - start))
    }
    return rates.sorted()[1]
}

func run() throws {
    Store.tuneAllocator()
    let path = "\(directory)/dedupdisk-bench-\(getpid())"
    var buffer = [UInt8](repeating: 0xa5, count: chunk)
    var target = [UInt8](repeating: 0, count: chunk)
    let hasher = try SHA256()
    var sink: UInt64 = 0
    let hash = try measure { _ in
        for _ in 0..<mebibytes {
            for offset in stride(from: 0, to: chunk, by: blockSize) {
                sink ^= try hasher.digest(buffer.rawBytes.extracting(offset..<offset + blockSize)).word0
            }
        }
    }
    // Source blocks that are not in the CPU's caches.
    let cold = [UInt8](repeating: 1, count: mebibytes << 20)
    let copy = measure { _ in
        for index in 0..<mebibytes {
            target.withUnsafeMutableBytes { to in cold.withUnsafeBytes { to.baseAddress!.copyMemory(from: $0.baseAddress! + index * chunk, byteCount: chunk) } }
            sink ^= UInt64(target[index % chunk])
        }
    }
    let raw = try measure { round in
        let file = try File(path: path + ".raw", options: [.write, .create])
        for index in 0..<mebibytes { try file.write(at: UInt64(index * chunk), buffer.rawBytes) }
        try file.synchronizeData()
    }
    unlink(path + ".raw")

    do { _ = try Store(path: path, creating: true) }
    for (name, size) in [("packs", 4 * mebibytes + 64), ("meta", 256)] {
        let file = try File(path: "\(path)/\(name)/data.mdb", options: [.write])
        let zeros = [UInt8](repeating: 0, count: chunk)
        var at = try file.size()
        while at < UInt64(size << 20) { try file.write(at: at, zeros.rawBytes); at += UInt64(chunk) }
    }
    let store = try Store(path: path, creating: true)
    try store.create("d", byteCount: UInt64(mebibytes << 20))
    func write(_ base: UInt64) throws {
        for index in 0..<mebibytes {
            fill(&buffer, base: base + UInt64(index * chunk / blockSize))
            try disk.write(at: UInt64(index * chunk / sectorSize), buffer.rawBytes)
        }
        try disk.flush()
    }
    let disk = try StoreDisk(store, "d")
    try write(99 << 32)
    var before = cpu()
    let unique = try measure { try write(UInt64($0 + 1) << 32) }
    report("unique", before)
    before = cpu()
    let duplicate = try measure { try write(UInt64(($0 + 1) % 3 + 1) << 32) }
    report("duplicate", before)
    before = cpu()
    let read = try measure { _ in
        for index in 0..<mebibytes {
            try target.withMutableBytes { (bytes) throws(Failure) in try disk.read(at: UInt64(index * chunk / sectorSize), into: &bytes) }
        }
    }
    report("read", before)
    let payload = try store.statistics()
    let space = Double(payload.storedBytes) / Double(payload.uniqueBytes + payload.reclaimableBytes)
    let flushes = 200
    var start = seconds()
    for index in 0..<flushes {
        fill(&buffer, base: UInt64(index) << 48)
        try disk.write(at: UInt64(index * 8), buffer.rawBytes.extracting(0..<blockSize))
        try disk.flush()
    }
    let flush = (seconds() - start) / Double(flushes)
    try disk.close()
    let file = try File(path: path + ".raw", options: [.write, .create])
    for index in 0..<flushes { try file.write(at: UInt64(index * blockSize), buffer.rawBytes.extracting(0..<blockSize)) }
    try file.synchronize()
    start = seconds()
    for index in 0..<flushes {
        try file.write(at: UInt64(index * blockSize), buffer.rawBytes.extracting(0..<blockSize))
        try file.synchronizeData()
    }
    let rawFlush = (seconds() - start) / Double(flushes)
    unlink(path + ".raw")

    let rows = [
        Row(name: "unique writes", rate: unique, limit: "SHA-256 of one core", ratio: unique / hash),
        Row(name: "duplicate writes", rate: duplicate, limit: "SHA-256 of one core", ratio: duplicate / hash),
        Row(name: "unique writes", rate: unique, limit: "file write + fdatasync", ratio: unique / raw),
        Row(name: "sequential reads", rate: read, limit: "memcpy of cold blocks", ratio: read / copy),
    ]
    func pad(_ text: String, _ width: Int) -> String { text + String(repeating: " ", count: max(0, width - text.count)) }
    func two(_ value: Double) -> String { "\((value * 100).rounded() / 100)" }
    print("\(mebibytes) MiB in \(directory), 1 MiB a request, medians of 3")
    print("limits: SHA-256 \(Int(hash)) MB/s, memcpy \(Int(copy)) MB/s, file write + fdatasync \(Int(raw)) MB/s\n")
    for row in rows { print("\(pad(row.name, 18))\(pad("\(Int(row.rate)) MB/s", 12))\(pad(two(row.ratio), 6)) of \(row.limit)") }
    print("\(pad("4 KiB write+flush", 18))\(pad("\(Int(flush * 1e6)) µs", 12))\(pad(two(flush / rawFlush), 6)) × overwrite + fdatasync of a file (\(Int(rawFlush * 1e6)) µs)")
    print("\(pad("space", 18))\(pad(two((space - 1) * 100) + " %", 12))beyond payload, before any collection")
    if sink == 1 { print("") }
}

do { try run() } catch { complain("bench: \(error)"); exit(1) }
