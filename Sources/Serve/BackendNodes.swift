import BlockModel
import XenBus

/// The nodes of one device in the xenstore, the back end's and the front end's. What the front end's nodes hold is
/// any bytes: the guest writes them.
///
///     /local/domain/OWN/backend/CLASS/DOMAIN/NUMBER    ours; the guest reads it
///     /local/domain/DOMAIN/device/vbd/NUMBER           the guest's
struct BackendNodes<Store: Xenstore> {
    let store: Store
    let domain: DomainID
    let ownDomain: DomainID
    let device: VirtualDevice
    let backend: String
    let frontend: String

    init(_ store: Store, className: String, domain: DomainID, ownDomain: DomainID, device: VirtualDevice) {
        self.store = store
        self.domain = domain
        self.ownDomain = ownDomain
        self.device = device
        backend = "/local/domain/\(ownDomain)/backend/\(className)/\(domain)/\(device.number)"
        frontend = Self.frontendDirectory(domain) + "/\(device.number)"
    }

    static func frontendDirectory(_ domain: DomainID) -> String { "/local/domain/\(domain)/device/vbd" }

    /// Makes the nodes. Others see them all at once, and never in state 1, which makes the kernel's own back end and
    /// QEMU take a device for theirs.
    func create(disk: String, readOnly: Bool, maximumRingOrder: Int, in transaction: XenstoreTransaction) throws(Failure) {
        // What is made below inherits a directory's permissions, so these come first.
        try store.makeDirectory(backend, in: transaction)
        try store.setPermissions(backend, owner: ownDomain, readers: [domain], in: transaction)
        try store.makeDirectory(frontend, in: transaction)
        try store.setPermissions(frontend, owner: domain, readers: [ownDomain], in: transaction)
        try write(backend, [
            ("frontend", frontend), ("frontend-id", "\(domain)"), ("online", "1"),
            ("removable", "0"), ("bootable", "0"), ("dev", "\(device)"), ("device-type", "disk"),
            ("mode", mode(readOnly: readOnly)), ("params", disk),
            ("max-ring-page-order", "\(maximumRingOrder)"), ("multi-queue-max-queues", "1"),
            ("state", text(.initWait)),
        ], in: transaction)
        try write(frontend, [
            ("backend", backend), ("backend-id", "\(ownDomain)"), ("virtual-device", "\(device.number)"),
            ("device-type", "disk"), ("state", text(.initialising)),
        ], in: transaction)
    }

    /// Says what the disk is, and that it is connected: a front end that sees the state sees all the rest.
    func publish(sectorCount: UInt64, readOnly: Bool) throws(Failure) {
        var properties = [
            // Always in units of 512 bytes, whatever sector-size says (xen/io/blkif.h).
            ("sectors", "\(sectorCount)"), ("sector-size", "\(sectorSize)"), ("physical-sector-size", "\(blockSize)"),
            ("info", "\(readOnly ? vdiskReadOnly : 0)"),
            ("feature-flush-cache", "1"), ("feature-barrier", "1"),
            ("feature-max-indirect-segments", "\(maximumIndirectSegments)"),
        ]
        if !readOnly {
            properties += [
                ("feature-discard", "1"), ("discard-granularity", "\(blockSize)"), ("discard-alignment", "0"), ("discard-secure", "0"),
            ]
        }
        properties.append(("state", text(.connected)))
        try store.transaction("connect \(device)") { transaction throws(Failure) in
            try store.remove(backend + "/error", in: transaction)
            try write(backend, properties, in: transaction)
        }
    }

    func setState(_ state: XenbusState) throws(Failure) { try store.write(backend + "/state", text(state)) }

    /// Tells the front end that the device goes for good.
    func announceUnplug() throws(Failure) {
        try store.transaction("unplug \(device)") { transaction throws(Failure) in
            try write(backend, [("online", "0"), ("state", text(.closing))], in: transaction)
        }
    }

    /// Leaves a reason where people look for one.
    func reportError(_ text: String) throws(Failure) { try store.write(backend + "/error", text) }

    /// The front end's state; nil when it is gone.
    func frontendState() throws(Failure) -> XenbusState? { try state(frontend) }
    /// Our own state as the store has it; nil when somebody removed it.
    func backendState() throws(Failure) -> XenbusState? { try state(backend) }
    /// Whether the device stays when the front end closes it.
    func isOnline() throws(Failure) -> Bool { try store.number(backend + "/online") == 1 }

    /// Removes both ends. The guest sees its device go.
    func remove(in transaction: XenstoreTransaction = .none) throws(Failure) {
        try store.remove(frontend, in: transaction)
        try store.remove(backend, in: transaction)
    }

    func mode(readOnly: Bool) -> String { readOnly ? "r" : "w" }

    private func state(_ directory: String) throws(Failure) -> XenbusState? {
        guard try store.read(directory + "/state") != nil else { return nil }
        return try store.number(directory + "/state").flatMap { XenbusState(rawValue: $0) } ?? .unknown
    }

    private func write(_ directory: String, _ values: [(String, String)], in transaction: XenstoreTransaction) throws(Failure) {
        for (key, value) in values { try store.write("\(directory)/\(key)", value, in: transaction) }
    }

    private func text(_ state: XenbusState) -> String { "\(state.rawValue)" }
}

/// VDISK_READONLY (xen/io/blkif.h).
private let vdiskReadOnly = 4
