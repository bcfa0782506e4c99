public import Blkif
public import BlockModel
public import FrontEnd
public import Serve
import Synchronization
public import System
import XenBus
public import XenSimulation

/// A simulated machine with a guest, and a thread that serves it a disk.
public final class ServedDisk {
    public let machine: SimulatedMachine
    public let guest: SimulatedGuest
    public let frontEnd: SimulatedFrontEnd
    public private(set) var stop: StopRequest
    /// The process that serves.
    public private(set) var process: SimulatedXen
    public let log = Log()
    private var thread: BackgroundThread<Result<BackendOutcome, Failure>>?

    /// What the backend said.
    public final class Log: Sendable {
        private let text = Mutex<[String]>([])
        public var lines: [String] { text.withLock { $0 } }
        public func contains(_ words: String) -> Bool { lines.contains { $0.contains(words) } }
        func append(_ line: String) { text.withLock { $0.append(line) } }
    }

    /// The guest's disk will be xvdb.
    public init(abi: ABI = .native, ringOrder: Int = 0, queueCount: Int = 1) throws(Failure) {
        machine = try SimulatedMachine()
        guest = try SimulatedGuest(machine, id: 7, name: "web")
        frontEnd = SimulatedFrontEnd(guest, number: 51728, abi: abi, ringOrder: ringOrder, queueCount: queueCount)
        stop = try StopRequest()
        process = try SimulatedXen(machine)
    }

    public func configuration(disk: String = "root", resumable: Bool = true) -> BackendConfiguration {
        var configuration = BackendConfiguration(
            domain: Domain(id: guest.id, name: "web"), device: VirtualDevice(name: "xvdb"), disk: disk, isResumable: resumable,
            log: { [log] in log.append($0) })
        configuration.maximumQueues = 4
        configuration.refreshInterval = .milliseconds(20)
        return configuration
    }

    /// Starts a process that serves. `makeDevice` runs on its thread, which closes the device unless it is killed: within
    /// the call after the next `calls`, when given.
    public func start<Device: BlockDevice & SendableMetatype>(
        as configuration: BackendConfiguration? = nil, killedAfterCalls calls: Int? = nil, _ makeDevice: @escaping @Sendable () throws(Failure) -> Device
    ) throws(Failure) {
        stop = try StopRequest()
        process = try SimulatedXen(machine)
        if let calls { process.kill(afterCalls: calls) }
        let configuration = configuration ?? self.configuration()
        thread = BackgroundThread { [stop, process] in
            do throws(Failure) {
                let device = try makeDevice()
                var backend = try Backend.attach(process, device, configuration, stop: stop)
                let outcome = try backend.run()
                try device.close()
                return .success(outcome)
            } catch {
                return .failure(error)
            }
        }
    }

    /// Waits for the process's end.
    public func join() throws(Failure) -> BackendOutcome {
        guard let result = thread?.join() else { throw Failure(.system, "backend", "still running, or never started") }
        thread = nil
        return try result.get()
    }

    /// Plays `kill -9`: at once, or within the call after the next `calls`.
    public func kill(afterCalls calls: Int? = nil) {
        if let calls { process.kill(afterCalls: calls) } else { process.kill() }
    }

    /// Waits for a killed process's end.
    public func joinKilled() throws(Failure) {
        do throws(Failure) {
            let outcome = try join()
            throw Failure(.damage, "backend", "killed, and yet it ended with \(outcome)")
        } catch {
            // What a call of a killed process throws.
            guard error.why == "Bad file descriptor" else { throw error }
        }
    }

    /// Unplugs the disk with the guest's consent.
    public func unplug() throws(Failure) -> BackendOutcome {
        stop.send()
        try frontEnd.letGo()
        return try join()
    }

    /// All that is in the xenstore of devices, for tests that nothing is left. The machine's own view.
    public func remainingNodes() throws(Failure) -> [String] {
        let xen = try SimulatedXen(machine)
        // Empty, the directory would stay for each guest that ever was.
        let backends = try xen.list("/local/domain/0/backend/dedupdisk/\(guest.id)").map { $0.isEmpty ? ["directory"] : $0 }
        let frontends = try xen.list("/local/domain/\(guest.id)/device/vbd") ?? []
        return (backends ?? []).map { "backend \($0)" } + frontends.map { "frontend \($0)" }
    }

    /// Whether the backend holds nothing of the guest's: no page, no event channel.
    public var isLetGo: Bool { machine.mappedPageCount(of: guest.id) == 0 && machine.openPortCount(of: 0) == 0 }
}
