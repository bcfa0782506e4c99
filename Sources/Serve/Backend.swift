public import BlockModel
import Glibc
public import XenBus

/// How the serving of a disk ended. None of these is an error.
public enum BackendOutcome: Sendable {
    /// On request, or because somebody else unplugged the device: the guest has let go of it.
    case unplugged
    /// On a second request, without the guest's consent.
    case forced
    /// The guest was shut down or destroyed.
    case guestGone
}

/// A disk of a VM: from hot-plug to unplug, on the calling thread.
///
///     ours                  the front end's
///     2 InitWait            1 Initialising
///                           3 Initialised     it says where its ring is; we map it and say what the disk is
///     4 Connected           4 Connected       requests
///     5 Closing             5 Closing         either may begin
///     6 Closed              6 Closed          we unmap the ring; back to 2 when the front end goes back to 1,
///                                             unless the device was unplugged: then its nodes are removed
///
/// States and rings of the guest are looked at, never believed: events say only that there may be something to see.
public struct Backend<Host: XenHost, Device: BlockDevice>: ~Copyable {
    private let host: Host
    private let disk: FailStop<Device>
    private let configuration: BackendConfiguration
    private let stop: StopRequest
    private let nodes: BackendNodes<Host>
    private var server: RingServer<Host, FailStop<Device>>?
    /// Our own state, as we last wrote it.
    private var state = XenbusState.initWait
    private var isUnplugging = false
    /// There are more watch events, for which the descriptor need not be readable.
    private var hasWatchEvents = false
    /// When to say that the guest takes long to let go; nil: not now.
    private var unplugDeadline: ContinuousClock.Instant?
    private let log: LogLimiter

    /// Which device the VM sees.
    public var device: VirtualDevice { nodes.device }

    /// Plugs the disk into the VM. Throws `.busy` when the device is in use.
    ///
    /// A device that a killed process left connected to the same disk is continued. `stop` ends `run`.
    public static func attach(
        _ host: Host, _ disk: Device, _ configuration: BackendConfiguration, stop: StopRequest
    ) throws(Failure) -> Backend {
        let attachment = try Attachment(host, configuration, readOnly: disk.isReadOnly)
        var backend = Backend(host, disk, configuration, stop, attachment.nodes)
        if attachment.takesOver { try backend.takeOver() }
        try host.watch(attachment.nodes.frontend + "/state", token: "frontend")
        try host.watch(attachment.nodes.backend + "/state", token: "backend")
        try host.watch("@releaseDomain", token: "domain")
        configuration.log("\(backend.device) of VM \(configuration.domain.name) is disk \(configuration.disk)")
        return backend
    }

    private init(
        _ host: Host, _ disk: Device, _ configuration: BackendConfiguration, _ stop: StopRequest, _ nodes: BackendNodes<Host>
    ) {
        self.host = host
        self.disk = FailStop(disk)
        self.configuration = configuration
        self.stop = stop
        self.nodes = nodes
        log = LogLimiter(configuration.log)
    }

    /// Serves the disk until it is unplugged or the guest is gone. A throw leaves the nodes as they are, so that a
    /// later process can continue the device.
    public mutating func run() throws(Failure) -> BackendOutcome {
        var requests = [host.storeDescriptor, host.eventDescriptor, stop.descriptor].map {
            pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
        }
        var isBusy = false
        while true {
            try wait(&requests, isBusy: isBusy)
            let stops = requests[2].isReadable ? stop.take() : 0
            if stops > 0 {
                if isUnplugging || stops > 1 { return try leave(.forced) }
                log("unplugging \(device)")
                try nodes.announceUnplug()
                state = .closing
                beginUnplug()
            }
            if stops > 0 || requests[0].isReadable || hasWatchEvents {
                let isChanged = try drainWatchEvents()
                if isChanged || stops > 0, let outcome = try followStates() { return outcome }
            }
            // One ring has one event channel. What the event was for is looked for in any case.
            if requests[1].isReadable, let port = try host.pendingEvent() { try server?.accept(port) }
            isBusy = try serve() || hasWatchEvents
        }
    }

    /// Waits until there is something to look at.
    private mutating func wait(_ requests: inout [pollfd], isBusy: Bool) throws(Failure) {
        var timeout: Int32 = isBusy ? 0 : -1
        if let deadline = unplugDeadline {
            let left = ContinuousClock.now.duration(to: deadline) / .milliseconds(1)
            if left <= 0 {
                log("VM \(configuration.domain.name) has not let go of \(device) yet; another signal ends without waiting for it")
                unplugDeadline = nil
            } else if !isBusy {
                timeout = Int32(clamping: Int(left) + 1)
            }
        }
        guard unsafe poll(&requests, nfds_t(requests.count), timeout) > 0 else { return }
        // As when xenstored ends: nothing would ever come, and `poll` never wait.
        if requests.contains(where: { $0.revents & Int16(POLLERR | POLLHUP | POLLNVAL) != 0 }) {
            throw Failure(.system, "serving \(device)", "the connection to the xenstore or to the event channels broke",
                remedy: "see that xenstored runs, then connect the disk again")
        }
    }

    // MARK: States

    /// Takes the next step of the connection, if the front end's state asks for one.
    private mutating func followStates() throws(Failure) -> BackendOutcome? {
        guard host.isIntroduced(nodes.domain), let frontend = try nodes.frontendState() else { return try leave(.guestGone) }
        guard let published = try nodes.backendState() else { return try leave(.unplugged) }
        if published == .closing, state != .closing, state != .closed {
            log("\(device) is being unplugged")
            state = .closing
            beginUnplug()
        }
        switch (frontend, state) {
        case (.initialised, .initWait), (.connected, .initWait):
            try connect()
        case (.initialised, .closed) where !isUnplugging:
            // It came back without waiting for us.
            try setState(.initWait)
            try connect()
        case (.closing, .initWait), (.closing, .connected):
            try setState(.closing)
        case (.closed, .initWait), (.closed, .connected), (.closed, .closing):
            if isUnplugging { try settle() }
            server = nil
            try setState(.closed)
        case (.initialising, .connected), (.initialising, .closing), (.initialising, .closed):
            // A front end that starts anew has forgotten its ring.
            server = nil
            if !isUnplugging { try setState(.initWait) }
        default:
            break
        }
        if state == .closed, try !nodes.isOnline() { isUnplugging = true }
        // A front end with no ring has nothing to let go of, and some never answer.
        let hasLetGo = frontend != .initialised && frontend != .connected && frontend != .closing
        return isUnplugging && server == nil && hasLetGo ? try leave(.unplugged) : nil
    }

    private mutating func beginUnplug() {
        isUnplugging = true
        unplugDeadline = .now + configuration.patience
    }

    private mutating func connect() throws(Failure) {
        do {
            let offer = try FrontendOffer(nodes, maximumRingOrder: configuration.maximumRingOrder)
            server = try RingServer(host, disk, domain: nodes.domain, offer, resuming: false)
        } catch {
            return try refuse(error)
        }
        try nodes.publish(sectorCount: disk.sectorCount, readOnly: disk.isReadOnly)
        state = .connected
        log("VM \(configuration.domain.name) has connected \(device)")
    }

    /// Goes on where a killed process stopped.
    private mutating func takeOver() throws(Failure) {
        state = try nodes.backendState() ?? .unknown
        if state.rawValue < XenbusState.initWait.rawValue || state == .initialised { try setState(.initWait) }
        let frontend = try nodes.frontendState()
        guard state == .connected, frontend == .initialised || frontend == .connected else { return }
        let offer = try FrontendOffer(nodes, maximumRingOrder: configuration.maximumRingOrder)
        // Fails when the process lives after all: an event channel has one owner.
        server = try RingServer(host, disk, domain: nodes.domain, offer, resuming: true)
        try server?.finishRecordedResponse()
        // The disk may have been resized since.
        try nodes.publish(sectorCount: disk.sectorCount, readOnly: disk.isReadOnly)
        log("continuing \(device) of VM \(configuration.domain.name) where a killed process stopped")
    }

    /// Closes the connection because of what the front end did.
    private mutating func refuse(_ reason: Failure) throws(Failure) {
        log("closing \(device) of VM \(configuration.domain.name): \(reason)")
        server = nil
        try nodes.reportError("\(reason)")
        try setState(.closing)
    }

    private mutating func setState(_ new: XenbusState) throws(Failure) {
        try nodes.setState(new)
        state = new
    }

    /// Answers what is left on the ring of a front end that we have asked to close. Linux says Closed at once, with
    /// requests under way; it then waits for their answers with its xenbus thread, for ever, and hangs (drivers/block/
    /// xen-blkfront.c, `blkfront_closing`; `del_gendisk`). Each answer may bring one more that waited for room.
    private mutating func settle() throws(Failure) {
        for _ in 0..<settleRounds {
            if try serve() { continue }
            guard server != nil else { return }
            var request = pollfd(fd: host.eventDescriptor, events: Int16(POLLIN), revents: 0)
            if unsafe poll(&request, 1, settleMilliseconds) == 0 { return }
            if let port = try host.pendingEvent() { try server?.accept(port) }
        }
    }

    /// Lets go of the ring, then of the nodes.
    private mutating func leave(_ outcome: BackendOutcome) throws(Failure) -> BackendOutcome {
        server = nil
        try host.transaction("remove \(device)") { transaction throws(Failure) in
            try nodes.remove(in: transaction)
        }
        return outcome
    }

    // MARK: Events

    /// Whether anything in the xenstore changed.
    private mutating func drainWatchEvents() throws(Failure) -> Bool {
        hasWatchEvents = false
        for count in 0..<watchEventsPerWake {
            if try host.nextWatchEvent() == nil { return count > 0 }
        }
        hasWatchEvents = true
        return true
    }

    private mutating func serve() throws(Failure) -> Bool {
        do {
            return try server?.serve(log) ?? false
        } catch {
            try refuse(error)
            return false
        }
    }
}

/// Most watch events that are taken before their cause is looked at.
private let watchEventsPerWake = 256

extension pollfd {
    fileprivate var isReadable: Bool { revents & Int16(POLLIN) != 0 }
}

/// A closing ring with nothing on it for this long has settled.
private let settleMilliseconds: Int32 = 200
/// Bounds what a front end that never ends can make of it.
private let settleRounds = 4096
