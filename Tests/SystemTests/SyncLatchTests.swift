import System
import Testing

/// What failed once has failed.
@Suite struct SyncLatchTests {
    private let first = Failure(.system, "sync", "no")
    private let second = Failure(.noSpace, "sync", "again no")

    @Test func nothingIsTriedAgain() throws {
        let latch = SyncLatch()
        var tries = 0
        try latch.check()
        try latch.run { () throws(Failure) in tries += 1 }
        #expect(throws: first) { try latch.run { () throws(Failure) in throw first } }
        #expect(latch.failure == first)
        #expect(throws: first) { try latch.check() }
        #expect(throws: first) { try latch.run { () throws(Failure) in tries += 1 } }
        #expect(tries == 1)
        latch.set(second)
        #expect(latch.failure == first)
    }

    /// Another one fails while this one is at work, which may have been the one's doing.
    @Test func aSuccessBesideAFailureIsNone() throws {
        let latch = SyncLatch()
        #expect(throws: first) { try latch.run { () throws(Failure) in latch.set(first) } }
    }
}
