import CXen
import Glibc
public import System
public import XenBus

/// A process's view of a `SimulatedMachine`: what `LibXen` is of a real one, with the same errors.
public final class SimulatedXen: XenHost, EventChannels {
    public let machine: SimulatedMachine
    /// The domain that the process runs in.
    public let domain: DomainID
    let id: Int
    public let storeDescriptor: Int32
    public let eventDescriptor: Int32

    /// A process of `domain`.
    public convenience init(_ machine: SimulatedMachine, domain: DomainID = 0) throws(Failure) {
        try self.init(machine, domain, partOf: nil)
    }

    /// Event channels of their own, in a part of this process that dies with it.
    public func openChannels() throws(Failure) -> SimulatedXen { try SimulatedXen(machine, domain, partOf: id) }

    /// The same for channels that another process of this machine has: it sees their eventfd alone.
    func openElsewhere() throws(Failure) -> SimulatedXen {
        let part = try openChannels()
        machine.state.with { $0.processes[part.id]?.isElsewhere = true }
        return part
    }

    private init(_ machine: SimulatedMachine, _ domain: DomainID, partOf whole: Int?) throws(Failure) {
        let storeSignal = cxen_event_descriptor(), eventSignal = cxen_event_descriptor()
        guard storeSignal >= 0, eventSignal >= 0 else { throw Failure(.system, "make", "an eventfd", systemError(errno)) }
        self.machine = machine
        self.domain = domain
        storeDescriptor = storeSignal
        eventDescriptor = eventSignal
        id = machine.state.with { state in
            state.nextProcess += 1
            state.processes[state.nextProcess] = SimulatedMachine.State.Process(
                domain: domain, whole: whole, storeSignal: storeSignal, eventSignal: eventSignal)
            // A part of what is dead is dead.
            if let whole, state.processes[whole]?.isAlive != true { state.kill(state.nextProcess) }
            return state.nextProcess
        }
    }

    deinit {
        machine.state.with { state in
            state.kill(id)
            state.processes[id] = nil
        }
        _ = close(storeDescriptor)
        _ = close(eventDescriptor)
    }

    /// Plays `kill -9` of the process: all it had open is gone, and each of its calls fails.
    public func kill() {
        machine.state.with { $0.kill(id) }
    }

    /// Has the process make `count` calls more, and be killed in the next one, before that has done anything.
    public func kill(afterCalls count: Int) {
        machine.state.with { $0.processes[id]?.remainingCalls = count }
    }

    /// Runs `body` on the machine, as a call of this process.
    func call<Result>(
        _ body: (inout SimulatedMachine.State) throws(StoreRefusal) -> Result
    ) throws(StoreRefusal) -> Result {
        let result: Swift.Result<Result, StoreRefusal> = machine.state.with { state in
            let whole = state.processes[id]?.whole ?? id
            if let remaining = state.processes[whole]?.remainingCalls {
                state.processes[whole]?.remainingCalls = max(0, remaining - 1)
                if remaining == 0 { state.kill(whole) }
            }
            guard state.processes[id]?.isAlive == true else { return .failure(StoreRefusal(code: EBADF)) }
            do throws(StoreRefusal) {
                return .success(try body(&state))
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }
}
