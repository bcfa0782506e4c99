public import Activity
import System
import XenBus

/// A disk that a device's configuration asks for.
public struct ToolstackDisk: Sendable {
    public let name: String
    public let isReadOnly: Bool
    /// The device that asks for it, by domain and number (`3-51728`). No two have the same as long as the machine runs, but one after the other.
    public let device: String
    /// The device is in its first state: nobody has served it yet.
    public let isNew: Bool
    /// Notes what is done for the guest.
    public let activity = Activity()
}

/// A device whose nodes the toolstack has made for us: xl writes what the configuration of a disk says.
///
///     class   in xl's configuration                            params node
///     qdisk   backendtype=qdisk,target=dedupdisk:DISK          aio:dedupdisk:DISK
///     vbd     script=block-dedupdisk,target=DISK               DISK
///     vbd3    backendtype=tap,script=block-dedupdisk,target=DISK, since Xen 4.20
///
/// With a script, xl waits for our state 2 and then runs the script, which waits for `hotplug-status`.
struct ToolstackDevice: Hashable {
    let className: String
    let domain: DomainID
    let device: VirtualDevice

    static let classes = ["qdisk", "vbd", "vbd3"]
    static let script = "block-dedupdisk"
    private static let prefix = "dedupdisk:"

    /// All devices of these classes, of whatever disks.
    static func all<Store: Xenstore>(_ store: Store, ownDomain: DomainID) throws(Failure) -> [ToolstackDevice] {
        var found: [ToolstackDevice] = []
        for className in classes {
            let directory = "/local/domain/\(ownDomain)/backend/\(className)"
            for domainName in try store.list(directory) ?? [] {
                guard let domain = DomainID(domainName) else { continue }
                for number in try store.list("\(directory)/\(domainName)") ?? [] {
                    guard let number = UInt32(number) else { continue }
                    found.append(ToolstackDevice(className: className, domain: domain, device: VirtualDevice(anyNumber: number)))
                }
            }
        }
        return found
    }

    func nodes<Store: Xenstore>(_ store: Store, ownDomain: DomainID) -> BackendNodes<Store> {
        BackendNodes(
            store, className: className, domain: domain, ownDomain: ownDomain, device: device, isToolstacks: true)
    }

    /// What tells it from all others that there are: domain and number.
    var key: String { "\(domain)-\(device.number)" }

    /// Whether the toolstack runs a script once we have taken the device (state 2).
    var hasScript: Bool { className != "qdisk" }

    /// The disk that is asked for; nil when it is somebody else's device.
    func disk<Store: Xenstore>(_ nodes: BackendNodes<Store>) throws(Failure) -> ToolstackDisk? {
        guard var name = try nodes.store.text(nodes.backend + "/params") else { return nil }
        if hasScript {
            let script = try nodes.store.text(nodes.backend + "/script") ?? ""
            guard script.split(separator: "/").last.map(String.init) == Self.script else { return nil }
        } else {
            // What is before the colon says how QEMU is to open it: aio, for raw.
            guard let colon = name.firstIndex(of: ":") else { return nil }
            let target = name[name.index(after: colon)...]
            guard target.hasPrefix(Self.prefix) else { return nil }
            name = String(target.dropFirst(Self.prefix.count))
        }
        return ToolstackDisk(
            name: name, isReadOnly: try nodes.store.text(nodes.backend + "/mode") != "w", device: key, isNew: try nodes.backendState() == .initialising)
    }
}
