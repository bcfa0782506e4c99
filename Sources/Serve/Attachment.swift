import Glibc
import System
import XenBus

/// A device and its nodes, made anew or found.
struct Attachment<Store: Xenstore> {
    let nodes: BackendNodes<Store>
    /// The nodes are those of a process that died: the device is to be gone on with.
    let takesOver: Bool

    /// Makes the nodes of the device that was asked for or else of the first free one, or finds those that a killed
    /// process left for the same disk. Never overwrites nodes in use: the guest would not notice, and lose the device.
    init(_ store: Store, _ configuration: BackendConfiguration, readOnly: Bool) throws(Failure) {
        let ownDomain = try store.ownDomain()
        // The guest has to see that stale nodes are gone before there are new ones: removing and making are two transactions.
        for attempt in 0..<4 {
            if attempt > 0 { _ = poll(nil, 0, 200) }
            let attachment = try store.transaction("attach to VM \(configuration.domain.name)") { transaction throws(Failure) in
                try DeviceTable(
                    store: store, transaction: transaction, configuration: configuration, ownDomain: ownDomain, readOnly: readOnly
                ).attach()
            }
            if let attachment {
                self = attachment
                return
            }
        }
        throw Failure(.busy, "attach a disk to", .domain(configuration.domain.name), "others make and remove its devices all the time", remedy: "try again")
    }

    fileprivate init(nodes: BackendNodes<Store>, takesOver: Bool) {
        self.nodes = nodes
        self.takesOver = takesOver
    }
}

/// The devices of a VM, as a transaction sees them.
private struct DeviceTable<Store: Xenstore> {
    let store: Store
    let transaction: XenstoreTransaction
    let configuration: BackendConfiguration
    let ownDomain: DomainID
    let readOnly: Bool

    enum Occupancy {
        case free
        /// Left behind by somebody who is gone.
        case stale
        /// Ours, of the same disk, whose process died.
        case abandoned
        case taken(by: String)
    }

    /// Nil: something stale was removed, and it is to be looked again later.
    func attach() throws(Failure) -> Attachment<Store>? {
        let nodes: BackendNodes<Store>
        if let device = configuration.device {
            nodes = self.nodes(device)
        } else {
            nodes = self.nodes(try chooseDevice())
        }
        switch try occupancy(nodes) {
        case .free:
            try nodes.create(
                disk: configuration.disk, readOnly: readOnly, configuration.limits, in: transaction)
            return Attachment(nodes: nodes, takesOver: false)
        case .abandoned:
            return Attachment(nodes: nodes, takesOver: true)
        case .stale:
            try nodes.remove(in: transaction)
            return nil
        case .taken(let holder):
            throw Failure(
                .busy, .device("\(nodes.device)", of: configuration.domain.name), "in use by \(holder)",
                remedy: "\(try firstFree()) is free")
        }
    }

    /// The device that a killed process of ours left with this disk, else the first free one.
    private func chooseDevice() throws(Failure) -> VirtualDevice {
        for device in try present() {
            if case .abandoned = try occupancy(nodes(device)) { return device }
        }
        return try firstFree()
    }

    /// The first device from xvdb on that the guest does not have: xvda is the one that it was started from.
    private func firstFree() throws(Failure) -> VirtualDevice {
        let taken = Set(try present())
        for index in 1..<VirtualDevice.limit {
            if let device = VirtualDevice(index: index), !taken.contains(device) { return device }
        }
        throw Failure(
            .noSpace, "attach a disk to", .domain(configuration.domain.name), "it has as many disks as there are names", remedy: "detach one of them")
    }

    private func present() throws(Failure) -> [VirtualDevice] {
        let directory = BackendNodes<Store>.frontendDirectory(configuration.domain.id)
        let names = try store.list(directory, in: transaction) ?? []
        return names.compactMap { UInt64($0).flatMap { VirtualDevice(number: $0) } }.sorted { $0.number < $1.number }
    }

    private func occupancy(_ nodes: BackendNodes<Store>) throws(Failure) -> Occupancy {
        let hasBackend = try store.list(nodes.backend, in: transaction) != nil
        guard try store.list(nodes.frontend, in: transaction) != nil else { return hasBackend ? .stale : .free }
        // The guest may have written anything here.
        let other = try store.text(nodes.frontend + "/backend", in: transaction) ?? nodes.backend
        if other != nodes.backend {
            // A path that can't be listed, as the guest may have written anything, is no backend's.
            return (try? store.list(other, in: transaction)) == nil ? .stale : .taken(by: other)
        }
        guard hasBackend else { return .stale }
        let disk = try store.text(nodes.backend + "/params", in: transaction) ?? "another process"
        guard try store.number(nodes.backend + "/online", in: transaction) == 1 else {
            let isClosed = try store.number(nodes.frontend + "/state", in: transaction) == XenbusState.closed.rawValue
            return isClosed ? .stale : .taken(by: "disk \(disk), which is being unplugged")
        }
        let mode = try store.text(nodes.backend + "/mode", in: transaction)
        let isOurs = disk.hasSameBytes(as: configuration.disk) && mode == nodes.mode(readOnly: readOnly)
        return isOurs && configuration.isResumable ? .abandoned : .taken(by: "disk \(disk)")
    }

    private func nodes(_ device: VirtualDevice) -> BackendNodes<Store> {
        BackendNodes(
            store, className: configuration.className, domain: configuration.domain.id, ownDomain: ownDomain, device: device)
    }
}
