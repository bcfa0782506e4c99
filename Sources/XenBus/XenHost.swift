public import System

/// The Xen interfaces that a backend needs, as one domain sees them. `LibXen` is the real ones; `SimulatedXen` runs
/// in the process, so that all above can be tried without a hypervisor.
///
/// Any thread may call. What sits above is generic over `some XenHost`: no call on the data path is existential.
public protocol XenHost: Xenstore, GrantTable, Sendable {
    associatedtype Channels: EventChannels & Sendable

    /// Event channels of its own, for one thread: what is pending on the ports of one is no matter of the others.
    func openChannels() throws(Failure) -> Channels
}

/// A domain's number (`domid_t`, xen/xen.h).
public typealias DomainID = UInt16
/// A grant reference (`grant_ref_t`, xen/grant_table.h): the name under which a domain shares one of its pages.
public typealias GrantReference = UInt32
/// A local end of an event channel (`evtchn_port_t`, xen/event_channel.h).
public typealias EventPort = UInt32

/// Bytes in a page, on every architecture that blkif knows: grants are always in pages of 4 KiB.
public let xenPageSize = 4096
