import System
import Testing
import TestSupport

@testable import LMDB

@Suite struct WritingTests {
    /// Calls of this thread that wrote (proc(5), `/proc/PID/io`).
    private static func writeCalls() throws -> Int {
        let file = try File(path: "/proc/thread-self/io")
        let text = String(decoding: [UInt8](count: 256) { _ = try? file.readNext(into: &$0) }, as: UTF8.self)
        let line = text.split(separator: "\n").first { $0.hasPrefix("syscw: ") }
        return Int(line?.dropFirst(7) ?? "") ?? 0
    }

    /// A commit is not handed to the kernel as a whole, and arrives as a whole.
    @Test func largeCommitsAreWrittenInPieces() throws {
        let scratch = try ScratchDirectory()
        let lockFile = try LockFile(try File.owned(scratch.path + "/lock"), patience: Patience())
        let environment = try Environment.open(path: scratch.path, number: 0, lockFile, mapBytes: 1 << 30, tables: 1, creating: true)
        var opening = try TableOpening(environment, creating: true)
        let table = try opening.table("values")
        try opening.finish()
        let count = 24, byteCount = 700_000
        var writing = try WriteTransaction(environment)
        for key in 0..<count {
            try writing.put(table, UInt64(key), count: byteCount) { value in
                for offset in stride(from: 0, to: byteCount, by: 8) { value.store(UInt64(key * byteCount + offset), at: offset) }
            }
        }
        let before = try Self.writeCalls()
        try writing.commit()
        #expect(try Self.writeCalls() - before >= count)
        let reading = try ReadTransaction(environment)
        for key in 0..<count {
            guard let value = try reading.view.value(table, UInt64(key)), value.byteCount == byteCount else {
                Issue.record("value \(key) is missing")
                continue
            }
            #expect(stride(from: 0, to: byteCount, by: 8).first { value.load(at: $0, as: UInt64.self) != UInt64(key * byteCount + $0) } == nil)
        }
    }
}
