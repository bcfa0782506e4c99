internal import Synchronization

/// Takes the events of a store and of all its disks, and counts what they do.
public final class Events: Sendable {
    /// Called by any thread, with locks held: it must not call the store, nor take long.
    public typealias Sink = @Sendable (Event) -> Void

    public let counters = Counters()
    private let sink: Sink?
    private let courses = Mutex<[Topic: Condition.Course]>([:])

    private struct Topic: Hashable {
        let kind: Event.Kind
        let subject: Subject
    }

    /// - Parameter sink: is called with each event; nil: nobody is told.
    public init(_ sink: Sink? = nil) { self.sink = sink }

    /// Tells of an event. `text` is not made where nobody is told.
    public func tell(
        _ kind: Event.Kind, _ subject: Subject, _ text: @autoclosure () -> String, _ phase: Event.Phase = .once, because failure: Failure? = nil
    ) {
        if let sink { sink(Event(kind, subject, text(), phase, because: failure)) }
    }

    fileprivate func course(of kind: Event.Kind, _ subject: Subject) -> Condition.Course {
        courses.withLock { courses in
            let topic = Topic(kind: kind, subject: subject)
            let course = courses[topic] ?? Condition.Course()
            courses[topic] = course
            return course
        }
    }
}

/// The events of one subject.
public struct Reporter: Sendable {
    public let events: Events
    public let subject: Subject
    public var counters: Counters { _read { yield events.counters } }

    public init(_ events: Events, _ subject: Subject) {
        self.events = events
        self.subject = subject
    }

    /// One whose events nobody is told of.
    public static let silent = Reporter(Events(), .named("nothing"))

    public func tell(_ kind: Event.Kind, _ text: @autoclosure () -> String, _ phase: Event.Phase = .once, because failure: Failure? = nil) {
        events.tell(kind, subject, text(), phase, because: failure)
    }

    /// A state of that kind, to be told of when it begins and when it is over. It may have begun already: a disk that is opened again goes on with what
    /// was met when it was open before.
    public func condition(_ kind: Event.Kind) -> Condition { Condition(kind, self) }
}

/// A state that lasts. It is told of once when it begins, once for each further kind of cause, and once when it is over, however often it is met
/// meanwhile. Any thread may call.
public final class Condition: Sendable {
    private let kind: Event.Kind
    private let reporter: Reporter
    private let course: Course

    /// How far it is: the same for all who tell of one kind and subject.
    fileprivate final class Course: Sendable {
        /// For `over`, which is called all the time and mostly finds nothing begun: without a lock.
        let lasts = Atomic(false)
        let state = Mutex<State?>(nil)
    }

    fileprivate struct State {
        let since = monotonicSeconds()
        var times = 0
        var causes: [Failure.Kind?] = []
    }

    fileprivate init(_ kind: Event.Kind, _ reporter: Reporter) {
        self.kind = kind
        self.reporter = reporter
        course = reporter.events.course(of: kind, reporter.subject)
    }

    /// The state was met: it begins, or goes on.
    /// - Parameter failure: its cause, whose kind counts; nil: it has only one.
    public func met(_ text: @autoclosure () -> String, because failure: Failure? = nil) {
        let isNew = course.state.withLock { state in
            var now = state ?? State()
            now.times += 1
            let isNew = !now.causes.contains(failure?.kind)
            if isNew { now.causes.append(failure?.kind) }
            state = now
            course.lasts.store(true, ordering: .releasing)
            return isNew
        }
        if isNew { reporter.tell(kind, text(), .begins, because: failure) }
    }

    /// It is over, if it had begun.
    public func over(_ text: @autoclosure () -> String) {
        guard course.lasts.load(ordering: .acquiring) else { return }
        let ended = course.state.withLock { state in
            course.lasts.store(false, ordering: .releasing)
            return state.take()
        }
        if let ended { reporter.tell(kind, text(), .over(seconds: monotonicSeconds() - ended.since, times: ended.times)) }
    }
}

/// What a store and its disks have done since they were opened by this process.
public struct Counters: ~Copyable, Sendable {
    /// Any thread may add, and read.
    public struct Counter: ~Copyable, Sendable {
        private let count = Atomic<UInt64>(0)
        public var value: UInt64 { count.load(ordering: .relaxed) }
        public func add(_ number: Int = 1) { count.add(UInt64(number), ordering: .relaxed) }
    }

    /// Tries of commits that failed.
    public let failedCommits = Counter()
    /// Reads that found a block damaged, and blobs that got their data back.
    public let damagedReads = Counter()
    public let healedBlobs = Counter()
    /// Filters that were made anew.
    public let filterRebuilds = Counter()
    /// Records, and bytes of them, that were taken in of what interrupted writers left.
    public let replayedRecords = Counter()
    public let replayedBytes = Counter()
    /// Locks that were waited for for more than a second.
    public let lockWaits = Counter()
}
