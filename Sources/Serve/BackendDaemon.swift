public import BlockModel
import Glibc
import Synchronization
public import System
public import XenBus

/// Serves the devices that the toolstack makes, each with a thread and connections to Xen of its own, until it is asked to
/// hand over: guests keep their disks and wait for the next daemon, which goes on where this one stopped.
public final class BackendDaemon<Host: XenHost, Device: BlockDevice & SendableMetatype>: Sendable {
    /// How devices are served, and what is done around that.
    public struct Configuration: Sendable {
        /// Rings that a guest may use at the same time, each with a thread.
        public var maximumQueues = BackendConfiguration.defaultQueues
        /// How long a disk that is in use is waited for: by another process, or by the device that a guest had before it restarted.
        public var patience = Duration.seconds(20)
        /// How long to wait before a device that could not be served, and that a guest may be using, is tried again: at first, and at most. Each pause is
        /// twice the one before.
        public var firstPause = Duration.seconds(1), longestPause = Duration.seconds(60)
        /// Takes a line for people.
        public var log: @Sendable (String) -> Void
        /// A failure in words for people.
        public var describe: @Sendable (Failure) -> String = { "\($0)" }
        /// Called with a device's disk, which is closed, when the device is gone for good.
        public var forget: @Sendable (ToolstackDisk) -> Void = { _ in }
        /// Called once, before any device is served, with all that there are (`ToolstackDisk.device`).
        public var begin: @Sendable (_ devices: Set<String>) throws(Failure) -> Void = { _ in }
        /// Why a class of devices can't be served here; nil when it can.
        public var obstacle: @Sendable (_ className: String) -> String? = { _ in nil }

        public init(log: @escaping @Sendable (String) -> Void) { self.log = log }
    }

    private let configuration: Configuration
    private let makeHost: @Sendable () throws(Failure) -> Host
    private let open: @Sendable (ToolstackDisk) throws(Failure) -> Device
    private let stop: StopRequest
    private let devices = Mutex<[ToolstackDevice: Entry]>([:])
    /// Rings when a device's thread ends.
    private let ended: Doorbell

    private enum Entry {
        /// Its thread, what ends it, and what becomes of it when it fails.
        case served(Thread, StopRequest, Retry)
        /// Its thread is at its end, with or without a failure.
        case ending(Thread, Failure?, Retry)
        /// Nobody serves it at the moment, and a guest may be using it, or the toolstack waits for it.
        case failed(Retry, wasNew: Bool)
        /// Nobody serves it, and its nodes are still there.
        case over
    }

    /// - Parameters:
    ///   - stop: a request of either kind ends `run`, and hands over.
    ///   - makeHost: connects to Xen: once for the daemon, and once for each device.
    ///   - open: opens the disk that a device asks for, on the device's thread, which closes it.
    public init(
        _ configuration: Configuration, stop: StopRequest, makeHost: @escaping @Sendable () throws(Failure) -> Host,
        open: @escaping @Sendable (ToolstackDisk) throws(Failure) -> Device
    ) throws(Failure) {
        self.configuration = configuration
        self.stop = stop
        self.makeHost = makeHost
        self.open = open
        ended = try Doorbell()
    }

    /// Serves until `stop` asks to end, in whichever way; then all devices are handed over.
    /// - Throws: when the connection to the xenstore breaks. What is wrong with one device is logged.
    public func run() throws(Failure) {
        let host = try makeHost()
        let ownDomain = try host.ownDomain()
        for className in ToolstackDevice.classes {
            try host.watch("/local/domain/\(ownDomain)/backend/\(className)", token: "devices")
        }
        defer { handOverAll() }
        let present = try ToolstackDevice.all(host, ownDomain: ownDomain)
        try configuration.begin(Set(present.map(\.key)))
        var requests = [host.storeDescriptor, stop.descriptor, ended.descriptor].map {
            pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
        }
        while true {
            if unsafe poll(&requests, nfds_t(requests.count), millisecondsToRetry()) > 0, requests.contains(where: \.isBroken) {
                throw Failure(
                    .system, "serve", "the toolstack's devices", "the connection to the xenstore broke",
                    remedy: "see that xenstored runs, then start the daemon again")
            }
            if requests[1].isReadable, stop.take() > 0 || stop.isHandOver { return }
            ended.take()
            // However many events there are, one look at all devices is enough.
            while try host.nextWatchEvent() != nil {}
            joinEnded(host, ownDomain)
            try look(host, ownDomain)
        }
    }

    /// Looks at all devices, takes those that are new, and forgets those that are gone.
    private func look(_ host: Host, _ ownDomain: DomainID) throws(Failure) {
        let all = try ToolstackDevice.all(host, ownDomain: ownDomain)
        let present = Set(all)
        devices.withLock { devices in
            devices = devices.filter {
                switch $0.value {
                case .served, .ending: true
                case .failed, .over: present.contains($0.key)
                }
            }
        }
        for device in all {
            let nodes = device.nodes(host, ownDomain: ownDomain)
            let entry = devices.withLock { $0[device] }
            guard let state = try nodes.backendState(), let disk = try device.disk(nodes) else {
                // Its nodes are being removed, or are another's now.
                if case .failed = entry { enter(.over, for: device) }
                continue
            }
            switch entry {
            case .served, .ending:
                continue
            case .over where state != .initialising:
                try letGo(nodes, state)
            case .failed(_, wasNew: false) where state == .initialising:
                // Another one, in the same place.
                serve(device, disk, nil, host, ownDomain)
            case .over, .failed, nil:
                // One that is closed is served, too, if the guest may still come back.
                guard state == .closing || state == .closed, try !nodes.isOnline() else {
                    serve(device, disk, entry, host, ownDomain)
                    continue
                }
                // The toolstack first: to forget it may have to wait for others.
                enter(.over, for: device)
                try letGo(nodes, state)
                configuration.forget(disk)
            }
        }
    }

    private func enter(_ entry: Entry, for device: ToolstackDevice) { devices.withLock { $0[device] = entry } }

    /// The toolstack waits for this before it removes a device.
    private func letGo(_ nodes: BackendNodes<Host>, _ state: XenbusState) throws(Failure) {
        if state == .closing, try !nodes.isOnline() { try nodes.setState(.closed, from: state) }
    }

    /// Begins to serve a device, unless it is to be tried again later.
    private func serve(_ device: ToolstackDevice, _ disk: ToolstackDisk, _ entry: Entry?, _ host: Host, _ ownDomain: DomainID) {
        var retry = Retry(first: configuration.firstPause, longest: configuration.longestPause)
        if case .failed(let earlier, wasNew: _) = entry {
            guard earlier.due <= .now else { return }
            retry = earlier
            retry.begin()
        }
        do throws(Failure) {
            try start(device, disk, retry)
        } catch {
            // Others are served all the same.
            enter(settle(device, error, retry, host, ownDomain), for: device)
        }
    }

    private func start(_ device: ToolstackDevice, _ disk: ToolstackDisk, _ retry: Retry) throws(Failure) {
        let stop = try StopRequest()
        // The thread may be at its end before this has entered it: both take the lock, so that this comes first.
        try devices.withLock { devices throws(Failure) in
            let thread = try Thread("device") { [self] in
                StopRequest.leaveSignalsToOthers()
                let failure = serve(device, disk, stop)
                self.devices.withLock { devices in
                    if case .served(let thread, _, let retry) = devices[device] { devices[device] = .ending(thread, failure, retry) }
                }
                ended.ring()
            }
            devices[device] = .served(thread, stop, retry)
        }
    }

    private func joinEnded(_ host: Host, _ ownDomain: DomainID) {
        let entries = devices.withLock { $0 }
        for case (let device, .ending(let thread, let failure, let retry)) in entries {
            thread.join()
            enter(failure.map { settle(device, $0, retry, host, ownDomain) } ?? .over, for: device)
        }
    }

    // MARK: Devices that can't be served

    /// Sees to a device that could not be served, or can't be any more: by the daemon's own connection, as the device's may be what is wrong. Who waits for
    /// a new one is told. Any other is left as it is, as a guest may be using it, and is tried again; that is said once.
    private func settle(_ device: ToolstackDevice, _ failure: Failure, _ retry: Retry, _ host: Host, _ ownDomain: DomainID) -> Entry {
        var retry = retry
        let isFirst = retry.fail()
        var isNew = false
        do throws(Failure) {
            let nodes = device.nodes(host, ownDomain: ownDomain)
            let state = try nodes.backendState()
            if state == .initialising {
                isNew = true
                say(failure, of: device)
                try refuse(nodes, device, failure)
                return .over
            }
            // What is wrong with the command stays wrong.
            if state == nil || failure.kind == .usage {
                say(failure, of: device)
                return .over
            }
            if state == .closing || state == .closed, try !nodes.isOnline() {
                say(failure, of: device)
                // It is let go of at the next look.
                return .failed(retry, wasNew: false)
            }
        } catch {
            if isFirst { say(error, of: device) }
        }
        if isFirst, !isNew { say(failure, of: device, "; its guest waits, and it is tried again") }
        return .failed(retry, wasNew: isNew)
    }

    private func say(_ failure: Failure, of device: ToolstackDevice, _ what: String = "") {
        configuration.log("\(device.device) of domain \(device.domain): \(configuration.describe(failure))\(what)")
    }

    /// Says why a device is not served, where the toolstack looks: after state 2 it runs the script, which reads it. A device that nothing waits for is
    /// closed.
    private func refuse(_ nodes: BackendNodes<Host>, _ device: ToolstackDevice, _ reason: Failure) throws(Failure) {
        try nodes.reportError(configuration.describe(reason), isPlugging: true)
        try nodes.setState(device.hasScript ? .initWait : .closed, from: .initialising)
    }

    /// Until the next device is to be tried again; -1: none is.
    private func millisecondsToRetry() -> Int32 {
        let entries = devices.withLock { Array($0.values) }
        var due: ContinuousClock.Instant?
        for case .failed(let retry, wasNew: _) in entries { due = min(due ?? retry.due, retry.due) }
        guard let due else { return -1 }
        let left = max(.zero, ContinuousClock.now.duration(to: due)) / .milliseconds(1)
        return Int32(clamping: Int(left) + 1)
    }

    private func handOverAll() {
        let entries = devices.withLock { Array($0.values) }
        for case .served(_, let stop, _) in entries { stop.sendHandOver() }
        for entry in entries {
            switch entry {
            case .served(let thread, _, _), .ending(let thread, _, _): thread.join()
            case .failed, .over: break
            }
        }
        let left = devices.withLock { $0 }
        devices.withLock { $0 = [:] }
        // The next daemon sees to these.
        for case (let device, .ending(_, let failure?, _)) in left { say(failure, of: device) }
    }

    // MARK: On a device's thread

    /// - Returns: why it is not served, or no longer.
    private func serve(_ device: ToolstackDevice, _ disk: ToolstackDisk, _ stop: StopRequest) -> Failure? {
        do throws(Failure) {
            try serve(device, disk, stop, try makeHost(), LogLimiter(configuration.log))
            return nil
        } catch {
            return error
        }
    }

    private func serve(
        _ device: ToolstackDevice, _ disk: ToolstackDisk, _ stop: StopRequest, _ host: Host, _ log: LogLimiter
    ) throws(Failure) {
        if let obstacle = configuration.obstacle(device.className) {
            throw Failure(.usage, "serve", "class \(device.className)", obstacle)
        }
        guard let opened = try openWaiting(disk, stop) else { return }
        let outcome: BackendOutcome
        do throws(Failure) {
            let name = try host.text("/local/domain/\(device.domain)/name") ?? "domain \(device.domain)"
            var configuration = BackendConfiguration(
                domain: Domain(id: device.domain, name: name), disk: disk.name, isResumable: true, log: self.configuration.log)
            configuration.className = device.className
            configuration.activity = disk.activity
            configuration.maximumQueues = self.configuration.maximumQueues
            var backend = try Backend.adopt(host, opened, configuration, device.device, stop: stop)
            outcome = try backend.run()
        } catch {
            // The first failure is thrown; that the disk can't be closed either is logged.
            do throws(Failure) { try opened.close() } catch { log(self.configuration.describe(error)) }
            throw error
        }
        try opened.close()
        if outcome != .handedOver { configuration.forget(disk) }
        switch outcome {
        case .unplugged, .forced: log("\(device.device) of domain \(device.domain) was unplugged; disk \(disk.name) is closed")
        case .guestGone: log("domain \(device.domain) is gone; disk \(disk.name) is closed")
        case .handedOver: log("\(device.device) of domain \(device.domain) waits for another daemon")
        }
    }

    /// Opens a disk. One that is in use is waited for: a guest that restarts has a new device before the old one has let
    /// go. Nil when the daemon ends.
    private func openWaiting(_ disk: ToolstackDisk, _ stop: StopRequest) throws(Failure) -> Device? {
        let deadline = ContinuousClock.now + configuration.patience
        while true {
            do throws(Failure) {
                return try open(disk)
            } catch {
                guard error.kind == .busy, ContinuousClock.now < deadline else { throw error }
            }
            var request = pollfd(fd: stop.descriptor, events: Int16(POLLIN), revents: 0)
            if unsafe poll(&request, 1, 50) > 0 { return nil }
        }
    }
}
