public import Activity
import Glibc
public import XenBus

/// What a `Backend` serves, and to whom.
public struct BackendConfiguration: Sendable {
    /// The VM.
    public var domain: Domain
    /// The device that the VM shall see; nil: the first free one from xvdb on.
    public var device: VirtualDevice?
    /// What the disk is known by, in the device's `params` node: a later process sees by it that the device was connected to this disk.
    public var disk: String
    /// Whether this process has the disk to itself, and all that was acknowledged survives the process. Then a device that
    /// a killed process left connected to the same disk is gone on with, and the guest notices nothing but a pause.
    public var isResumable: Bool
    /// The directory of our nodes. Not `vbd` or `qdisk`: the kernel's backend and QEMU take what is there.
    public var className = "dedupdisk"
    /// A ring may have up to 2^this pages: 0...4.
    public var maximumRingOrder = 4
    /// Rings that a guest may use at the same time, each with a thread and a buffer of 4 MiB here.
    public var maximumQueues = Self.defaultQueues
    /// How often the disk is asked whether its size was changed.
    public var refreshInterval = Duration.seconds(1)
    /// How long a guest that was asked to let go of the device may take before that is logged.
    public var patience = Duration.seconds(10)
    /// Notes what is done for the guest.
    public var activity = Activity()
    /// Takes a line for people.
    public var log: @Sendable (String) -> Void

    public init(
        domain: Domain, device: VirtualDevice? = nil, disk: String, isResumable: Bool, log: @escaping @Sendable (String) -> Void
    ) {
        self.domain = domain
        self.device = device
        self.disk = disk
        self.isResumable = isResumable
        self.log = log
    }

    /// As many queues as there are processors, and 8 at most.
    public static let defaultQueues = max(1, min(8, sysconf(Int32(_SC_NPROCESSORS_ONLN))))

    var limits: RingLimits { RingLimits(ringOrder: maximumRingOrder, queues: maximumQueues) }
}
