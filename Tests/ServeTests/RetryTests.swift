@testable import Serve
import Testing

@Suite struct RetryTests {
    @Test func pausesGrowUpToALimit() {
        var now = ContinuousClock.now
        var retry = Retry(first: .seconds(1), longest: .seconds(5), now: now)
        var pauses: [Duration] = []
        for number in 0..<5 {
            retry.begin(now: now)
            let isFirst = retry.fail(now: now)
            #expect(isFirst == (number == 0))
            pauses.append(retry.due - now)
            now = retry.due
        }
        #expect(pauses == [1, 2, 4, 5, 5].map { Duration.seconds($0) })
        // What fails after it went well for long, fails for the first time.
        retry.begin(now: now)
        now += .seconds(6)
        let isFirst = retry.fail(now: now)
        #expect(isFirst && retry.due == now + .seconds(1))
    }
}
