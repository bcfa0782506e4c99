import Blkif
import Glibc
import Synchronization
import System
import Testing

@Suite struct BackRingTests {
    @Test(arguments: [ABI.x86_64, .x86_32]) func fullRingTakesNoMore(_ abi: ABI) throws {
        let memory = RingMemory()
        let front = try OurFront(memory, abi), back = try OurBack(memory, abi)
        for id in 0..<32 { #expect(front.post(.transfer(.read, id: UInt64(id)))) }
        #expect(!front.post(.transfer(.read)))
        #expect(try back.unconsumed() == 0, "not pushed yet")
        #expect(front.push())
        var requests: [Request] = []
        while let request = try back.nextRequest() { requests.append(request) }
        #expect(requests.map(\.id) == (0..<32).map { UInt64($0) })
        #expect(back.unanswered == 32)
        for request in requests { #expect(back.respond(to: request)) }
        #expect(!back.respond(to: requests[0]), "a response without a request")
        #expect(try front.nextResponse() == nil, "not pushed yet")
        #expect(back.push())
        for id in 0..<32 {
            #expect(try front.nextResponse() == Response(id: UInt64(id), rawOperation: 0, rawStatus: 0))
        }
        #expect(try front.nextResponse() == nil)
        #expect(front.freeSlots == 32)
    }

    /// More requests than slots, and a producer that goes back, end in an error at every entry point.
    @Test(arguments: [33, 34, 1000, 1 << 31, UInt32.max, UInt32.max - 40, 4, 0]) func producerOutOfBounds(_ producer: UInt32) throws {
        let memory = RingMemory()
        let front = try OurFront(memory, .x86_64), back = try OurBack(memory, .x86_64)
        for id in 0..<5 { #expect(front.post(.transfer(.read, id: UInt64(id)))) }
        _ = front.push()
        for _ in 0..<5 { _ = try back.nextRequest() }
        front.setRequestProducer(producer)
        #expect(throws: Failure.self) { try back.unconsumed() }
        #expect(throws: Failure.self) { try back.nextRequest() }
        #expect(throws: Failure.self) { try back.finalCheck() }
        #expect(back.unanswered == 5)
        // The largest that is right.
        front.setRequestProducer(32)
        #expect(try back.unconsumed() == 27)
    }

    /// The slots of requests without an answer are not free, whatever `req_prod` says.
    @Test func takenSlotsAreNotTakenAgain() throws {
        let memory = RingMemory()
        let front = try OurFront(memory, .x86_64), back = try OurBack(memory, .x86_64)
        front.setRequestProducer(32)
        for _ in 0..<32 { #expect(try back.nextRequest() != nil) }
        front.setRequestProducer(33)
        #expect(throws: Failure.self) { try back.nextRequest() }
        #expect(back.respond(to: Request()))
        // Answered, though not shown: one more is what an eager frontend could post.
        #expect(try back.nextRequest() != nil)
    }

    @Test func copiesDoNotFollowTheSlot() throws {
        let memory = RingMemory()
        let front = try OurFront(memory, .x86_64), back = try OurBack(memory, .x86_64)
        let posted = Request.transfer(.write, id: 42, sector: 8, pages: 11)
        #expect(front.post(posted))
        _ = front.push()
        let taken = try #require(try back.nextRequest())
        front.writeSlot(0, [UInt8](repeating: 0xFF, count: 112))
        #expect(taken.fields == posted.fields)
    }

    /// Another thread rewrites the slot all the time: what was taken stays what it is, and is judged as it stays.
    @Test func doubleFetch() throws {
        let memory = RingMemory()
        let front = try OurFront(memory, .x86_64), back = try OurBack(memory, .x86_64)
        let stop = Atomic(false)
        try withThread({
            var count: UInt8 = 0
            while !stop.load(ordering: .relaxed) {
                count &+= 1
                for slot in 0..<32 {
                    memory[64 + slot * 112 + 1] = count
                    memory[64 + slot * 112 + 24 + 5] = count
                }
            }
        }) {
            defer { stop.store(true, ordering: .relaxed) }
            for round in 0..<400 {
                while front.post(.transfer(.read, id: UInt64(round))) {}
                _ = front.push()
                while let request = try back.nextRequest() {
                    let before = request.fields
                    let verdict = try? request.validate(diskSectors: 88, readOnly: false, maxIndirect: 0)
                    #expect((1...11).contains(request.segmentCount) || verdict == nil)
                    #expect(request.segments[0].isValid || verdict == nil)
                    #expect(request.fields == before)
                    #expect(back.respond(to: request))
                }
                _ = back.push()
                while try front.nextResponse() != nil {}
            }
        }
    }

    @Test(arguments: [ABI.x86_64, .x86_32]) func responsesHideNothing(_ abi: ABI) throws {
        let memory = RingMemory(filling: 0xFF)
        let front = try OurFront(memory, abi), back = try OurBack(memory, abi)
        front.writeSlot(0, [0] + [UInt8](repeating: 0xFF, count: 111))
        front.setRequestProducer(1)
        let request = try #require(try back.nextRequest())
        #expect(request.id == .max)
        #expect(back.respond(to: request, .error))
        let wanted: [UInt8] = [UInt8](repeating: 0xFF, count: 8) + [0, 0, 0xFF, 0xFF] + (abi == .x86_32 ? [] : [0, 0, 0, 0])
        #expect(Array(memory.slot(0, abi).prefix(abi.responseByteCount)) == wanted)
        // The rest of the slot is the frontend's own.
        #expect(memory.slot(0, abi).dropFirst(abi.responseByteCount).allSatisfy { $0 == 0xFF })
    }

    /// A backend that dies between taking and answering: its successor gets the rest, once.
    @Test(arguments: [0, UInt32.max - 3]) func resuming(_ start: UInt32) throws {
        let memory = RingMemory()
        memory.wind(to: start)
        let front = try OurFront(memory, .x86_64, at: start)
        let first = try OurBack(memory, .x86_64, at: start)
        for id in 0..<10 { #expect(front.post(.transfer(.read, id: UInt64(id)))) }
        _ = front.push()
        var taken: [Request] = []
        for _ in 0..<6 { taken.append(try #require(try first.nextRequest())) }
        for request in taken[..<4] { #expect(first.respond(to: request)) }
        _ = first.push()
        let second = try OurBack(memory, .x86_64, at: start)
        #expect(try second.unconsumed() == 6)
        var ids: [UInt64] = []
        while let request = try second.nextRequest() {
            ids.append(request.id)
            #expect(second.respond(to: request))
        }
        _ = second.push()
        #expect(ids == [4, 5, 6, 7, 8, 9])
        var answers: [UInt64] = []
        while let response = try front.nextResponse() { answers.append(response.id) }
        #expect(answers == (0..<10).map { UInt64($0) })
    }

    @Test func resumingABrokenRingFails() throws {
        let memory = RingMemory()
        let front = try OurFront(memory, .x86_64)
        for producer in [33, UInt32.max] {
            front.setRequestProducer(producer)
            #expect(throws: Failure.self) { try OurBack(memory, .x86_64, at: 0) }
        }
    }

    /// Events as asked for: only when the other end's threshold is crossed by this push.
    @Test func eventThresholds() throws {
        let memory = RingMemory()
        let front = try OurFront(memory, .x86_64), back = try OurBack(memory, .x86_64)
        #expect(front.post(.transfer(.read)))
        #expect(front.push(), "req_event starts at 1")
        #expect(!front.push(), "nothing new")
        #expect(front.post(.transfer(.read)))
        #expect(!front.push(), "the backend is awake")
        for _ in 0..<2 { _ = try back.nextRequest() }
        #expect(try !back.finalCheck())
        #expect(front.post(.transfer(.read)))
        #expect(front.push(), "it went to sleep")
        #expect(try back.finalCheck())

        front.setResponseEvent(3)
        for expected in [false, false] {
            #expect(back.respond(to: Request()))
            #expect(back.push() == expected)
        }
        _ = try back.nextRequest()
        #expect(back.respond(to: Request()))
        #expect(back.push(), "the third response was asked for")
    }

    /// Two threads that sleep until an event comes, which is sent only when the ring says so: no wake-up is lost.
    @Test(arguments: [ABI.x86_64, .x86_32], [0, 2]) func noWakeUpIsLost(_ abi: ABI, order: Int) throws {
        let memory = RingMemory(order: order)
        let front = try OurFront(memory, abi), back = try OurBack(memory, abi)
        let toBack = try Event(), toFront = try Event()
        let total: UInt64 = 100_000
        try withThread({
            var served: UInt64 = 0
            while served < total {
                do {
                    while let request = try back.nextRequest() {
                        _ = back.respond(to: request)
                        served += 1
                        // Sometimes one by one, sometimes a batch.
                        if served % 7 == 0, back.push() { toFront.signal() }
                    }
                    if back.push() { toFront.signal() }
                    if try !back.finalCheck(), served < total, !toBack.wait() {
                        Issue.record("no event for the backend, \(served) served")
                        return
                    }
                } catch {
                    Issue.record(error)
                    return
                }
            }
        }) {
            var posted: UInt64 = 0, answered: UInt64 = 0
            while answered < total {
                while posted < total, front.post(.transfer(.read, id: posted)) {
                    posted += 1
                    if posted % 5 == 0, front.push() { toBack.signal() }
                }
                if front.push() { toBack.signal() }
                while let response = try front.nextResponse() {
                    try #require(response.id == answered)
                    answered += 1
                }
                let mayPost = posted < total && front.freeSlots > 0
                if answered < total, !mayPost, try !front.finalCheck() {
                    try #require(toFront.wait(), "no event for \(answered) of \(posted)")
                }
            }
        }
    }
}

/// An event channel: signals that nobody waits for are one.
private final class Event: Sendable {
    private let reader, writer: Int32

    init() throws {
        var ends: [Int32] = [-1, -1]
        try #require(unsafe pipe(&ends) == 0)
        (reader, writer) = (ends[0], ends[1])
    }

    deinit {
        close(reader)
        close(writer)
    }

    func signal() {
        var byte: UInt8 = 1
        unsafe _ = write(writer, &byte, 1)
    }

    /// False when nothing came for two minutes: an event was lost.
    func wait() -> Bool {
        var polled = pollfd(fd: reader, events: Int16(POLLIN), revents: 0)
        guard unsafe poll(&polled, 1, 120_000) == 1 else { return false }
        var bytes = [UInt8](repeating: 0, count: 4096)
        return unsafe read(reader, &bytes, bytes.count) > 0
    }
}

/// Runs `other` on a thread of its own for as long as `body` takes, and until it ends by itself.
private func withThread(_ other: @escaping () -> Void, _ body: () throws -> Void) throws {
    let context = unsafe Unmanaged.passRetained(ThreadBody(other))
    var thread = pthread_t()
    let started = unsafe pthread_create(
        &thread, nil,
        { context in
            unsafe context.map { unsafe Unmanaged<ThreadBody>.fromOpaque($0).takeRetainedValue() }?.run()
            return nil
        }, context.toOpaque())
    try #require(started == 0)
    defer { pthread_join(thread, nil) }
    try body()
}

private final class ThreadBody {
    let run: () -> Void
    init(_ run: @escaping () -> Void) { self.run = run }
}
