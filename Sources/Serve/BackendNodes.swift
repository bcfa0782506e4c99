import BlockModel
import System
import XenBus

/// The nodes of one device in the xenstore, the backend's and the frontend's. What the frontend's nodes hold is
/// any bytes: the guest writes them.
///
///     /local/domain/OWN/backend/CLASS/DOMAIN/NUMBER    ours; the guest reads it
///     /local/domain/DOMAIN/device/vbd/NUMBER           the guest's
///
/// Either we make and remove them, or the toolstack does both.
struct BackendNodes<Store: Xenstore> {
    let store: Store
    let domain: DomainID
    let ownDomain: DomainID
    let device: VirtualDevice
    let backend: String
    let frontend: String
    /// The directory of all the guest's devices of our class.
    private let backendParent: String
    /// The toolstack makes and removes them.
    let isToolstacks: Bool

    init(
        _ store: Store, className: String, domain: DomainID, ownDomain: DomainID, device: VirtualDevice, isToolstacks: Bool = false
    ) {
        self.store = store
        self.domain = domain
        self.ownDomain = ownDomain
        self.device = device
        self.isToolstacks = isToolstacks
        backendParent = "/local/domain/\(ownDomain)/backend/\(className)/\(domain)"
        backend = "\(backendParent)/\(device.number)"
        frontend = Self.frontendDirectory(domain) + "/\(device.number)"
    }

    static func frontendDirectory(_ domain: DomainID) -> String { "/local/domain/\(domain)/device/vbd" }

    /// Makes the nodes. Others see them all at once, and never in state 1, which makes the kernel's own backend and
    /// QEMU take a device for theirs.
    func create(disk: String, readOnly: Bool, _ limits: RingLimits, in transaction: XenstoreTransaction) throws(Failure) {
        // What is made below a directory inherits its permissions, so these are set first.
        try store.makeDirectory(backend, in: transaction)
        try store.setPermissions(backend, owner: ownDomain, readers: [domain], in: transaction)
        try store.makeDirectory(frontend, in: transaction)
        try store.setPermissions(frontend, owner: domain, readers: [ownDomain], in: transaction)
        try write(
            backend,
            [
                ("frontend", frontend), ("frontend-id", "\(domain)"), ("online", "1"),
                ("removable", "0"), ("bootable", "0"), ("dev", "\(device)"), ("device-type", "disk"),
                ("mode", mode(readOnly: readOnly)), ("params", disk),
            ] + offer(limits) + [("state", text(.initWait))], in: transaction)
        try write(
            frontend,
            [
                ("backend", backend), ("backend-id", "\(ownDomain)"), ("virtual-device", "\(device.number)"),
                ("device-type", "disk"), ("state", text(.initialising)),
            ], in: transaction)
    }

    /// Takes the toolstack's nodes for our own. It waits for this, or for an error (`reportError`).
    func adopt(_ limits: RingLimits) throws(Failure) {
        try store.transaction("adopt \(device)") { transaction throws(Failure) in
            try remove(["hotplug-error", "error"], in: transaction)
            try write(backend, offer(limits) + [("hotplug-status", "connected"), ("state", text(.initWait))], in: transaction)
        }
    }

    /// What a frontend reads before it says where its rings are.
    private func offer(_ limits: RingLimits) -> [(String, String)] {
        [
            ("max-ring-page-order", "\(limits.ringOrder)"), ("max-ring-pages", "\(1 << limits.ringOrder)"),
            ("multi-queue-max-queues", "\(limits.queues)"),
        ]
    }

    /// Says what the disk is, and that it is connected: a frontend that sees the state sees all the rest.
    /// - Parameter own: our state so far: see `isAskedToClose`.
    func publish(sectorCount: UInt64, readOnly: Bool, from own: XenbusState) throws(Failure) {
        var properties = [
            // Always in units of 512 bytes, whatever sector-size says (xen/io/blkif.h).
            ("sectors", "\(sectorCount)"), ("sector-size", "\(sectorSize)"), ("physical-sector-size", "\(blockSize)"),
            ("info", "\(readOnly ? vdiskReadOnly : 0)"),
            ("feature-flush-cache", "1"), ("feature-barrier", "1"),
            ("feature-max-indirect-segments", "\(maximumIndirectSegments)"),
        ]
        // The toolstack may want no discards.
        if !readOnly, try store.number(backend + "/discard-enable") != 0 {
            properties += [
                ("feature-discard", "1"), ("discard-granularity", "\(blockSize)"), ("discard-alignment", "0"), ("discard-secure", "0"),
            ]
        }
        properties.append(("state", text(.connected)))
        try store.transaction("connect \(device)") { transaction throws(Failure) in
            guard try exists(in: transaction), try !isAskedToClose(own, in: transaction) else { return }
            try remove(["error"], in: transaction)
            try write(backend, properties, in: transaction)
        }
    }

    /// Tells a connected frontend of another size: it looks when it is told once more that we are connected.
    func publish(sectorCount: UInt64) throws(Failure) {
        try store.transaction("resize \(device)") { transaction throws(Failure) in
            guard try exists(in: transaction), try !isAskedToClose(.connected, in: transaction) else { return }
            try write(backend, [("sectors", "\(sectorCount)"), ("state", text(.connected))], in: transaction)
        }
    }

    /// Sets our state; nodes that somebody has removed are not made again.
    /// - Parameter own: our state so far.
    func setState(_ state: XenbusState, from own: XenbusState) throws(Failure) {
        try store.transaction("set the state of \(device)") { transaction throws(Failure) in
            guard try exists(in: transaction) else { return }
            if state != .closing, state != .closed, try isAskedToClose(own, in: transaction) { return }
            try write(backend, [("state", text(state))], in: transaction)
        }
    }

    /// Whether somebody else asks for the device's end, which is said once: no state that is further from it may be written over that.
    /// - Parameter own: our state, as we know it. Where that is Closing, too, as the guest closes the device, `online` tells.
    func isAskedToClose(_ own: XenbusState, in transaction: XenstoreTransaction = .none) throws(Failure) -> Bool {
        guard try state(backend, in: transaction) == .closing else { return false }
        if own != .closing, own != .closed { return true }
        return try store.number(backend + "/online", in: transaction) != 1
    }

    /// Tells the frontend that the device goes for good.
    func announceUnplug() throws(Failure) {
        try store.transaction("unplug \(device)") { transaction throws(Failure) in
            guard try exists(in: transaction) else { return }
            try write(backend, [("online", "0"), ("state", text(.closing))], in: transaction)
        }
    }

    /// Leaves a reason where people look for one, and, when it is in the way of a device that the toolstack waits for,
    /// where the toolstack does.
    func reportError(_ text: String, isPlugging: Bool = false) throws(Failure) {
        let text = PathText.shown(text)
        try store.transaction("report an error of \(device)") { transaction throws(Failure) in
            guard try exists(in: transaction) else { return }
            try write(backend, [("error", text)], in: transaction)
            if isPlugging { try write(backend, [("hotplug-error", text), ("hotplug-status", "error")], in: transaction) }
        }
    }

    /// The frontend's state; nil when it is gone.
    func frontendState() throws(Failure) -> XenbusState? { try state(frontend) }
    /// Our own state as the store has it; nil when somebody removed it.
    func backendState() throws(Failure) -> XenbusState? { try state(backend) }
    /// Whether the device stays when the frontend closes it.
    func isOnline() throws(Failure) -> Bool { try store.number(backend + "/online") == 1 }

    /// Ends the device: removes the nodes of both ends, so that the guest sees it go. Those that the toolstack made it
    /// removes itself, once our state is Closed.
    func end() throws(Failure) {
        guard !isToolstacks else { return try endToolstacks() }
        try store.transaction("remove \(device)") { transaction throws(Failure) in try remove(in: transaction) }
    }

    /// Says Closed, if that was not said yet. Once it was, the toolstack may have made the next device in the same place,
    /// which is none of this one's.
    private func endToolstacks() throws(Failure) {
        try store.transaction("set the state of \(device)") { transaction throws(Failure) in
            let number = try store.number(backend + "/state", in: transaction)
            guard let state = number.flatMap({ XenbusState(rawValue: $0) }), state != .closed, state != .initialising else { return }
            try write(backend, [("state", text(.closed))], in: transaction)
        }
    }

    /// Removes both ends, and with the guest's last device the directory of its devices, as libxl does: else each guest would leave one behind.
    func remove(in transaction: XenstoreTransaction) throws(Failure) {
        try store.remove(frontend, in: transaction)
        try store.remove(backend, in: transaction)
        if try store.list(backendParent, in: transaction)?.isEmpty == true { try store.remove(backendParent, in: transaction) }
    }

    func mode(readOnly: Bool) -> String { readOnly ? "r" : "w" }

    private func exists(in transaction: XenstoreTransaction) throws(Failure) -> Bool {
        try store.read(backend + "/state", in: transaction) != nil
    }

    private func state(_ directory: String, in transaction: XenstoreTransaction = .none) throws(Failure) -> XenbusState? {
        guard try store.read(directory + "/state", in: transaction) != nil else { return nil }
        return try store.number(directory + "/state", in: transaction).flatMap { XenbusState(rawValue: $0) } ?? .unknown
    }

    private func write(_ directory: String, _ values: [(String, String)], in transaction: XenstoreTransaction) throws(Failure) {
        for (key, value) in values { try store.write("\(directory)/\(key)", value, in: transaction) }
    }

    private func remove(_ keys: [String], in transaction: XenstoreTransaction) throws(Failure) {
        for key in keys { try store.remove("\(backend)/\(key)", in: transaction) }
    }

    private func text(_ state: XenbusState) -> String { "\(state.rawValue)" }
}

/// VDISK_READONLY (xen/io/blkif.h).
private let vdiskReadOnly = 4
