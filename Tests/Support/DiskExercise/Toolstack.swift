import Glibc
public import System
public import XenBus
public import XenSimulation

/// What xl does to the xenstore when it attaches a disk to a guest and detaches it (libxl_disk.c, libxl_device.c).
public struct Toolstack {
    public let machine: SimulatedMachine
    public let className: String
    private let xen: SimulatedXen

    public init(_ machine: SimulatedMachine, className: String = "qdisk") throws(Failure) {
        self.machine = machine
        self.className = className
        xen = try SimulatedXen(machine)
    }

    public func backend(_ domain: DomainID, _ number: UInt32) -> String { "/local/domain/0/backend/\(className)/\(domain)/\(number)" }

    /// `target`: as in the configuration of the disk. Does not wait.
    public func attach(
        _ domain: DomainID, _ number: UInt32 = 51728, target: String, script: String = "/etc/xen/scripts/block-dedupdisk", mode: String = "w"
    ) throws(Failure) {
        let backend = backend(domain, number), frontend = "/local/domain/\(domain)/device/vbd/\(number)"
        let isQEMUs = className == "qdisk"
        try xen.transaction("attach") { transaction throws(Failure) in
            for (directory, owner, reader) in [(frontend, domain, 0), (backend, 0, domain)] as [(String, DomainID, DomainID)] {
                try xen.makeDirectory(directory, in: transaction)
                try xen.setPermissions(directory, owner: owner, readers: [reader], in: transaction)
            }
            var values = [
                ("frontend", frontend), ("frontend-id", "\(domain)"), ("online", "1"), ("removable", "0"), ("bootable", "1"), ("state", "1"),
                ("dev", "xvdb"), ("type", isQEMUs ? "qdisk" : "phy"), ("mode", mode), ("device-type", "disk"), ("discard-enable", "1"),
                ("params", isQEMUs ? "aio:\(target)" : target),
            ]
            if !isQEMUs { values.append(("script", script)) }
            for (key, value) in values { try xen.write("\(backend)/\(key)", value, in: transaction) }
            for (key, value) in [
                ("backend", backend), ("backend-id", "0"), ("state", "1"), ("virtual-device", "\(number)"), ("device-type", "disk"),
            ] { try xen.write("\(frontend)/\(key)", value, in: transaction) }
        }
    }

    /// A node of the backend's, once it has one of these values.
    @discardableResult
    public func wait(_ domain: DomainID, _ key: String, _ values: String..., number: UInt32 = 51728) throws(Failure) -> String {
        let path = backend(domain, number) + "/" + key
        var value: String?
        for _ in 0..<120_000 {
            value = try xen.text(path)
            if let value, values.isEmpty || values.contains(value) { return value }
            usleep(1000)
        }
        let reason = try self.value(domain, "hotplug-error", number: number)
        throw Failure(.system, .node(path), "is \(value ?? "absent"), not one of \(values); hotplug-error: \(reason ?? "none")")
    }

    public func value(_ domain: DomainID, _ key: String, number: UInt32 = 51728) throws(Failure) -> String? {
        try xen.text(backend(domain, number) + "/" + key)
    }

    /// Asks for the device's end.
    public func beginDetach(_ domain: DomainID, _ number: UInt32 = 51728) throws(Failure) {
        try xen.transaction("detach") { transaction throws(Failure) in
            try xen.write(backend(domain, number) + "/online", "0", in: transaction)
            try xen.write(backend(domain, number) + "/state", "5", in: transaction)
        }
    }

    /// Waits for the device's end, and removes its nodes.
    public func finishDetach(_ domain: DomainID, _ number: UInt32 = 51728) throws(Failure) {
        try wait(domain, "state", "6", number: number)
        try xen.remove(backend(domain, number))
        try xen.remove("/local/domain/\(domain)/device/vbd/\(number)")
    }

    /// `xl destroy`: devices first, then the domain.
    public func destroy(_ domain: DomainID, _ number: UInt32 = 51728) throws(Failure) {
        try beginDetach(domain, number)
        machine.destroy(domain)
        try finishDetach(domain, number)
    }
}
