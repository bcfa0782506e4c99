import Blkif
import BlockModel
import DiskExercise
import FrontEnd
import Glibc
import Histogram
import System
import TestSupport
import XenBus
// In revisions before it was a module of its own, XenBus has it.
#if canImport(XenSimulation)
    import XenSimulation
#endif

/// A guest whose disk another process serves: its pages and its ring are memory that both map, and each wakes the other
/// through an eventfd.
///
/// The guest's work is kept small: its pages hold the data already, and no request allocates.
final class RingGuest {
    /// Blocks in the largest request, as many as Linux's frontend puts into one.
    static let largestRequest = 32

    private let server: SharedXenServer
    private let guest: SimulatedGuest
    private let frontEnd: SimulatedFrontEnd
    private let backEnd: Child
    private let pages: [[SimulatedPage]]
    private let references: [[GrantReference]]

    /// Starts a process that serves what `arguments` of the agent say, and connects to it.
    init(_ arguments: [String]) throws {
        guest = try SimulatedGuest(SimulatedMachine(), id: RemoteDisk.domain.id, name: RemoteDisk.domain.name)
        frontEnd = SimulatedFrontEnd(guest, number: 51728)
        server = try SharedXenServer(guest)
        backEnd = try Child("/proc/self/exe", ["agent", "ring"] + arguments, inherited: server.descriptors.all)
        close(server.descriptors.calls)
        let thread = try start { [server] in server.run() }
        pthread_detach(thread)
        do {
            try frontEnd.connect()
        } catch {
            backEnd.kill(SIGKILL)
            throw Failure(.system, "a backend", "\(error); it said: \(backEnd.wait(limit: 5).errors)")
        }
        let slots = frontEnd.connection.map { $0.ring.entries } ?? 0
        pages = try (0..<slots).map { [guest] _ in try guest.allocatePages(Self.largestRequest + 1) }
        references = pages.map { [guest] in $0.map { guest.grant($0) } }
        let noise = BlockSource()
        noise.bytes.withUnsafeBytes { noise in
            for page in pages.joined() { page.pointer.copyMemory(from: noise.baseAddress ?? UnsafeRawPointer(page.pointer), byteCount: blockSize) }
        }
    }

    /// Requests that the ring has room for.
    var depth: Int { pages.count }

    /// Unplugs the disk, and waits until its process has written all of it and ended.
    func unplug() throws {
        // The guest lets go first: a backend that has to ask it waits a while for requests that may still come.
        try frontEnd.disconnect()
        backEnd.kill(SIGTERM)
        let outcome = backEnd.wait(limit: 120)
        guard outcome.status == 0 else { throw Failure(.system, "a backend", outcome.errors) }
    }

    enum Action {
        case read, write
        /// A write, then a flush, one at a time.
        case flushedWrite
    }

    /// Goes over the disk once. `shape.threads`: requests on the ring at a time.
    func run(_ action: Action, generation: UInt64, _ shape: Shape) throws -> Run {
        try Meter.counting { try runUncounted(action, generation: generation, shape) }
    }

    private func runUncounted(_ action: Action, generation: UInt64, _ shape: Shape) throws -> Run {
        guard let connection = frontEnd.connection else { throw Failure(.system, "ring", "not connected") }
        var state = RingState(starts: shape.starts(), free: Array(0..<min(depth, shape.threads)))
        let begin = seconds()
        while state.answered < state.starts.count {
            while state.posted < state.starts.count, let slot = state.free.popLast() {
                post(action, slot, state.starts[state.posted], generation, shape.requestBlocks, on: connection)
                state.begun[slot] = (nanoseconds(), state.starts[state.posted])
                state.posted += 1
            }
            if connection.ring.pushRequests() { wake() }
            var isIdle = true
            while let response = try connection.ring.nextResponse() {
                isIdle = false
                try take(response, action, generation, shape.requestBlocks, &state)
            }
            if isIdle, try !connection.ring.finalCheckForResponses() { try wait() }
        }
        return Run(seconds: seconds() - begin, byteCount: shape.byteCount, latencies: state.latencies)
    }

    private struct RingState {
        let starts: [UInt64]
        var free: [Int]
        var posted = 0, answered = 0
        /// When the request in a slot was begun, and its first block.
        var begun = [(UInt64, UInt64)](repeating: (0, 0), count: 512)
        var latencies = Histogram<UInt64>.ofLatencies()

        init(starts: [UInt64], free: [Int]) {
            self.starts = starts
            self.free = free
        }
    }

    /// Distinguishes the flush from the write that it follows.
    private static let flushBit: UInt64 = 1 << 32

    private func post(
        _ action: Action, _ slot: Int, _ block: UInt64, _ generation: UInt64, _ requestBlocks: Int, on connection: RingConnection
    ) {
        var request = Request()
        request.id = UInt64(slot)
        request.rawOperation = action == .read ? Operation.read.rawValue : Operation.write.rawValue
        request.sector = block * UInt64(sectorsPerBlock)
        let segments = (0..<requestBlocks).map { index in
            Segment(gref: references[slot][index], firstSector: 0, lastSector: UInt8(sectorsPerBlock - 1))
        }
        if action != .read {
            for index in 0..<requestBlocks { BlockSource.mark(pages[slot][index].pointer, as: generation << 40 | block + UInt64(index)) }
        }
        if requestBlocks > maximumDirectSegments {
            request.makeIndirect(segments, in: pages[slot][Self.largestRequest], references[slot][Self.largestRequest])
        } else {
            request.segmentCount = UInt8(requestBlocks)
            for index in 0..<requestBlocks { request.segments[index] = segments[index] }
        }
        precondition(connection.ring.post(request), "a slot is free, and the ring is full")
    }

    private func take(
        _ response: Response, _ action: Action, _ generation: UInt64, _ requestBlocks: Int, _ state: inout RingState
    ) throws {
        guard response.status == .okay else { throw Failure(.system, "ring", "a request failed") }
        let slot = Int(response.id & ~Self.flushBit)
        if action == .flushedWrite, response.id & Self.flushBit == 0 {
            var flush = Request()
            flush.id = response.id | Self.flushBit
            flush.rawOperation = Operation.flush.rawValue
            precondition(frontEnd.connection?.ring.post(flush) == true, "no room for a flush")
            return
        }
        let (begun, block) = state.begun[slot]
        if action == .read {
            for index in 0..<requestBlocks
            where pages[slot][index].pointer.load(as: UInt64.self) != BlockSource.word(generation << 40 | block + UInt64(index)) {
                throw Failure(.damage, "read of block \(block)", "it is not what was written")
            }
        }
        state.latencies.record(nanoseconds() - begun)
        state.free.append(slot)
        state.answered += 1
    }

    private func wake() {
        var one: UInt64 = 1
        _ = Glibc.write(server.events, &one, 8)
    }

    private func wait() throws {
        var request = pollfd(fd: guest.xen.eventDescriptor, events: Int16(POLLIN), revents: 0)
        guard poll(&request, 1, 20_000) > 0 else { throw Failure(.system, "ring", "no answer in 20 seconds") }
        var count: UInt64 = 0
        _ = Glibc.read(guest.xen.eventDescriptor, &count, 8)
    }
}
