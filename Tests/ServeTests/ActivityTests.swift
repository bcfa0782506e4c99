import Activity
import System
import Testing

/// What is noted of requests.
@Suite struct ActivityTests {
    private func work(_ kind: Activity.Kind, _ count: Int, byteCount: UInt64 = 0) -> Activity.Work {
        var work = Activity.Work()
        for _ in 0..<count { work.add(kind, byteCount: byteCount) }
        return work
    }

    @Test func whatIsDoneIsCounted() {
        let activity = Activity()
        let reads = work(.read, 3, byteCount: 4096), flush = work(.flush, 1)
        let began = activity.begin(reads.count)
        #expect(activity.figures.queueDepth == 3)
        _ = activity.begin(1)
        #expect(activity.figures.queueDepth == 4)
        activity.end(reads, since: began - 25)
        activity.end(flush, since: began - 1000)
        activity.end(Activity.Work(), since: 0)
        let figures = activity.figures
        #expect(figures.queueDepth == 0)
        #expect(figures.read.requests == 3 && figures.read.bytes == 12288 && figures.flush.requests == 1)
        #expect(figures.write.requests == 0 && figures.write.median == nil && figures.discard.longest == nil)
        _ = activity.begin(2)
        activity.abandon(2)
        #expect(activity.figures.queueDepth == 0)
        // Two digits of it, and as long as it took from there to here.
        #expect((24.7...50).contains(figures.read.median ?? 0) && (24.7...50).contains(figures.read.p999 ?? 0))
        // More than can be told is as much as can be.
        #expect((99...110).contains(figures.flush.longest ?? 0))
        // Of a clock that went back.
        let again = activity.begin(1)
        activity.end(work(.write, 1), since: again + 50)
        #expect(activity.figures.write.median == 0)
    }

    @Test func manyThreads() throws {
        let activity = Activity()
        let threads = try (0..<8).map { _ in
            try Thread("work") {
                for _ in 0..<2000 {
                    var work = Activity.Work()
                    work.add(.write, byteCount: 512)
                    work.add(.read, byteCount: 1024)
                    activity.end(work, since: activity.begin(2))
                }
            }
        }
        for thread in threads { thread.join() }
        let figures = activity.figures
        #expect(figures.write.requests == 16000 && figures.write.bytes == 16000 * 512 && figures.read.bytes == 16000 * 1024)
        #expect(figures.queueDepth == 0)
    }
}
