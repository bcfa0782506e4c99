import BlockModel
import Glibc
import Synchronization
import System
import XenBus

/// A thread that serves one ring, until it is told to let go of it or the ring breaks.
final class QueueThread<Host: XenHost, Device: BlockDevice>: @unchecked Sendable {
    enum Order: UInt8, AtomicRepresentable {
        case serve
        /// Answer what is on the ring, then let go.
        case finish
        /// Let go once the batch at work is answered.
        case letGo
    }

    /// Used by the thread alone, from its start to its end.
    private var server: RingServer<Host, Device>?
    private var spin = SpinWait(.elsewhere)
    /// An event came and is not accepted yet: what it came for is done first, as the guest waits for that.
    private var hasEvent = false
    private let order = Atomic(Order.serve)
    private let orders: Doorbell
    private let ending = Mutex<Failure?>(nil)
    private let trouble: Doorbell
    private let log: LogLimiter

    /// `trouble` rings when the thread has ended by itself: then `failure` says why.
    init(_ server: consuming RingServer<Host, Device>, trouble: Doorbell, _ log: LogLimiter) throws(Failure) {
        self.server = consume server
        orders = try Doorbell()
        self.trouble = trouble
        self.log = log
    }

    func start() throws(Failure) -> Thread { try Thread("ring") { [self] in run() } }

    func give(_ order: Order) {
        self.order.store(order, ordering: .releasing)
        orders.ring()
    }

    /// Why the ring is served no more; nil while it is, and after it was let go of by order.
    var failure: Failure? { ending.withLock { $0 } }

    private func run() {
        StopRequest.leaveSignalsToOthers()
        do throws(Failure) {
            try serve()
        } catch {
            ending.withLock { $0 = error }
        }
        // The ring is let go of on this thread, as no other may use it.
        server = nil
        if failure != nil { trouble.ring() }
    }

    private func serve() throws(Failure) {
        var requests = [server?.eventDescriptor ?? -1, orders.descriptor].map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        while true {
            let isBusy = try server?.serve(log) { order.load(ordering: .acquiring) == .letGo } ?? false
            switch order.load(ordering: .acquiring) {
            case .serve: break
            case .finish: return try finish(&requests)
            case .letGo: return
            }
            if isBusy {
                // A guest that never stops asking must not hide orders and events.
                try wait(&requests, milliseconds: 0)
            } else {
                // Where many are under way, they cost less each when they are taken together, so that they are waited for asleep.
                if server?.isDeep == true { spin.pause() }
                try spin.wait { () throws(Failure) in
                    try server?.hasRequests() != false || order.load(ordering: .relaxed) != .serve
                } sleep: { () throws(Failure) in
                    try waitForEvent(&requests, milliseconds: -1)
                }
            }
        }
    }

    /// Answers what is left on the ring of a frontend that we have asked to close. Linux says Closed at once, with
    /// requests under way; it then waits for their answers with its xenbus thread, for ever, and hangs (drivers/block/
    /// xen-blkfront.c, `blkfront_closing`; `del_gendisk`). Each answer may bring one more that waited for room.
    private func finish(_ requests: inout [pollfd]) throws(Failure) {
        let deadline = ContinuousClock.now + finishLimit
        while order.load(ordering: .acquiring) == .finish, ContinuousClock.now < deadline {
            if try server?.serve(log, isLettingGo: { false }) == true { continue }
            if try !waitForEvent(&requests, milliseconds: quietMilliseconds) { return }
        }
    }

    /// Waits for requests or an order. False: neither came.
    @discardableResult
    private func waitForEvent(_ requests: inout [pollfd], milliseconds: Int32) throws(Failure) -> Bool {
        if hasEvent {
            hasEvent = false
            try server?.acceptEvent()
        }
        if try server?.armEvent() == true { return true }
        return try wait(&requests, milliseconds: milliseconds)
    }

    /// Waits for an event or an order. False: neither came.
    @discardableResult
    private func wait(_ requests: inout [pollfd], milliseconds: Int32) throws(Failure) -> Bool {
        let ready = unsafe poll(&requests, nfds_t(requests.count), milliseconds)
        guard ready > 0 else { return false }
        if requests.contains(where: \.isBroken) {
            throw Failure(.system, "serve", "a ring", "the connection to the event channels broke", remedy: "see the kernel's log")
        }
        if requests[1].isReadable { orders.take() }
        if requests[0].isReadable { hasEvent = true }
        return true
    }
}

extension pollfd {
    var isReadable: Bool { revents & Int16(POLLIN) != 0 }
    /// Nothing will ever come of it, and each `poll` would return at once.
    var isBroken: Bool { revents & Int16(POLLERR | POLLHUP | POLLNVAL) != 0 }
}

/// A closing ring with nothing on it for this long is finished.
private let quietMilliseconds: Int32 = 200
/// A closing ring is let go of after this, if the frontend goes on asking.
private let finishLimit = Duration.seconds(5)
