public import BlockModel
import Glibc
public import System
public import XenBus

/// How the serving of a disk ended. None of these is an error.
public enum BackendOutcome: Sendable {
    /// On request, or as somebody else unplugged the device: the guest has let go of it.
    case unplugged
    /// On a second request, without the guest's consent.
    case forced
    /// The guest was shut down or destroyed.
    case guestGone
    /// On request: the device stays connected, and its guest waits for a successor to continue it.
    case handedOver
}

/// A disk of a VM: from hot-plug to unplug. The calling thread looks after the states; each ring has a thread of its own.
///
///     ours                  the frontend's
///     2 InitWait            1 Initialising
///                           3 Initialised     it says where its rings are; we map them and say what the disk is
///     4 Connected           4 Connected       requests
///     5 Closing             5 Closing         either may begin
///     6 Closed              6 Closed          we unmap the rings; back to 2 when the frontend goes back to 1,
///                                             unless the device was unplugged: then its nodes are removed
///
/// States and rings of the guest are looked at, never believed: events say only that there may be something to see.
public struct Backend<Host: XenHost, Device: BlockDevice>: ~Copyable {
    private let host: Host
    private let disk: FailStop<Device>
    private let configuration: BackendConfiguration
    private let stop: StopRequest
    private let nodes: BackendNodes<Host>
    private var queues: Queues<Host, FailStop<Device>>?
    /// Rings when a ring broke.
    private let trouble: Doorbell
    /// Our own state, as we last wrote it.
    private var state = XenbusState.initWait
    private var isUnplugging = false
    /// There are more watch events, for which the descriptor need not be readable.
    private var hasWatchEvents = false
    /// When to say that the guest takes long to let go; nil: not now.
    private var unplugDeadline: ContinuousClock.Instant?
    /// When to ask the disk for its size.
    private var nextRefresh: ContinuousClock.Instant
    private let log: LogLimiter
    private let counts: RequestCounts

    /// Which device the VM sees.
    public var device: VirtualDevice { nodes.device }

    /// Plugs the disk into the VM. A device that a killed process left connected to the same disk is gone on with, where the configuration allows that.
    /// - Parameter stop: ends `run`.
    /// - Throws: `.busy` when the device is in use; `.noSpace` when the VM has all that there are; what the xenstore refuses.
    public static func attach(
        _ host: Host, _ disk: Device, _ configuration: BackendConfiguration, stop: StopRequest
    ) throws(Failure) -> Backend {
        let attachment = try Attachment(host, configuration, readOnly: disk.isReadOnly)
        var backend = try Backend(host, disk, configuration, stop, attachment.nodes)
        if attachment.takesOver { try backend.takeOver() }
        try backend.watch()
        return backend
    }

    /// Serves a device, of the configuration's class, that the toolstack has made, or that was served by a process that is gone.
    static func adopt(
        _ host: Host, _ disk: Device, _ configuration: BackendConfiguration, _ device: VirtualDevice, stop: StopRequest
    ) throws(Failure) -> Backend {
        let nodes = BackendNodes(
            host, className: configuration.className, domain: configuration.domain.id, ownDomain: try host.ownDomain(),
            device: device, isToolstacks: true)
        var backend = try Backend(host, disk, configuration, stop, nodes)
        if try nodes.backendState() == .initialising {
            try nodes.adopt(configuration.limits)
        } else {
            try backend.takeOver()
        }
        try backend.watch()
        return backend
    }

    private init(
        _ host: Host, _ disk: Device, _ configuration: BackendConfiguration, _ stop: StopRequest, _ nodes: BackendNodes<Host>
    ) throws(Failure) {
        trouble = try Doorbell()
        self.host = host
        self.disk = FailStop(disk)
        self.configuration = configuration
        counts = RequestCounts(configuration.activity)
        self.stop = stop
        self.nodes = nodes
        log = LogLimiter(configuration.log)
        nextRefresh = .now + configuration.refreshInterval
    }

    private func watch() throws(Failure) {
        try host.watch(nodes.frontend + "/state", token: "frontend")
        try host.watch(nodes.backend + "/state", token: "backend")
        try host.watch("@releaseDomain", token: "domain")
        configuration.log("\(device) of VM \(configuration.domain.name) is disk \(configuration.disk)")
    }

    /// Serves the disk until it is unplugged, handed over, or the guest is gone.
    /// - Throws: when the xenstore can't be used any more. The nodes stay as they are, so that a later process can go on with the device.
    public mutating func run() throws(Failure) -> BackendOutcome {
        defer {
            log.tellMissed(atEnd: true)
            // Past the limiter, which a guest may have filled with messages of its requests.
            if let summary = counts.summary { configuration.log("\(device) of VM \(configuration.domain.name): \(summary)") }
        }
        do {
            return try follow()
        } catch {
            // The caller closes the disk next: no thread may use it then.
            queues = nil
            throw error
        }
    }

    private mutating func follow() throws(Failure) -> BackendOutcome {
        var requests = [host.storeDescriptor, stop.descriptor, trouble.descriptor].map {
            pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
        }
        while true {
            try wait(&requests)
            let stops = requests[1].isReadable ? stop.take() : 0
            if stop.isHandOver { return handOver() }
            if stops > 0 {
                if isUnplugging || stops > 1 { return try leave(.forced) }
                log("unplugging \(device)")
                try nodes.announceUnplug()
                state = .closing
                beginUnplug()
            }
            if requests[2].isReadable { try closeIfBroken() }
            if stops > 0 || requests[0].isReadable || hasWatchEvents {
                let isChanged = try drainWatchEvents()
                if isChanged || stops > 0, let outcome = try followStates() { return outcome }
            }
            if nextRefresh <= .now { try refresh() }
        }
    }

    /// Waits until there is something to look at.
    private mutating func wait(_ requests: inout [pollfd]) throws(Failure) {
        if let deadline = unplugDeadline, deadline <= .now {
            log("VM \(configuration.domain.name) has not let go of \(device) yet; another signal ends without waiting for it")
            unplugDeadline = nil
        }
        let deadline = unplugDeadline.map { min($0, nextRefresh) } ?? nextRefresh
        let left = max(.zero, ContinuousClock.now.duration(to: deadline)) / .milliseconds(1)
        guard unsafe poll(&requests, nfds_t(requests.count), hasWatchEvents ? 0 : Int32(clamping: Int(left) + 1)) > 0 else {
            // What an earlier call has set would be taken for new.
            for index in requests.indices { requests[index].revents = 0 }
            return
        }
        // As when xenstored ends: no event would ever come, and each `poll` would return at once.
        if requests.contains(where: \.isBroken) {
            throw Failure(
                .system, "serve", .device("\(device)", of: configuration.domain.name), "the connection to the xenstore broke",
                remedy: "see that xenstored runs, then connect the disk again")
        }
    }

    /// Tells the guest when the disk's size was changed, and people what the log left out.
    private mutating func refresh() throws(Failure) {
        nextRefresh = .now + configuration.refreshInterval
        log.tellMissed()
        let isResized: Bool
        do {
            isResized = try disk.refresh()
        } catch {
            return log("the size of disk \(configuration.disk): \(error)")
        }
        guard isResized else { return }
        log("disk \(configuration.disk) has \(disk.byteCount) bytes now")
        if state == .connected { try nodes.publish(sectorCount: disk.sectorCount) }
    }

    // MARK: States

    /// Takes the next step of the connection, if the frontend's state asks for one.
    private mutating func followStates() throws(Failure) -> BackendOutcome? {
        guard host.isIntroduced(nodes.domain), let frontend = try nodes.frontendState() else { return try leave(.guestGone) }
        guard let published = try nodes.backendState() else { return try leave(.unplugged) }
        if published == .closing, state != .closed, !isUnplugging, try nodes.isAskedToClose(state) {
            log("\(device) is being unplugged")
            state = .closing
            beginUnplug()
        }
        try step(frontend)
        if state == .closed, try !nodes.isOnline() { isUnplugging = true }
        // A frontend with no ring has nothing to let go of, and some never answer.
        let hasLetGo = frontend != .initialised && frontend != .connected && frontend != .closing
        return isUnplugging && queues == nil && hasLetGo ? try leave(.unplugged) : nil
    }

    private mutating func step(_ frontend: XenbusState) throws(Failure) {
        switch (frontend, state) {
        case (.initialised, .initWait), (.connected, .initWait):
            try connect()
        case (.initialised, .closed) where !isUnplugging:
            // It came back without waiting for us.
            try setState(.initWait)
            try connect()
        case (.initialised, .connected):
            try reconnectIfMoved()
        case (.closing, .initWait), (.closing, .connected):
            try setState(.closing)
        case (.closed, .initWait), (.closed, .connected), (.closed, .closing):
            if isUnplugging { queues?.finish() }
            queues = nil
            try setState(.closed)
        case (.initialising, .connected), (.initialising, .closing), (.initialising, .closed):
            // A frontend that starts anew has forgotten its rings.
            queues = nil
            if !isUnplugging { try setState(.initWait) }
        default:
            break
        }
    }

    private mutating func beginUnplug() {
        isUnplugging = true
        unplugDeadline = .now + configuration.patience
    }

    private mutating func connect() throws(Failure) {
        do {
            try connectQueues(to: try FrontendOffer(nodes, configuration.limits), resuming: false)
        } catch {
            return try refuse(error)
        }
        try nodes.publish(sectorCount: disk.sectorCount, readOnly: disk.isReadOnly, from: state)
        state = .connected
        log("VM \(configuration.domain.name) has connected \(device)")
    }

    private mutating func connectQueues(to offer: FrontendOffer, resuming: Bool) throws(Failure) {
        queues = try Queues(host, disk, domain: nodes.domain, offer, resuming: resuming, trouble: trouble, log, counts)
    }

    /// A guest that was suspended and resumed where it was may offer other rings without closing the old ones. A frontend that
    /// has not seen yet that we are connected is in the same state, and offers the rings that we have.
    private mutating func reconnectIfMoved() throws(Failure) {
        let offer: FrontendOffer
        do {
            offer = try FrontendOffer(nodes, configuration.limits)
        } catch {
            return try refuse(error)
        }
        guard offer != queues?.offer else { return }
        queues = nil
        try setState(.initWait)
        try connect()
    }

    /// Goes on where another process stopped, or was killed.
    private mutating func takeOver() throws(Failure) {
        state = try nodes.backendState() ?? .unknown
        if state.rawValue < XenbusState.initWait.rawValue || state == .initialised { try setState(.initWait) }
        let frontend = try nodes.frontendState()
        guard state == .connected, frontend == .initialised || frontend == .connected else { return }
        // This fails when that process lives after all: an event channel has one owner.
        try connectQueues(to: try FrontendOffer(nodes, configuration.limits), resuming: true)
        // The disk may have been resized meanwhile.
        try nodes.publish(sectorCount: disk.sectorCount, readOnly: disk.isReadOnly, from: state)
        log("continuing \(device) of VM \(configuration.domain.name) where another process stopped")
    }

    private mutating func closeIfBroken() throws(Failure) {
        trouble.take()
        if let failure = queues?.failure { try refuse(failure) }
    }

    /// Closes the connection because of what the frontend did.
    private mutating func refuse(_ reason: Failure) throws(Failure) {
        log("closing \(device) of VM \(configuration.domain.name): \(reason)")
        queues = nil
        try nodes.reportError("\(reason)")
        try setState(.closing)
    }

    private mutating func setState(_ new: XenbusState) throws(Failure) {
        // A wish for the end that comes first stays, and is found with its event.
        try nodes.setState(new, from: state)
        state = new
    }

    /// Lets go of the rings, then of the nodes.
    private mutating func leave(_ outcome: BackendOutcome) throws(Failure) -> BackendOutcome {
        queues = nil
        try nodes.end()
        return outcome
    }

    /// Lets go of the rings, each with its requests answered or untouched, and of nothing else.
    private mutating func handOver() -> BackendOutcome {
        queues = nil
        return .handedOver
    }

    // MARK: Events

    /// Takes what watch events there are, up to a bound. True: there was one, so that anything may have changed.
    private mutating func drainWatchEvents() throws(Failure) -> Bool {
        hasWatchEvents = false
        for count in 0..<watchEventsPerWake {
            if try host.nextWatchEvent() == nil { return count > 0 }
        }
        hasWatchEvents = true
        return true
    }
}

/// Most watch events that are taken before their cause is looked at.
private let watchEventsPerWake = 256
