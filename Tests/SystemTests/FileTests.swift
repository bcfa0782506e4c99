import System
import Testing
import TestSupport

@Suite struct FileTests {
    static let scratch = "/tmp"

    private func bytes(_ count: Int, seed: UInt8) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0) ^ seed } }

    private func contents(_ file: borrowing File, at offset: UInt64, count: Int) throws -> [UInt8] {
        var buffer = [UInt8](repeating: 0xEE, count: count)
        var span = buffer.mutableSpan
        var raw = unsafe span.mutableBytes
        let read = try file.read(at: offset, into: &raw)
        return Array(buffer[..<read])
    }

    @Test func writesReadBackAndReadsStopAtTheEnd() throws {
        let file = try File(temporaryIn: Self.scratch)
        let data = bytes(10_000, seed: 0x5A)
        unsafe try file.write(at: 4096, data.span.bytes)
        #expect(try contents(file, at: 4096, count: 10_000) == data)
        #expect(try contents(file, at: 14_000, count: 1000) == Array(data[9904...]))
        #expect(try contents(file, at: 20_000, count: 10) == [])
        #expect(try contents(file, at: 0, count: 4096) == [UInt8](repeating: 0, count: 4096))
        #expect(try file.size() == 14_096)
        try file.synchronizeData()
        try file.synchronize()
    }

    @Test(arguments: [(0, 0), (0, 7), (7, 0), (64, 8192)])
    func gatheredPartsAreContiguous(header: Int, body: Int) throws {
        let file = try File(temporaryIn: Self.scratch)
        let head = bytes(header, seed: 1), tail = bytes(body, seed: 2)
        var parts = Gather(capacity: 2)
        unsafe parts.append(head.span.bytes)
        unsafe parts.append(tail.span.bytes)
        try file.write(at: 100, &parts)
        #expect(parts.byteCount == 0)
        #expect(try contents(file, at: 100, count: header + body + 1) == head + tail)
    }

    /// More parts than one call takes, which the system writes in several.
    @Test func manyGatheredParts() throws {
        let file = try File(temporaryIn: Self.scratch)
        let data = bytes(3000 * 7, seed: 3)
        var parts = Gather(capacity: 1)
        for index in 0..<3000 { unsafe parts.append(data.span.bytes.extracting(index * 7..<(index + 1) * 7)) }
        #expect(parts.byteCount == data.count)
        try file.write(at: 5, &parts)
        #expect(try contents(file, at: 5, count: data.count + 1) == data)
    }

    @Test func holesReadAsZerosAndGiveSpaceBack() throws {
        let file = try File(temporaryIn: Self.scratch)
        unsafe try file.write(at: 0, [UInt8](repeating: 7, count: 1 << 20).span.bytes)
        try file.synchronize()
        let before = try file.allocatedBytes()
        #expect(before >= 1 << 20)
        if try file.punchHole(at: 4096, count: 512 << 10) {
            #expect(try file.allocatedBytes() == before - (512 << 10))
            #expect(try contents(file, at: 4095, count: 3) == [7, 0, 0])
        }
        #expect(try file.size() == 1 << 20)
        try file.truncate(to: 5)
        #expect(try file.size() == 5)
    }

    @Test func zeroedRangesReadAsZeros() throws {
        let file = try File(temporaryIn: Self.scratch)
        unsafe try file.write(at: 0, [UInt8](repeating: 7, count: 300_000).span.bytes)
        try file.zero(at: 100, count: 200_000)
        #expect(try contents(file, at: 99, count: 200_002) == [7] + [UInt8](repeating: 0, count: 200_000) + [7])
    }

    @Test func kinds() throws {
        #expect(try File(path: "/tmp").kind() == .directory)
        #expect(try File(path: "/dev/null").kind() == .characterDevice)
        #expect(try File(temporaryIn: Self.scratch).kind() == .regular)
    }

    @Test func locksExcludeWriters() throws {
        let directory = try ScratchDirectory()
        let path = directory.path + "/file"
        var first = try File(path: path, options: [.write, .create, .exclusive])
        let second = try File(path: path, options: .write)
        let third = try File(path: path)
        #expect(try first.tryLock(exclusive: true))
        #expect(try !second.tryLock(exclusive: true))
        #expect(try !third.tryLock(exclusive: false))
        try first.close()
        try first.close()
        #expect(try second.tryLock(exclusive: false))
        #expect(try third.tryLock(exclusive: false))
        #expect(throws: Failure.self) { try third.tryLock(exclusive: true) }
    }

    @Test func failuresNameTheirKindAndPath() {
        expectFailure(.notFound, naming: "/nonexistent/x") { () throws(Failure) in _ = try File(path: "/nonexistent/x") }
        expectFailure(.notFound, naming: "/nonexistent") { () throws(Failure) in _ = try File(temporaryIn: "/nonexistent") }
        expectFailure(.exists, naming: "/dev/null") { () throws(Failure) in
            _ = try File(path: "/dev/null", options: [.write, .create, .exclusive])
        }
        expectFailure(.noSpace, naming: "/dev/full") { () throws(Failure) in
            unsafe try File(path: "/dev/full", options: .write).write(at: 0, [1, 2, 3].span.bytes)
        }
        expectFailure(.noSpace, naming: "/dev/full") { () throws(Failure) in
            var parts = Gather(capacity: 1)
            let one: [UInt8] = [1]
            unsafe parts.append(one.span.bytes)
            try File(path: "/dev/full", options: .write).write(at: 0, &parts)
        }
        expectFailure(.invalidRequest, naming: "/dev/null") { () throws(Failure) in
            unsafe try File(path: "/dev/null", options: .write).write(at: .max, [1].span.bytes)
        }
        expectFailure(.system, naming: "/dev/null") { () throws(Failure) in
            var file = try File(path: "/dev/null", options: .write)
            try file.close()
            unsafe try file.write(at: 0, [1].span.bytes)
        }
    }

    private func expectFailure(_ kind: Failure.Kind, naming path: String, _ body: () throws(Failure) -> Void) {
        do throws(Failure) {
            try body()
            Issue.record("no failure")
        } catch {
            #expect(error.kind == kind, "\(error)")
            #expect(error.what.contains(path), "\(error)")
        }
    }
}
