public import BlockModel
public import FrontEnd
import Glibc
import Serve
public import System
import TestSupport
public import XenBus
public import XenSimulation

/// A simulated machine with a guest, and another process that serves it a disk: one that can really be killed.
public final class RemoteDisk {
    public let guest: SimulatedGuest
    public let frontEnd: SimulatedFrontEnd
    private var process: Child?
    /// Answers the process's calls until it ends, and then lets go of what it had.
    private var lender: BackgroundThread<Bool>?

    public static let domain = Domain(id: 7, name: "web")

    /// The guest's disk will be xvdb.
    public init(ringOrder: Int = 0, queueCount: Int = 1) throws(Failure) {
        guest = try SimulatedGuest(try SimulatedMachine(), id: Self.domain.id, name: Self.domain.name)
        frontEnd = SimulatedFrontEnd(guest, number: 51728, ringOrder: ringOrder, queueCount: queueCount)
    }

    /// Starts a process that serves by `serve`.
    public func start(_ executable: String, _ arguments: [String]) throws(Failure) {
        let server = try SharedXenServer(guest, channelCount: frontEnd.queueCount)
        // Not to be kept open here: its end is how the process's end is seen.
        defer { close(server.descriptors.calls) }
        process = try Child(executable, arguments, inherited: server.descriptors.all)
        lender = BackgroundThread {
            server.run()
            return true
        }
    }

    /// Kills the process with SIGKILL, and waits until nothing is left of it.
    public func kill() throws(Failure) {
        process?.kill(SIGKILL)
        let outcome = try end()
        guard outcome.signal == SIGKILL else { throw Failure(.damage, "backend", "it had ended before: \(outcome)") }
    }

    /// Unplugs the disk with the guest's consent.
    public func unplug() throws(Failure) {
        process?.kill(SIGTERM)
        try frontEnd.letGo()
        let outcome = try end()
        guard outcome.status == 0 else { throw Failure(.damage, "backend", "it ended with \(outcome)") }
    }

    private func end() throws(Failure) -> Child.Outcome {
        guard let outcome = process?.wait(), lender?.join() == true else { throw Failure(.system, "backend", "never started, or not let go") }
        process = nil
        return outcome
    }

    /// Requests on the rings that the backend has not answered, whether or not the guest has seen the answers.
    public var abandonedCount: Int {
        frontEnd.connections.reduce(0) { sum, connection in
            // req_prod and rsp_prod (xen/io/ring.h).
            let page = unsafe connection.pages[0].pointer
            let requests = unsafe page.load(as: UInt32.self), responses = unsafe page.load(fromByteOffset: 8, as: UInt32.self)
            return sum + Int(requests &- responses)
        }
    }

    /// In that process: serves the disk to the guest whose machine it inherited, until it is unplugged.
    public static func serve<Device: BlockDevice & SendableMetatype>(_ device: Device, queueCount: Int = 1) throws(Failure) {
        let xen = try SharedXen(SharedDescriptors(inheritedFrom: 3, channels: queueCount))
        let stop = try StopRequest()
        stop.sendOnSignals()
        var configuration = BackendConfiguration(
            domain: domain, device: VirtualDevice(name: "xvdb"), disk: "root", isResumable: true, log: { _ in })
        configuration.maximumQueues = queueCount
        var backend = try Backend.attach(xen, device, configuration, stop: stop)
        _ = try backend.run()
        try device.close()
    }
}
