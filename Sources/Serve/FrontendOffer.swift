import Blkif
import System
import XenBus

/// Where a frontend says that its rings are, and how they are laid out. All of it was checked: whatever the guest wrote, these
/// are values that can be tried.
///
///     one queue                          several: multi-queue-num-queues
///     ring-ref, event-channel            queue-N/ring-ref, queue-N/event-channel
///     ring-ref0..., event-channel        queue-N/ring-ref0..., queue-N/event-channel
///     ring-ref, ring-ref1..., event-channel
///
/// The pages of a ring, in `ring-page-order` or the older `num-ring-pages`, are the same for all.
struct FrontendOffer: Equatable {
    /// A ring and its event channel.
    struct Queue: Equatable {
        let references: [GrantReference]
        let eventChannel: EventPort
    }

    let queues: [Queue]
    let abi: ABI

    /// Reads the frontend's nodes.
    /// - Throws: `.invalidRequest` when they offer more than was published, or make no sense; and what the xenstore refuses.
    init<Store: Xenstore>(_ nodes: BackendNodes<Store>, _ limits: RingLimits) throws(Failure) {
        let values = FrontendValues(nodes: nodes)
        let order = try Self.ringOrder(values, limits)
        let count = try values.number("multi-queue-num-queues", 1...UInt64(limits.queues)) ?? 1
        if count == 1 {
            queues = [try Self.queue(values, "", order)]
        } else {
            queues = try (0..<count).map { index throws(Failure) in try Self.queue(values, "queue-\(index)/", order) }
        }
        if let name = try values.bytes("protocol") {
            guard let abi = ABI(protocolName: name) else { throw values.failure("protocol", "none that we know") }
            self.abi = abi
        } else {
            // The first frontends had 32 bits, and no such node.
            abi = ABI.native == .x86_64 ? .x86_32 : .native
        }
    }

    private static func ringOrder<Store: Xenstore>(_ values: FrontendValues<Store>, _ limits: RingLimits) throws(Failure) -> Int? {
        let order = try values.number("ring-page-order", 0...UInt64(limits.ringOrder)).map { Int($0) }
        guard let pages = try values.number("num-ring-pages", 1...(1 << UInt64(limits.ringOrder))) else { return order }
        guard pages.nonzeroBitCount == 1, order == nil || 1 << UInt64(order ?? 0) == pages else {
            throw values.failure("num-ring-pages", "no power of 2, or other than its ring-page-order")
        }
        return pages.trailingZeroBitCount
    }

    /// `order`: nil where the frontend said none.
    private static func queue<Store: Xenstore>(
        _ values: FrontendValues<Store>, _ prefix: String, _ order: Int?
    ) throws(Failure) -> Queue {
        let anyReference = 0...UInt64(UInt32.max)
        var references: [GrantReference] = []
        // The one reference of a ring of one page may have either name.
        if order ?? 0 == 0, let reference = try values.number(prefix + "ring-ref", anyReference) {
            references.append(GrantReference(reference))
        } else if let order {
            // FreeBSD's first driver with several pages named the first of them as if it were the only one.
            let first = try values.bytes(prefix + "ring-ref0") == nil ? "ring-ref" : "ring-ref0"
            for index in 0..<(1 << order) {
                references.append(GrantReference(try values.required(prefix + (index == 0 ? first : "ring-ref\(index)"), anyReference)))
            }
        } else {
            throw values.failure(prefix + "ring-ref", "absent")
        }
        // A port fits in 31 bits (xenevtchn.h).
        return Queue(
            references: references,
            eventChannel: EventPort(try values.required(prefix + "event-channel", 0...UInt64(Int32.max))))
    }
}

/// What was published to a frontend as the most that it may offer.
struct RingLimits {
    /// A ring may have 2^this pages.
    let ringOrder: Int
    let queues: Int
}

/// A frontend's nodes.
private struct FrontendValues<Store: Xenstore> {
    let nodes: BackendNodes<Store>

    func bytes(_ key: String) throws(Failure) -> [UInt8]? { try nodes.store.read("\(nodes.frontend)/\(key)") }

    /// Nil when there is no such node. Throws when it holds anything but a number in `range`.
    func number(_ key: String, _ range: ClosedRange<UInt64>) throws(Failure) -> UInt64? {
        guard try bytes(key) != nil else { return nil }
        guard let number = try nodes.store.number("\(nodes.frontend)/\(key)"), range.contains(number) else {
            throw failure(key, "not a number from \(range.lowerBound) to \(range.upperBound)")
        }
        return number
    }

    func required(_ key: String, _ range: ClosedRange<UInt64>) throws(Failure) -> UInt64 {
        guard let number = try number(key, range) else { throw failure(key, "absent") }
        return number
    }

    func failure(_ key: String, _ why: String) -> Failure {
        Failure(.invalidRequest, "\(nodes.device): the guest's \(key)", why)
    }
}
