import Blkif
public import BlockModel
import FrontEnd
import Glibc
public import Serve
public import System
public import XenBus
public import XenSimulation

/// A guest that does with its frontend whatever a script says, while a backend serves it: any values in its nodes, any
/// bytes in its rings and pages, grants that come and go, events at any time.
public final class HostileGuest {
    public let guest: SimulatedGuest
    private let machine: SimulatedMachine
    private let directory: String
    private let pages: [SimulatedPage]
    /// Grant references: of `pages`, in part revoked.
    private var references: [GrantReference]
    private var rings: [Ring] = []
    /// The backend at work.
    private var backend: (process: SimulatedXen, thread: BackgroundThread<Result<BackendOutcome, Failure>>)?
    private static let ringPageCount = 5 * 16
    private static let dataPageCount = 16

    private struct Ring {
        let page: SimulatedPage
        let byteCount: Int
        let references: [GrantReference]
        let port: EventPort
        let abi: ABI
        var producer: UInt32 = 0
    }

    public init(_ machine: SimulatedMachine, id: DomainID) throws(Failure) {
        self.machine = machine
        guest = try SimulatedGuest(machine, id: id, name: "hostile")
        directory = "/local/domain/\(id)/device/vbd/51728"
        pages = try guest.allocatePages(Self.ringPageCount + Self.dataPageCount)
        references = []
    }

    /// Follows the script from plug to unplug. Throws when the backend does not end afterwards, or keeps something.
    public func follow(_ script: Script, _ disk: some BlockDevice, _ configuration: BackendConfiguration) throws(Failure) {
        var script = script
        let portsBefore = machine.openPortCount(of: 0)
        references = pages.suffix(Self.dataPageCount).map { guest.grant($0) }
        let stop = try StopRequest()
        let process = try SimulatedXen(machine)
        var configuration = configuration
        configuration.domain = Domain(id: guest.id, name: "hostile")
        let thread = BackgroundThread { [configuration] in
            do throws(Failure) {
                var backend = try Backend.attach(process, disk, configuration, stop: stop)
                return Result<BackendOutcome, Failure>.success(try backend.run())
            } catch {
                return .failure(error)
            }
        }
        backend = (process, thread)
        wait(for: ["2"])
        try? offer(&script)
        while !script.isAtEnd { try? act(&script) }
        // Whatever the guest did, the disk can be taken from it.
        stop.send()
        stop.send()
        let outcome = thread.join()
        backend = nil
        letGo()
        guard let outcome else { throw Failure(.system, "backend of a hostile guest", "does not end") }
        if case .failure(let failure) = outcome { throw failure }
        guard machine.mappedPageCount(of: guest.id) == 0, machine.openPortCount(of: 0) <= portsBefore else {
            throw Failure(.damage, "backend of a hostile guest", "keeps pages or ports")
        }
    }

    private func letGo() {
        closeRings()
        for reference in references { guest.revoke(reference) }
        if let xen = try? SimulatedXen(machine) {
            try? xen.remove(directory)
            try? xen.remove("/local/domain/0/backend/dedupdisk/\(guest.id)")
        }
    }

    private func closeRings() {
        for ring in rings {
            guest.xen.unbind(ring.port)
            for reference in ring.references { guest.revoke(reference) }
        }
        rings = []
    }

    private func act(_ script: inout Script) throws(Failure) {
        switch script.byte() % 24 {
        case 0: try offer(&script)
        case 2: try guest.xen.write(directory + "/state", script.byte() < 240 ? "\(script.number(below: 8))" : "\(script.word())")
        case 3: try guest.xen.write("\(directory)/\(key(&script))", value(&script), in: .none)
        case 4: try guest.xen.remove("\(directory)/\(key(&script))")
        case 5...8: try post(&script)
        case 9: try move(&script)
        case 10: scribble(&script)
        case 11: changeGrants(&script)
        case 12: fillSegments(&script)
        case 13: for _ in 0..<storm(&script) { try ring(&script).map { (ring) throws(Failure) in try guest.xen.notify(ring.port) } }
        case 14: for _ in 0..<storm(&script) { try guest.xen.write(directory + "/state", "4") }
        case 15: for _ in 0..<script.byte() % 8 { sched_yield() }
        case 16:
            try guest.xen.write(directory + "/state", "5")
            wait(for: ["5", "6"])
            try guest.xen.write(directory + "/state", "6")
            wait(for: ["6"])
        case 17: try guest.xen.write(directory + "/state", "1")
        case 1, 18...21: try post(&script)
        default: if nudge(channels: true) { _ = nudge(channels: true) }
        }
    }

    /// How often something is done: seldom more often than the backend looks at at once.
    private func storm(_ script: inout Script) -> Int { script.byte() < 250 ? script.number(below: 16) : 300 }

    // MARK: The xenstore

    private func key(_ script: inout Script) -> String {
        let keys = [
            "ring-ref", "ring-ref0", "ring-ref1", "event-channel", "protocol", "ring-page-order", "num-ring-pages", "multi-queue-num-queues",
            "queue-0/ring-ref", "queue-1/ring-ref", "queue-0/event-channel", "queue-1/event-channel", "queue-1", "backend", "state",
            "feature-persistent",
        ]
        return keys[script.number(below: keys.count)]
    }

    private func value(_ script: inout Script) -> [UInt8] {
        switch script.byte() % 4 {
        case 0: return script.run(atMost: 4096)
        case 1: return Array("\(script.word())".utf8)
        case 2: return Array("\(references[script.number(below: references.count)])".utf8)
        default: return Array(["x86_64-abi", "x86_32-abi", "0", "1", "2", "4", "16", "-1"][script.number(below: 8)].utf8)
        }
    }

    /// Offers rings as an honest guest does, so that there is something to abuse.
    private func offer(_ script: inout Script) throws(Failure) {
        try startAnew()
        let abi = ABI.allCases[script.number(below: 3)], order = script.number(below: 5)
        // One for the most part: each takes the backend a thread.
        let queues = [1, 1, 1, 1, 2, 2, 3, 5][script.number(below: 8)]
        var values = [("protocol", abi.protocolName), ("ring-page-order", "\(order)"), ("multi-queue-num-queues", "\(queues)")]
        for queue in 0..<queues {
            let used = pages[queue << 4..<queue << 4 + 1 << order]
            let ring = Ring(
                page: used[used.startIndex], byteCount: used.count * xenPageSize, references: used.map { guest.grant($0) },
                port: try guest.xen.openPort(to: 0), abi: abi)
            _ = unsafe try FrontRing(page: ring.page.pointer, byteCount: ring.byteCount, abi: abi)
            let prefix = queues > 1 ? "queue-\(queue)/" : ""
            values.append((prefix + "event-channel", "\(ring.port)"))
            for (index, reference) in ring.references.enumerated() { values.append(("\(prefix)ring-ref\(index)", "\(reference)")) }
            rings.append(ring)
        }
        for (key, value) in values + [("state", "3")] { try guest.xen.write("\(directory)/\(key)", value) }
        wait(for: ["4", "5"])
    }

    /// Back to the beginning, with nothing left in our nodes.
    private func startAnew() throws(Failure) {
        closeRings()
        for key in ["ring-ref", "num-ring-pages", "queue-0", "queue-1"] { try guest.xen.remove("\(directory)/\(key)") }
        try guest.xen.write(directory + "/state", "6")
        wait(for: ["6"])
        try guest.xen.write(directory + "/state", "1")
        wait(for: ["2"])
    }

    /// Waits for one of these states, but no longer than the backend has anything to do.
    private func wait(for states: [String]) {
        // What it does for an event, it may have to look at in turn.
        for _ in 0..<3 {
            if let node = try? guest.xen.text(directory + "/backend"), let state = try? guest.xen.text(node + "/state"), states.contains(state) {
                return
            }
            guard nudge(channels: false) else { return }
        }
    }

    /// Lets the backend's threads do what they have to. False: it has ended.
    private func nudge(channels: Bool) -> Bool {
        guard let backend else { return false }
        let deadline = ContinuousClock.now + .seconds(120)
        return machine.nudge(backend.process, channels: channels) { !backend.thread.hasEnded && .now < deadline }
    }

    // MARK: Rings

    private func ring(_ script: inout Script) -> Ring? {
        rings.isEmpty ? nil : rings[script.number(below: rings.count)]
    }

    /// Puts requests on a ring, whose parts are right or wrong, each as the script says.
    private func post(_ script: inout Script) throws(Failure) {
        guard !rings.isEmpty else { return }
        let index = script.number(below: rings.count)
        var front = unsafe try FrontRing(
            attaching: rings[index].page.pointer, byteCount: rings[index].byteCount, abi: rings[index].abi, at: rings[index].producer)
        for _ in 0...script.number(below: 16) {
            _ = front.post(request(&script))
            rings[index].producer &+= 1
        }
        _ = front.pushRequests()
        try guest.xen.notify(rings[index].port)
    }

    private func request(_ script: inout Script) -> Request {
        var request = Request()
        let known: [UInt8] = [0, 1, 1, 2, 3, 5, 6, 6, 6]
        request.rawOperation = script.byte() < 230 ? known[script.number(below: known.count)] : script.byte()
        request.id = script.word()
        request.sector = script.byte() < 220 ? UInt64(script.byte()) * 4 : script.word()
        request.segmentCount = script.byte() < 230 ? script.byte() % 12 : script.byte()
        for index in 0..<min(maximumDirectSegments, Int(request.segmentCount)) { request.segments[index] = segment(&script) }
        if request.operation == .discard {
            request.discardFlag = script.byte() % 2
            request.discardSectorCount = script.byte() < 200 ? UInt64(script.byte()) : script.word()
        }
        guard request.operation == .indirect else { return request }
        request.rawInnerOperation = script.byte() < 230 ? script.byte() % 2 : script.byte()
        let edges: [UInt16] = [0, 255, 256, 257, 512, 513, 4096, 65535]
        request.indirectSegmentCount = script.byte() < 200 ? UInt16(script.byte()) : edges[script.number(below: edges.count)]
        request.indirectGrefs[0] = reference(&script)
        return request
    }

    private func segment(_ script: inout Script) -> Segment {
        let isRight = script.byte() < 220
        let first = isRight ? script.byte() % 8 : script.byte(), last = isRight ? first + script.byte() % (8 - first) : script.byte()
        return Segment(gref: reference(&script), firstSector: first, lastSector: last)
    }

    private func reference(_ script: inout Script) -> GrantReference {
        script.byte() < 230 ? references[script.number(below: references.count)] : GrantReference(truncatingIfNeeded: script.word())
    }

    /// Sets one of the shared indices.
    private func move(_ script: inout Script) throws(Failure) {
        guard let ring = ring(&script) else { return }
        let value = script.byte() < 200 ? ring.producer &+ UInt32(script.byte()) : UInt32(truncatingIfNeeded: script.word())
        unsafe ring.page.pointer.storeBytes(of: value, toByteOffset: 4 * script.number(below: 4), as: UInt32.self)
        try guest.xen.notify(ring.port)
    }

    /// Writes any bytes anywhere into a ring.
    private func scribble(_ script: inout Script) {
        guard let ring = ring(&script) else { return }
        let offset = (Int(script.byte()) << 8 | Int(script.byte())) % ring.byteCount
        let bytes = script.run(atMost: ring.byteCount - offset)
        unsafe bytes.withUnsafeBytes { source in
            if let base = source.baseAddress { unsafe (ring.page.pointer + offset).copyMemory(from: base, byteCount: source.count) }
        }
    }

    // MARK: Pages

    private func changeGrants(_ script: inout Script) {
        let index = script.number(below: references.count)
        guest.revoke(references[index])
        if script.byte() % 2 == 0 { references[index] = guest.grant(pages[Self.ringPageCount + index]) }
    }

    /// Writes segments into a page that indirect requests may name, whether or not one is being read.
    private func fillSegments(_ script: inout Script) {
        let page = pages[Self.ringPageCount + script.number(below: Self.dataPageCount)]
        var bytes = unsafe MutableRawSpan(_unsafeStart: page.pointer, byteCount: xenPageSize)
        let some = (0..<4).map { _ in segment(&script) }
        for index in 0..<segmentsPerIndirectPage { some[index % some.count].store(into: &bytes, at: index * 8) }
    }
}
