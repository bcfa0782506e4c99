import BlockModel
import System
import XenBus

/// The rings of a connected device, with a thread for each. When this ends, all are let go of.
struct Queues<Host: XenHost, Device: BlockDevice>: ~Copyable {
    /// What they were made from.
    let offer: FrontendOffer
    private let device: Device
    private let queues: [QueueThread<Host, Device>]
    private var threads: [Thread]

    /// Connects to all rings of an offer, and serves them. `resuming`: a predecessor was killed while it served them. `trouble` rings when
    /// one of them breaks.
    init(
        _ host: Host, _ device: Device, domain: DomainID, _ offer: FrontendOffer, resuming: Bool, trouble: Doorbell, _ log: LogLimiter,
        _ counts: RequestCounts
    ) throws(Failure) {
        // None is served before all are connected: an offer is good as a whole.
        let queues = try offer.queues.map { queue throws(Failure) in
            var server = try RingServer(host, device, domain: domain, queue, offer.abi, resuming: resuming, counts)
            if resuming { try server.finishRecordedResponse() }
            return try QueueThread(server, trouble: trouble, log)
        }
        var threads: [Thread] = []
        device.allowWaiting(true)
        do {
            for queue in queues { threads.append(try queue.start()) }
        } catch {
            Self.end(device, queues, threads, .letGo)
            throw error
        }
        self.offer = offer
        self.device = device
        self.queues = queues
        self.threads = threads
    }

    deinit { Self.end(device, queues, threads, .letGo) }

    /// Why one of the rings is served no more; nil while all are.
    var failure: Failure? { queues.lazy.compactMap(\.failure).first }

    /// Answers what is left on rings that the frontend has closed, and lets go of them.
    mutating func finish() {
        Self.end(device, queues, threads, .finish)
        threads = []
    }

    private static func end(
        _ device: Device, _ queues: [QueueThread<Host, Device>], _ threads: [Thread], _ order: QueueThread<Host, Device>.Order
    ) {
        for queue in queues { queue.give(order) }
        // A ring's thread that waits for room in the store would not end.
        device.allowWaiting(false)
        for thread in threads { thread.join() }
    }
}
