import CXen
import Glibc
public import System
public import XenBus

extension SimulatedXen {
    /// Opens a port that `remote` may connect to: what a frontend does.
    public func openPort(to remote: DomainID) throws(Failure) -> EventPort {
        try refusals("open an event channel to domain \(remote)") { state throws(StoreRefusal) in
            guard let port = state.openPort(.init(owner: id, remoteDomain: remote), in: domain) else {
                throw StoreRefusal(code: ENOSPC)
            }
            return port
        }
    }

    public func bindInterdomain(_ domain: DomainID, remotePort: EventPort) throws(Failure) -> EventPort {
        try refusals("bind event channel \(remotePort) of domain \(domain)") { state throws(StoreRefusal) in
            guard state.domains[domain]?.isAlive == true else { throw StoreRefusal(code: ESRCH) }
            guard let remote = state.domains[domain]?.ports[remotePort], remote.remoteDomain == self.domain, remote.remotePort == nil
            else { throw StoreRefusal(code: EINVAL) }
            let local = SimulatedMachine.State.Port(owner: id, remoteDomain: domain, remotePort: remotePort)
            guard let port = state.openPort(local, in: self.domain) else { throw StoreRefusal(code: ENOSPC) }
            state.domains[domain]?.ports[remotePort]?.remotePort = port
            // What was sent while nobody listened may have been lost, so Xen lets a new port begin with an event.
            state.setPending(.init(domain: self.domain, port: port))
            return port
        }
    }

    public func unbind(_ port: EventPort) {
        machine.state.with { state in
            guard state.domains[domain]?.ports[port]?.owner == id else { return }
            state.close(.init(domain: domain, port: port))
        }
    }

    public func notify(_ port: EventPort) throws(Failure) {
        try refusals("notify event channel \(port)") { state throws(StoreRefusal) in
            let local = try ownPort(port, state)
            guard let remote = local.remotePort else { return }
            state.setPending(.init(domain: local.remoteDomain, port: remote))
        }
    }

    public func pendingEvent() throws(Failure) -> EventPort? {
        try refusals("wait for an event channel") { state throws(StoreRefusal) in
            guard let port = state.processes[id]?.pendingPorts.first else {
                var count: eventfd_t = 0
                _ = unsafe eventfd_read(eventDescriptor, &count)
                return nil
            }
            state.processes[id]?.pendingPorts.removeFirst()
            state.domains[domain]?.ports[port]?.isMasked = true
            state.domains[domain]?.ports[port]?.isPending = false
            state.tellTaken(by: id)
            return port
        }
    }

    public func unmask(_ port: EventPort) throws(Failure) {
        try refusals("unmask event channel \(port)") { state throws(StoreRefusal) in
            let wasPending = try ownPort(port, state).isPending
            state.domains[domain]?.ports[port]?.isMasked = false
            if wasPending { state.deliver(.init(domain: domain, port: port), to: id) }
        }
    }

    private func ownPort(_ port: EventPort, _ state: SimulatedMachine.State) throws(StoreRefusal) -> SimulatedMachine.State.Port {
        guard let found = state.domains[domain]?.ports[port], found.owner == id else { throw StoreRefusal(code: EINVAL) }
        return found
    }

    private func refusals<Result>(
        _ what: @autoclosure () -> String, _ body: (inout SimulatedMachine.State) throws(StoreRefusal) -> Result
    ) throws(Failure) -> Result {
        do throws(StoreRefusal) {
            return try call(body)
        } catch {
            throw Failure(.system, .named(what()), systemError(error.code))
        }
    }
}
