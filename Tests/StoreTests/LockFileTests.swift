import CLinux
import Glibc
import System
import Testing
import TestSupport

@testable import LMDB

/// Each `LockFile` here stands for a process of its own: its locks are those of an opening of the file.
@Suite struct LockFileTests {
    let scratch: ScratchDirectory
    var path: String { scratch.path + "/lock" }

    init() throws { scratch = try ScratchDirectory() }

    private func open(_ patience: Patience = Patience(limit: 0.3, limitWhenStopped: 0.1)) throws -> LockFile {
        try LockFile(try File.owned(path), patience: patience)
    }

    @Test func aLockIsHeldByOne() throws {
        let first = try open(), second = try open()
        let hold = try first.hold(.opening)
        #expect { _ = try second.hold(.opening) } throws: { error in
            guard let failure = error as? Failure else { return false }
            // Who holds it is named: this process, by its number.
            return failure.kind == .busy && "\(failure)".contains("process \(clinux_process_id()) (")
        }
        // Others are free.
        _ = try second.hold(.writing(0))
        _ = consume hold
        _ = try second.hold(.opening)
    }

    @Test func threadsOfAProcessTakeTurns() throws {
        let file = try open(Patience())
        let order = Monitor<[Int]>([])
        let hold = try file.hold(.opening)
        var threads: [Thread] = []
        for number in 0..<4 {
            threads.append(
                try Thread("turn") {
                    do { let hold = try file.hold(.opening); order.with { $0.append(number) }; _ = consume hold } catch { order.with { $0.append(-1) } }
                })
            // It waits before the next comes.
            waitUntil { file.waiters(.opening) > number }
        }
        _ = consume hold
        for thread in threads { thread.join() }
        #expect(order.with { $0 } == [0, 1, 2, 3])
    }

    /// Who has had it gives way to another process, however soon it wants it again.
    @Test func aProcessGivesWay() throws {
        let first = try open(Patience()), second = try open(Patience())
        let got = Monitor(false)
        let hold = try first.hold(.opening)
        let other = try Thread("other") {
            if let hold = try? second.hold(.opening) { got.with { $0 = true }; _ = consume hold }
        }
        // Until it has told that it waits.
        try waitUntil { try first.isWaitedFor(.opening) }
        _ = consume hold
        // It gives way for three milliseconds each time, in which a busy machine may not come to the other one.
        var hurried = 0
        let end = monotonicSeconds() + 120
        while !got.with({ $0 }), monotonicSeconds() < end {
            let began = monotonicSeconds()
            _ = try first.hold(.opening)
            let isHurried = monotonicSeconds() - began < 0.002
            if isHurried, try first.isWaitedFor(.opening) { hurried += 1 }
        }
        #expect(got.with { $0 } && hurried < 100, "\(hurried)")
        other.join()
    }

    @Test func endlessPatienceEndsWhenItIsShortened() throws {
        let told = Monitor<[String]>([])
        let patience = Patience(reporter: Reporter(Events { event in told.with { $0.append("\(event)") } }, .named("lock"))).endless()
        let first = try open(), second = try open()
        let hold = try first.hold(.opening)
        let failure = Monitor<Failure?>(nil)
        let waiting = try Thread("waiting") {
            do throws(Failure) { _ = try second.hold(.opening, patience) } catch { failure.with { $0 = error } }
        }
        // Longer than a second: it is told.
        waitUntil { told.with { !$0.isEmpty } }
        #expect(told.with { $0.count } == 1)
        #expect(failure.with { $0 } == nil)
        patience.shorten(limit: 0, limitWhenStopped: 0)
        waiting.join()
        #expect(failure.with { $0?.kind } == .busy)
        _ = consume hold
    }

    @Test func numbersAreDifferent() throws {
        let files = try (0..<50).map { _ in try open() }
        #expect(Set(files.map(\.identity)).count == 50)
        // None is a process's (proc(5), pid_max).
        #expect(files.allSatisfy { $0.identity > 1 << 22 })
    }

    @Test func whoMayOnlyReadKeepsWritersOut() throws {
        var writer: LockFile? = try open()
        #expect(throws: Failure.self) { _ = try LockFile(readOnly: try File(path: path), patience: Patience()) }
        writer = nil
        _ = writer
        var reader: LockFile? = try LockFile(readOnly: try File(path: path), patience: Patience())
        let second = try LockFile(readOnly: try File(path: path), patience: Patience())
        #expect(reader?.isReadOnly == true && second.isReadOnly)
        #expect { _ = try self.open() } throws: { ($0 as? Failure)?.kind == .busy }
        #expect(throws: Failure.self) { try second.refuseIfReadOnly() }
        reader = nil
        _ = reader
    }

    /// What somebody else wrote into the file can be anything.
    @Test(arguments: ["", "x", "1 2", "-4 0 a", "99999999999999999999 0 a", "12 0 a\u{1b}[2Jb", "\u{0}"])
    func recordsAreNotBelieved(_ text: String) {
        let holder = LockHolder(Array(text.utf8) + [UInt8](repeating: 0, count: 256 - text.utf8.count))
        #expect(holder.map { !$0.description.contains("\u{1b}") && $0.process == 12 } ?? true)
    }

    /// Whoever has it, and however often; with the process, all its claims go.
    @Test func claimsAreSeenByAll() throws {
        var first: LockFile? = try open()
        let second = try open()
        #expect(try !second.isClaimed(7))
        try first?.claim(7)
        try first?.claim(7)
        try second.claim(8)
        #expect(try first?.isClaimed(7) == true && second.isClaimed(7) && second.isClaimed(8) && !second.isClaimed(6))
        first?.release(7)
        #expect(try second.isClaimed(7))
        first?.release(7)
        #expect(try !second.isClaimed(7))
        try first?.claim(9)
        try second.claim(9)
        first = nil
        _ = first
        second.release(9)
        #expect(try !second.isClaimed(9) && second.isClaimed(8))
    }
}
