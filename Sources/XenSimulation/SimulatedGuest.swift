import Glibc
public import System
public import XenBus

/// A guest of a `SimulatedMachine`: its pages, its grants and its view of Xen, of which a frontend is made.
@safe public final class SimulatedGuest: Sendable {
    public let machine: SimulatedMachine
    public let id: DomainID
    /// Its xenstore connection and event channels.
    public let xen: SimulatedXen

    /// Starts a guest.
    public init(_ machine: SimulatedMachine, id: DomainID, name: String, uuid: String = "6ba7b810-9dad-11d1-80b4-00c04fd430c8") throws(Failure) {
        machine.addDomain(id, name: name, uuid: uuid)
        self.machine = machine
        self.id = id
        xen = try SimulatedXen(machine, domain: id)
    }

    /// Takes pages of zeros, which lie one after the other in memory. They are never given back: machines are short-lived.
    /// - Throws: `.noSpace` when the machine has no more.
    public func allocatePages(_ count: Int) throws(Failure) -> [SimulatedPage] {
        let first: Int? = machine.state.with { state in
            guard state.nextPage + count <= machine.memory.pageCount else { return nil }
            state.nextPage += count
            return state.nextPage - count
        }
        guard let first else { throw Failure(.noSpace, "take", "pages of a simulated machine", "all \(machine.memory.pageCount) are taken") }
        return (first..<first + count).map { SimulatedPage(number: $0, machine: machine) }
    }

    /// Lets `domain` read and write a page.
    public func grant(_ page: SimulatedPage, to domain: DomainID = 0) -> GrantReference {
        machine.state.with { state in
            let reference = state.domains[id]?.nextReference ?? 0
            state.domains[id]?.nextReference += 1
            state.domains[id]?.grants[reference] = .init(page: page.number, grantee: domain)
            return reference
        }
    }

    /// Takes a grant back. Whoever has mapped the page keeps it mapped.
    public func revoke(_ reference: GrantReference) {
        machine.state.with { _ = $0.domains[id]?.grants.removeValue(forKey: reference) }
    }

    /// Waits until a watch event or an event is pending. False: none was within `milliseconds`.
    public func wait(milliseconds: Int32) -> Bool {
        var requests = [
            pollfd(fd: xen.storeDescriptor, events: Int16(POLLIN), revents: 0),
            pollfd(fd: xen.eventDescriptor, events: Int16(POLLIN), revents: 0),
        ]
        return unsafe poll(&requests, 2, milliseconds) > 0
    }
}

/// A page of a simulated guest.
@safe public struct SimulatedPage: Sendable {
    let number: Int
    let machine: SimulatedMachine

    /// Its first byte. The page lives as long as the machine.
    @unsafe public var pointer: UnsafeMutableRawPointer { unsafe machine.memory.pointer(toPage: number) }
}
