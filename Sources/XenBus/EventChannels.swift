public import System

/// Event channels (xenevtchn.h): a bit that one domain sets for another. Notifications that come close together are
/// one event.
public protocol EventChannels: AnyObject {
    /// Connects to a port that `domain` has left open for us. Use `EventChannel`, which disconnects.
    func bindInterdomain(_ domain: DomainID, remotePort: EventPort) throws(Failure) -> EventPort
    /// Disconnects. `port`: what `bindInterdomain` gave.
    func unbind(_ port: EventPort)
    /// Tells the other end.
    func notify(_ port: EventPort) throws(Failure)
    /// A port that was notified, and is masked from now on until `unmask`; nil: there is none. To be called when
    /// `eventDescriptor` is readable: else it may wait.
    func pendingEvent() throws(Failure) -> EventPort?
    /// Lets further notifications of a port through.
    func unmask(_ port: EventPort) throws(Failure)
    /// Readable when an event is pending.
    var eventDescriptor: Int32 { get }
}

/// Our end of an event channel, disconnected when this ends.
public struct EventChannel<Channels: EventChannels>: ~Copyable {
    private let channels: Channels
    public let port: EventPort

    /// Connects to a port that `domain` has left open for us.
    public init(_ channels: Channels, domain: DomainID, remotePort: EventPort) throws(Failure) {
        port = try channels.bindInterdomain(domain, remotePort: remotePort)
        self.channels = channels
    }

    deinit { channels.unbind(port) }

    public func notify() throws(Failure) { try channels.notify(port) }
    public func unmask() throws(Failure) { try channels.unmask(port) }
}
