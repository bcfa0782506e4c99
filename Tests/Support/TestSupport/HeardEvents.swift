public import System

/// The events that a store has told.
public final class HeardEvents: Sendable {
    private let heard: Monitor<[Event]>
    /// To open the store with.
    public let events: Events

    public init() {
        let heard = Monitor<[Event]>([])
        self.heard = heard
        events = Events { event in
            heard.with { $0.append(event) }
            heard.notify()
        }
    }

    /// All of that kind, in their order.
    public func all(_ kind: Event.Kind) -> [Event] { heard.with { $0.filter { $0.kind == kind } } }

    /// Waits until there are so many of that kind, or for two minutes.
    public func wait(for count: Int, _ kind: Event.Kind) -> [Event] {
        let end = monotonicSeconds() + 120
        heard.wait { heard in
            let left = end - monotonicSeconds()
            return left <= 0 || heard.count(where: { $0.kind == kind }) >= count ? .done(()) : .atMost(left)
        }
        return all(kind)
    }
}

extension Event {
    /// How often it was met before it was over; nil: it is not.
    public var times: Int? { if case .over(_, let times) = phase { times } else { nil } }
}
