import CXen
import Glibc
public import System
import XenBus

/// The other end of a `SharedXen`, in the process that has the machine: a domain's view of it, lent to another process.
public final class SharedXenServer: Sendable {
    /// What the other process inherits; `calls` is its end of the socket, to be closed here once it has it.
    public let descriptors: SharedDescriptors
    /// Written to when an event is sent to the other process's first channel.
    public var events: Int32 { channels[0].eventDescriptor }
    private let xen: SimulatedXen
    private let channels: [SimulatedXen]
    private let socket: Int32

    /// Lends domain 0 of the guest's machine.
    /// - Parameter channelCount: event channels, 1 or more: as many as the guest has rings.
    public init(_ guest: SimulatedGuest, channelCount: Int = 1) throws(Failure) {
        var ends: [Int32] = [-1, -1]
        guard unsafe socketpair(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue), 0, &ends) == 0 else {
            throw Failure(.system, "make", "a pair of sockets", systemError(errno))
        }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        socket = ends[0]
        let xen = try SimulatedXen(guest.machine)
        self.xen = xen
        channels = try (0..<max(1, channelCount)).map { _ throws(Failure) in try xen.openElsewhere() }
        descriptors = SharedDescriptors(
            memory: guest.machine.memory.file, store: xen.storeDescriptor, guestEvents: guest.xen.eventDescriptor, calls: ends[1],
            events: channels.map(\.eventDescriptor))
    }

    deinit { _ = close(socket) }

    /// Answers calls on the calling thread, until the other process ends. Then all that it had is let go of.
    public func run() {
        while let call = SharedMessage.receive(from: socket) {
            var answer: SharedMessage
            do throws(Failure) {
                answer = try self.answer(call)
            } catch {
                answer = SharedMessage(2, [field(error.what), field(error.why)])
            }
            do throws(Failure) { try answer.send(to: socket) } catch { break }
        }
        xen.kill()
    }

    /// Grants that one call looks up.
    static let pagesPerCall = 256
    private static let none = SharedMessage(1)
    private static let done = SharedMessage(0)

    private func answer(_ call: SharedMessage) throws(Failure) -> SharedMessage {
        guard let kind = SharedCall(rawValue: call.code) else { throw Failure(.invalidRequest, "answer", "call \(call.code)", "there is no such call") }
        let transaction = XenstoreTransaction(number: UInt32(truncatingIfNeeded: call.number(1)))
        switch kind {
        case .read: return try xen.read(call.text(0), in: transaction).map { SharedMessage(0, [$0]) } ?? Self.none
        case .write: try xen.write(call.text(0), call.fields.count > 2 ? call.fields[2] : [], in: transaction)
        case .makeDirectory: try xen.makeDirectory(call.text(0), in: transaction)
        case .remove: try xen.remove(call.text(0), in: transaction)
        case .list: return try xen.list(call.text(0), in: transaction).map { SharedMessage(0, $0.map { field($0) }) } ?? Self.none
        case .setPermissions:
            let readers = call.fields.indices.dropFirst(3).map { DomainID(truncatingIfNeeded: call.number($0)) }
            try xen.setPermissions(call.text(0), owner: DomainID(truncatingIfNeeded: call.number(2)), readers: readers, in: transaction)
        case .watch: try xen.watch(call.text(0), token: call.text(1))
        case .unwatch: try xen.unwatch(call.text(0), token: call.text(1))
        case .nextWatchEvent:
            return try xen.nextWatchEvent().map { SharedMessage(0, [field($0.path), field($0.token)]) } ?? Self.none
        case .isIntroduced: return xen.isIntroduced(domain(call)) ? Self.done : Self.none
        case .beginTransaction: return SharedMessage(0, [field(try xen.beginTransaction().number)])
        case .endTransaction:
            let ended = XenstoreTransaction(number: UInt32(truncatingIfNeeded: call.number(0)))
            return try xen.endTransaction(ended, commit: call.number(1) == 1) ? Self.done : Self.none
        case .bind:
            let port = try channel(call.number(2)).bindInterdomain(domain(call), remotePort: EventPort(truncatingIfNeeded: call.number(1)))
            return SharedMessage(0, [field(port)])
        case .unbind: try channel(call.number(1)).unbind(EventPort(truncatingIfNeeded: call.number(0)))
        case .findPages: return SharedMessage(0, xen.pages(of: domain(call), from: GrantReference(truncatingIfNeeded: call.number(1))))
        }
        return Self.done
    }

    private func channel(_ index: Int) throws(Failure) -> SimulatedXen {
        guard channels.indices.contains(index) else { throw Failure(.invalidRequest, "use", "event channel \(index)", "there is none") }
        return channels[index]
    }

    private func domain(_ call: SharedMessage) -> DomainID { DomainID(truncatingIfNeeded: call.number(0)) }
}

extension SimulatedXen {
    /// The numbers of the pages that are granted to this domain under this reference and those that follow it; empty
    /// where there is none.
    fileprivate func pages(of domain: DomainID, from first: GrantReference) -> [[UInt8]] {
        machine.state.with { state in
            (0..<GrantReference(SharedXenServer.pagesPerCall)).map { offset in
                state.grant(first &+ offset, of: domain, to: self.domain).map { field($0.page) } ?? []
            }
        }
    }
}
