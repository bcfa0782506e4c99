import Blkif
import BlockModel
import Disk
import DiskExercise
import FrontEnd
import Synchronization
import System
import Testing
import TestSupport
import XenBus

/// Reads that a ring takes from where the disk has them in memory.
@Suite struct LendingTests {
    let scratch: ScratchDirectory
    let served: ServedDisk
    let disk: LendingDisk
    private let pinned: PinnedFile
    private static let sectors = 1024

    init() throws {
        scratch = try ScratchDirectory()
        let path = scratch.path + "/raw"
        try Files.write(path, pattern(1, sectors: Self.sectors))
        pinned = try PinnedFile(path)
        disk = LendingDisk(try RawFileDisk(path: path, readOnly: false))
        served = try ServedDisk()
        try served.start { [disk] () throws(Failure) in disk }
        try served.frontEnd.connect()
    }

    /// What the disk holds from `sector` on, as long as nothing was written.
    private func content(_ sector: Int, _ count: Int) -> [UInt8] {
        Array(pattern(1, sectors: Self.sectors)[sector * sectorSize..<(sector + count) * sectorSize])
    }

    @Test(arguments: [SegmentLayout.pages, SegmentLayout(firstSector: 3, sectorCount: 5), SegmentLayout(firstSector: 7, sectorCount: 1)])
    func aLargeReadIsNotBuffered(layout: SegmentLayout) throws {
        served.frontEnd.layout = layout
        served.frontEnd.maximumSegments = 256
        for sector in [0, 8, 13, Self.sectors - 200] {
            #expect(try served.frontEnd.read(UInt64(sector), 200) == content(sector, 200))
        }
        #expect(disk.counts == LendingDisk.Counts(loans: 4, reads: 0))
        // What is written shows at once.
        try served.frontEnd.write(40, pattern(7, sectors: 8))
        #expect(Array(try served.frontEnd.read(0, 200)[40 * sectorSize..<48 * sectorSize]) == pattern(7, sectors: 8))
        #expect(disk.counts == LendingDisk.Counts(loans: 5, reads: 0))
        #expect(try served.unplug() == .unplugged)
    }

    @Test func neighboursAreOneLoan() throws {
        let reads = try served.frontEnd.perform((0..<8).map { .read(sector: UInt64($0 * 16), count: 16) })
        #expect(reads.map(\.data) == (0..<8).map { content($0 * 16, 16) })
        #expect(disk.counts == LendingDisk.Counts(loans: 1, reads: 0))
        #expect(try served.unplug() == .unplugged)
    }

    /// A read that came before a write does not see it.
    @Test func whatIsTakenWithWritesIsBuffered() throws {
        let completions = try served.frontEnd.perform([
            .read(sector: 0, count: 80), .write(sector: 8, pattern(9, sectors: 8)), .read(sector: 0, count: 80),
        ])
        #expect(completions[0].data == content(0, 80))
        #expect(completions[2].data == content(0, 8) + pattern(9, sectors: 8) + content(16, 64))
        #expect(disk.counts == LendingDisk.Counts(loans: 0, reads: 2))
        #expect(try served.unplug() == .unplugged)
    }

    /// The file is cut between the loan and the copy: the disk is asked, and says what can't be read.
    @Test func whatIsGoneIsReadAgain() throws {
        disk.lendsWhatIsGone = true
        #expect(try served.frontEnd.read(0, 200) == content(0, 200))
        #expect(disk.counts == LendingDisk.Counts(loans: 1, reads: 1))
        let file = try File(path: scratch.path + "/raw", options: .write)
        try file.truncate(to: 128 * UInt64(sectorSize))
        let reads = try served.frontEnd.perform([.read(sector: 0, count: 128), .read(sector: 128, count: 128)])
        #expect(reads.map(\.status) == [.okay, .error])
        #expect(reads[0].data == content(0, 128))
        #expect(served.log.contains("it has become shorter than the disk"))
        #expect(try served.unplug() == .unplugged)
    }

    @Test func grantsThatVanishFailTheirRequestsOnly() throws {
        let references = try (0..<32).map { _ in served.guest.grant(try served.guest.allocatePages(1)[0]) }
        served.guest.revoke(references[20])
        let requests = (0..<4).map { index in
            var request = Request()
            request.id = UInt64(index)
            request.sector = UInt64(index * 64)
            request.segmentCount = 8
            for segment in 0..<8 {
                request.segments[segment] = Segment(gref: references[index * 8 + segment], firstSector: 0, lastSector: 7)
            }
            return request
        }
        #expect(try served.frontEnd.exchange(requests).map(\.rawStatus) == [0, 0, -1, 0])
        #expect(disk.counts == LendingDisk.Counts(loans: 1, reads: 1))
        #expect(try served.unplug() == .unplugged)
    }

    @Test(arguments: [(51, 1), (52, 1), (53, 4)] as [(UInt64, Int)])
    func aGuestFindsWhatItWrote(seed: UInt64, queueCount: Int) throws {
        let path = scratch.path + "/exercised"
        try File(path: path, options: [.write, .create]).truncate(to: UInt64(3001 * sectorSize))
        try exerciseDisk(seed: seed, operations: 300, queueCount: queueCount, events: [.reconnects, .reopens, .kills]) {
            () throws(Failure) in try RawFileDisk(path: path, readOnly: false)
        }
    }
}

/// A raw file that counts how it is read, and may lend memory that isn't there any more.
final class LendingDisk: ForwardingDisk {
    struct Counts: Equatable {
        var loans = 0, reads = 0
    }
    private struct State {
        var counts = Counts()
        var lendsWhatIsGone = false
    }
    private final class Gone: Sendable {
        let memory: FileMapping
        init(byteCount: Int) throws(Failure) {
            let file = try File(temporaryIn: "/tmp")
            memory = try file.map(byteCount: byteCount)
        }
    }

    let next: RawFileDisk
    private let state = Mutex(State())

    init(_ disk: RawFileDisk) { next = disk }

    var counts: Counts { state.withLock { $0.counts } }
    var lendsWhatIsGone: Bool {
        get { state.withLock { $0.lendsWhatIsGone } }
        set { state.withLock { $0.lendsWhatIsGone = newValue } }
    }

    func lend(_ range: SectorRange) -> LentMemory? {
        var loan = next.lend(range)
        let count = Int(range.count) * sectorSize
        if lendsWhatIsGone, let gone = try? Gone(byteCount: count) {
            loan = unsafe LentMemory(gone.memory.address(at: 0, count: count), of: gone)
        }
        if loan != nil { state.withLock { $0.counts.loans += 1 } }
        return loan
    }

    func read(at sector: UInt64, into buffer: inout MutableRawSpan) throws(Failure) {
        state.withLock { $0.counts.reads += 1 }
        try next.read(at: sector, into: &buffer)
    }

    /// Nobody hears of a file that was cut, but by reading it.
    func refresh() throws(Failure) -> Bool { false }
}
