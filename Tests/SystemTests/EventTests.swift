import System
import Testing
import TestSupport

/// What lasts is told when it begins and when it is over, and not in between.
@Suite struct EventTests {
    private let heard = HeardEvents()
    private let full = Failure(.noSpace, "commit to", .store("/s"), "no room")
    private var reporter: Reporter { Reporter(heard.events, .disk("d")) }

    @Test func aConditionIsToldTwice() {
        let condition = reporter.condition(.commitRetry)
        condition.over("never began")
        #expect(heard.all(.commitRetry).isEmpty)
        for _ in 0..<5 { condition.met("full", because: full) }
        #expect(heard.all(.commitRetry).map(\.phase) == [.begins])
        condition.over("goes on")
        condition.over("goes on")
        let told = heard.all(.commitRetry)
        #expect(told.count == 2)
        #expect(told.last?.times == 5)
        #expect(told.first.map { "\($0)" } == "disk d: full: commit to store /s: no room")
        // For as long as the machine took to come to that.
        #expect(told.last?.description.contains(/^disk d: goes on, after [0-9]+ s \(5 times\)$/) == true, "\(told)")
    }

    @Test func anotherCauseIsToldToo() {
        let condition = reporter.condition(.commitRetry)
        for _ in 0..<3 {
            condition.met("full", because: full)
            condition.met("damaged", because: Failure(.damage, "it", "is not right"))
        }
        condition.over("goes on")
        #expect(heard.all(.commitRetry).map(\.text) == ["full", "damaged", "goes on"])
    }

    @Test func itBeginsAnew() {
        let condition = reporter.condition(.reserve)
        for _ in 0..<2 {
            condition.met("gone")
            condition.over("there")
        }
        #expect(heard.all(.reserve).map(\.text) == ["gone", "there", "gone", "there"])
    }

    /// Whoever has met it may be gone when it is over.
    @Test func itIsOfASubject() {
        reporter.condition(.syncFailure).met("broken")
        reporter.condition(.syncFailure).met("broken")
        Reporter(heard.events, .disk("e")).condition(.syncFailure).over("another")
        reporter.condition(.commitRetry).over("another")
        #expect(heard.all(.syncFailure).count == 1)
        reporter.condition(.syncFailure).over("whole")
        #expect(heard.all(.syncFailure).map(\.text) == ["broken", "whole"])
    }

    /// Who shortens a patience that was passed on shortens the waits at work.
    @Test func patienceIsShared() {
        let patience = Patience()
        let told = patience.telling(reporter)
        patience.shorten(limit: 1, limitWhenStopped: 0)
        #expect(told.limit == 1 && told.limitWhenStopped == 0)
    }

    @Test func nobodyNeedHear() {
        var isMade = false
        func text() -> String {
            isMade = true
            return ""
        }
        Reporter.silent.tell(.leftover, text())
        #expect(!isMade)
    }

    /// Whatever is bad news is louder than its end.
    @Test(arguments: Event.Kind.allCases) func anEndIsNoAlarm(kind: Event.Kind) {
        let over = Event(kind, .store("/s"), "", .over(seconds: 1, times: 1))
        #expect(over.priority.rawValue >= Event(kind, .store("/s"), "", .begins).priority.rawValue)
        #expect(over.priority.rawValue >= Event.Priority.notice.rawValue)
    }
}
