import CXen
import Glibc
public import System

/// Event channels through a descriptor of /dev/xen/evtchn of their own.
@safe public final class LibXenChannels: EventChannels, @unchecked Sendable {
    private let channels: OpaquePointer

    init() throws(Failure) {
        unsafe channels = try LibXen.open("/dev/xen/evtchn") { unsafe xenevtchn_open(cxen_silent_logger(), 0) }
    }

    deinit { unsafe xenevtchn_close(channels) }

    public func bindInterdomain(_ domain: DomainID, remotePort: EventPort) throws(Failure) -> EventPort {
        let port = unsafe xenevtchn_bind_interdomain(channels, UInt32(domain), remotePort)
        guard port >= 0 else {
            throw Failure(
                .system, "bind", "event channel \(remotePort) of domain \(domain)", systemError(errno),
                remedy: "the guest may have gone, or another backend may have it")
        }
        return EventPort(port)
    }

    public func unbind(_ port: EventPort) {
        // It can fail only for what is not bound.
        _ = unsafe xenevtchn_unbind(channels, port)
    }

    public func notify(_ port: EventPort) throws(Failure) {
        guard unsafe xenevtchn_notify(channels, port) == 0 else { throw failure("notify", port) }
    }

    public func pendingEvent() throws(Failure) -> EventPort? {
        let port = unsafe xenevtchn_pending(channels)
        guard port >= 0 else {
            if errno == EAGAIN || errno == EINTR { return nil }
            throw Failure(.system, "wait for", "an event channel", systemError(errno))
        }
        return EventPort(port)
    }

    public func unmask(_ port: EventPort) throws(Failure) {
        guard unsafe xenevtchn_unmask(channels, port) == 0 else { throw failure("unmask", port) }
    }

    public var eventDescriptor: Int32 { unsafe xenevtchn_fd(channels) }

    private func failure(_ operation: Failure.Operation, _ port: EventPort) -> Failure {
        Failure(.system, operation, "event channel \(port)", systemError(errno))
    }
}
