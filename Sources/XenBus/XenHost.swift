public import System

/// The interfaces of Xen that a backend needs, as one domain sees them. `LibXen` has the real ones; module XenSimulation has others
/// within the process, so that all that uses them can be tried without a hypervisor.
///
/// Any thread may call. What uses this is generic over `some XenHost`, so that no call on the data path is existential.
public protocol XenHost: Xenstore, GrantTable, Sendable {
    associatedtype Channels: EventChannels & Sendable

    /// Opens event channels for one thread: it sees what is pending on its own ports alone.
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
