import BlockModel
import Synchronization
import System
import Testing
import TestSupport

/// A disk over a disk is the disk below in all that it does not say itself.
@Suite struct ForwardingTests {
    /// Tells what it was asked.
    private final class Listener: BlockDevice {
        private let calls = Mutex<[String]>([])
        private func note(_ call: String) { calls.withLock { $0.append(call) } }
        func heard() -> [String] {
            calls.withLock { calls in
                defer { calls = [] }
                return calls
            }
        }

        let sectorCount: UInt64 = 4711
        let isReadOnly = true
        func read(at sector: UInt64, into buffer: inout MutableRawSpan) throws(Failure) { note("read \(sector) \(buffer.byteCount)") }
        func lend(_ range: SectorRange) -> LentMemory? {
            note("lend \(range.start) \(range.count)")
            return nil
        }
        func expectReads(of ranges: [SectorRange]) { note("expect \(ranges.count)") }
        func write(at sector: UInt64, _ bytes: RawSpan) throws(Failure) { note("write \(sector) \(bytes.byteCount)") }
        func write(_ parts: Span<WritePart>, of bytes: RawSpan) throws(Failure) { note("write together \(parts.count)") }
        func discard(_ range: SectorRange) throws(Failure) { note("discard \(range.start) \(range.count)") }
        func extent(at sector: UInt64, limit: UInt64) throws(Failure) -> Extent {
            note("extent \(sector) \(limit)")
            return Extent(isHole: true, count: 3)
        }
        func flush() throws(Failure) { throw Failure(.damage, "flush", "told to fail") }
        func refresh() throws(Failure) -> Bool {
            note("refresh")
            return true
        }
        func allowWaiting(_ isAllowed: Bool) { note("allow \(isAllowed)") }
        func close() throws(Failure) { note("close") }
    }

    private final class Plain<Next: BlockDevice>: ForwardingDisk {
        let next: Next
        init(_ next: Next) { self.next = next }
    }

    private func exercise(_ disk: some BlockDevice, _ listener: Listener) throws {
        let range = try #require(SectorRange(start: 5, count: 6))
        #expect(disk.sectorCount == 4711 && disk.isReadOnly)
        _ = try disk.sectors(at: 1, count: 2)
        #expect(disk.lend(range) == nil)
        disk.expectReads(of: [range, range, range])
        try disk.write(at: 7, block(1))
        try disk.write([WritePart(sector: 0, range: 0..<512), WritePart(sector: 9, range: 0..<512)].span, of: block(1).rawBytes)
        try disk.discard(range)
        #expect(try disk.extent(at: 8, limit: 9) == Extent(isHole: true, count: 3))
        #expect { try disk.flush() } throws: { ($0 as? Failure)?.kind == .damage }
        #expect(try disk.refresh())
        disk.allowWaiting(true)
        try disk.close()
        #expect(
            listener.heard() == [
                "read 1 1024", "lend 5 6", "expect 3", "write 7 4096", "write together 2", "discard 5 6", "extent 8 9", "refresh", "allow true", "close",
            ])
    }

    @Test func allOfItGoesToTheDiskBelow() throws {
        let listener = Listener()
        try exercise(Plain(listener), listener)
        // However many lie between, and whoever calls.
        try exercise(Plain(Plain(listener)), listener)
        let erased: any BlockDevice = Plain(listener)
        try exercise(erased, listener)
    }
}
