import Activity
import Blkif
import BlockModel
import System
import XenBus

/// A connected ring and the disk behind it: takes requests, does them, answers in the order of requests.
///
/// 1. Requests are taken, copied out of the ring once, up to a bound. One grant copy brings the segments of all indirect ones.
///    They are checked.
/// 2. One grant copy brings the data of all writes into private memory.
/// 3. Requests are done in order. Neighbours on the ring that are neighbours on the disk are done as one, and writes that
///    follow one on the other are given to the disk together.
/// 4. One grant copy takes the data of all reads to the guest. When they are one read, it takes them from where the disk has
///    them in memory, if it has.
/// 5. Each request is answered.
///
/// That answers come in order lets a successor go on after this process was killed: see `ResponseRecord`. A disk with
/// several queues has a server for each, and a thread: see `QueueThread`.
@safe struct RingServer<Host: XenHost, Device: BlockDevice>: ~Copyable {
    private let device: Device
    private let domain: DomainID
    private let mapping: GrantMapping<Host>
    private let channels: Host.Channels
    private let channel: EventChannel<Host.Channels>
    private let host: Host
    private let counts: RequestCounts
    private var ring: BackRing
    private let record: ResponseRecord
    /// Index of the next response on the ring.
    private var responseIndex: UInt32

    /// The data of a batch, request after request.
    private let buffer: UnsafeMutableRawPointer
    private var filledByteCount = 0
    private var copiesIn: GrantCopyBatch
    private var copiesOut: GrantCopyBatch
    private var arrivals: [Arrival] = []
    private var jobs: [Job] = []
    /// The ranges of those among them that read.
    private var expected: [SectorRange] = []
    /// Writes among them that come one directly after the other.
    private var parts: [WritePart] = []
    /// The last `serve` found more than one request: the guest does not wait for each answer.
    private(set) var isDeep = false
    /// The segments of the indirect request at hand.
    private var segments = Array(
        repeating: Segment(gref: 0, firstSector: 0, lastSector: 0), count: maximumIndirectSegments)
    /// Private copies of the segments of all indirect requests of a batch, as they came, and the copies that bring them.
    private let segmentTables: UnsafeMutableRawPointer
    private var segmentCopies: GrantCopyBatch

    /// Connects to the ring that the frontend offers. `resuming`: a predecessor stopped while it served it.
    init(
        _ host: Host, _ device: Device, domain: DomainID, _ queue: FrontendOffer.Queue, _ abi: ABI, resuming: Bool, _ counts: RequestCounts
    ) throws(Failure) {
        let mapping = try GrantMapping(host, domain: domain, references: queue.references)
        let channels = try host.openChannels()
        let channel = try EventChannel(channels, domain: domain, remotePort: queue.eventChannel)
        // The mapping lives as long as what uses it.
        let page = unsafe mapping.pointer
        // The ring's `rsp_prod` (xen/io/ring.h).
        let responses = unsafe page.load(fromByteOffset: 8, as: UInt32.self)
        let ring = unsafe try Self.ring(page, mapping.byteCount, abi, resuming: resuming)
        unsafe record = ResponseRecord(ring: page)
        responseIndex = resuming ? responses : 0
        unsafe buffer = .allocate(byteCount: bufferByteCount, alignment: xenPageSize)
        unsafe segmentTables = .allocate(byteCount: segmentBudget * segmentByteCount, alignment: xenPageSize)
        segmentCopies = GrantCopyBatch(capacity: ring.entries)
        copiesIn = GrantCopyBatch(capacity: segmentBudget)
        copiesOut = GrantCopyBatch(capacity: segmentBudget)
        arrivals.reserveCapacity(ring.entries)
        jobs.reserveCapacity(ring.entries)
        parts.reserveCapacity(ring.entries)
        self.mapping = mapping
        self.channels = channels
        self.channel = channel
        self.ring = ring
        self.host = host
        self.counts = counts
        self.device = device
        self.domain = domain
    }

    @unsafe private static func ring(
        _ page: UnsafeMutableRawPointer, _ byteCount: Int, _ abi: ABI, resuming: Bool
    ) throws(Failure) -> BackRing {
        if resuming { return unsafe try BackRing(resuming: page, byteCount: byteCount, abi: abi) }
        return unsafe try BackRing(page: page, byteCount: byteCount, abi: abi)
    }

    deinit {
        unsafe buffer.deallocate()
        unsafe segmentTables.deallocate()
    }

    /// Readable when an event waits.
    var eventDescriptor: Int32 { channels.eventDescriptor }

    /// Takes the event that has made `eventDescriptor` readable, so that another one can come. Whoever calls looks for requests
    /// whether or not there was one.
    func acceptEvent() throws(Failure) {
        if try channels.pendingEvent() != nil { try channel.unmask() }
    }

    /// Does what the guest has asked for, up to a bound. True: there may be more to do.
    /// - Parameter isLettingGo: asked for a request that was waiting for room in the store when it might wait no longer. True: it stays on the ring, with
    ///   all behind it, for the next process. False: it fails.
    /// - Throws: when the ring is broken, or Xen can't be used.
    mutating func serve(_ log: LogLimiter, isLettingGo: () -> Bool) throws(Failure) -> Bool {
        isDeep = false
        for batch in 0..<batchesPerCall {
            try collect(log)
            if jobs.isEmpty { return false }
            if batch > 0 || jobs.count > 1 { isDeep = true }
            let work = self.work()
            let began = counts.activity.begin(work.count)
            var isAnswered = false
            defer { if isAnswered { counts.activity.end(work, since: began) } else { counts.activity.abandon(work.count) } }
            try host.perform(&copiesIn)
            if !performLent() {
                performJobs(log)
                try host.perform(&copiesOut)
            }
            isAnswered = try respond(log, isLettingGo)
            if !isAnswered { return true }
        }
        return true
    }

    /// What is in the batch, but for what was refused.
    private func work() -> Activity.Work {
        var work = Activity.Work()
        for job in jobs {
            switch job.operation {
            case .read: work.add(.read, byteCount: UInt64(job.byteCount))
            case .write: work.add(.write, byteCount: UInt64(job.byteCount))
            case .flush, .barrier: work.add(.flush, byteCount: UInt64(job.byteCount))
            case .discard: work.add(.discard, byteCount: job.sectorCount * UInt64(sectorSize))
            case .indirect, nil: break
            }
        }
        return work
    }

    /// Whether there are requests to `serve`.
    func hasRequests() throws(Failure) -> Bool { try ring.unconsumedRequests() > 0 }

    /// To be called before waiting for an event. True: there are requests. False: the next one comes with an event.
    mutating func armEvent() throws(Failure) -> Bool { try ring.finalCheckForRequests() }

    // MARK: Taking requests

    private mutating func collect(_ log: LogLimiter) throws(Failure) {
        jobs.removeAll(keepingCapacity: true)
        copiesIn.removeAll()
        copiesOut.removeAll()
        filledByteCount = 0
        try take()
        try host.perform(&segmentCopies)
        for index in arrivals.indices {
            let request = arrivals[index].request
            do throws(Rejection) {
                try admit(request, arrivals[index])
            } catch {
                counts.countRefused()
                log("request \(request.rawOperation) of domain \(domain) at sector \(request.sector) refused: \(error)")
                jobs.append(
                    Job(
                        id: request.id, rawOperation: request.responseOperation, sector: request.sector, sectorCount: 0,
                        status: error.status))
            }
        }
    }

    /// Takes as many requests as their data has room for, and has the segments of the indirect ones copied. Each slot, and each page of
    /// segments, is copied once: what is checked afterwards is the copy, which the guest can't change.
    private mutating func take() throws(Failure) {
        arrivals.removeAll(keepingCapacity: true)
        segmentCopies.removeAll()
        var reserved = 0
        while arrivals.count < ring.entries, segmentBudget - reserved >= maximumIndirectSegments, let request = try ring.nextRequest() {
            var arrival = Arrival(request: request)
            let isIndirect = request.operation == .indirect
            let count = Int(isIndirect ? request.indirectSegmentCount : UInt16(request.segmentCount))
            if isIndirect, (1...maximumIndirectSegments).contains(count) {
                arrival.tableOffset = reserved * segmentByteCount
                arrival.tableCopy = segmentCopies.count
                unsafe segmentCopies.copy(
                    from: request.indirectGrefs[0], of: domain, offset: 0, byteCount: UInt16(count * segmentByteCount),
                    to: segmentTables + arrival.tableOffset)
            }
            // A request with more is refused.
            reserved += min(count, maximumIndirectSegments)
            arrivals.append(arrival)
        }
    }

    /// Decodes the `count` segments of an indirect request. False: they could not be copied.
    private mutating func decodeSegments(of arrival: Arrival, _ count: Int) -> Bool {
        guard let copy = arrival.tableCopy, segmentCopies.succeeded(copy) else { return false }
        let table = unsafe RawSpan(_unsafeStart: segmentTables + arrival.tableOffset, byteCount: count * segmentByteCount)
        var span = segments.mutableSpan
        return Segment.decode(indirectPage: table, into: &span, from: 0) == count
    }

    private mutating func admit(_ request: Request, _ arrival: Arrival) throws(Rejection) {
        var range = try request.validate(
            diskSectors: device.sectorCount, readOnly: device.isReadOnly, maxIndirect: maximumIndirectSegments)
        // `discard-secure` is 0.
        if request.operation == .discard, request.discardFlag & 1 != 0 { throw .unknownOperation }
        let isIndirect = request.operation == .indirect
        let count = Int(isIndirect ? request.indirectSegmentCount : UInt16(request.segmentCount))
        if isIndirect {
            guard decodeSegments(of: arrival, count) else { throw .segmentBounds }
            range = try Segment.range(
                of: segments.span.extracting(first: count), at: request.sector, diskSectors: device.sectorCount)
        }
        var job = Job(
            id: request.id, rawOperation: request.responseOperation, operation: request.effectiveOperation,
            sector: request.sector, sectorCount: range?.count ?? 0, offset: filledByteCount)
        if job.byteCount > 0 {
            let isRead = job.operation == .read
            let first = isRead ? copiesOut.count : copiesIn.count
            for index in 0..<count { addCopy(of: isIndirect ? segments[index] : request.segments[index], toGuest: isRead) }
            job.copies = first..<(isRead ? copiesOut.count : copiesIn.count)
        }
        jobs.append(job)
    }

    /// Adds the copy of a valid segment, behind those before it.
    private mutating func addCopy(of segment: Segment, toGuest: Bool) {
        let offset = UInt16(segment.firstSector) * UInt16(sectorSize)
        let byteCount = UInt16(segment.sectorCount * sectorSize)
        // `take` has left room for all segments of each request.
        let local = unsafe buffer + filledByteCount
        if toGuest {
            unsafe copiesOut.copy(local, to: segment.gref, of: domain, offset: offset, byteCount: byteCount)
        } else {
            unsafe copiesIn.copy(from: segment.gref, of: domain, offset: offset, byteCount: byteCount, to: local)
        }
        filledByteCount += Int(byteCount)
    }

    // MARK: Doing them

    private mutating func performJobs(_ log: LogLimiter) {
        expectReads()
        for index in jobs.indices {
            guard let operation = jobs[index].operation, operation != .read, jobs[index].byteCount > 0 else { continue }
            if !copiesIn.succeeded(jobs[index].copies) { fail(index, "its pages are not granted", log) }
        }
        var index = 0
        while index < jobs.count {
            let end = gatherWrites(from: index)
            if parts.count > 1, writeTogether() {
                index = end
                continue
            }
            // Else run by run, so that only what can't be done fails.
            repeat {
                let run = run(from: index)
                perform(run, log)
                index = run.upperBound
            } while index < end
        }
    }

    /// Makes `parts` of the writes from `first` on, up to the first job that is none.
    /// - Returns: the index of that job.
    private mutating func gatherWrites(from first: Int) -> Int {
        parts.removeAll(keepingCapacity: true)
        var end = first
        while end < jobs.count, jobs[end].operation == .write {
            let run = run(from: end)
            parts.append(WritePart(sector: jobs[end].sector, range: jobs[end].offset..<jobs[run.upperBound - 1].dataEnd))
            end = run.upperBound
        }
        return end
    }

    private func writeTogether() -> Bool {
        // Private memory: what is hashed is what is stored.
        let bytes = unsafe RawSpan(_unsafeStart: buffer, byteCount: filledByteCount)
        // If it fails, each is written by itself, which tells what is wrong with which.
        return (try? device.write(parts.span, of: bytes)) != nil
    }

    /// Takes a batch that is one read, of however many requests, to the guest from where the disk has it. Nothing else: of a
    /// batch with writes, a read could show what came after it. False: it has to be done the ordinary way.
    private mutating func performLent() -> Bool {
        guard jobs[0].operation == .read, run(from: 0).count == jobs.count,
            let range = SectorRange(start: jobs[0].sector, count: jobs.reduce(0) { $0 + $1.sectorCount }), let lent = device.lend(range)
        else { return false }
        return withExtendedLifetime(lent) {
            unsafe copiesOut.takeFrom(lent.address, lent: true)
            // Else a page is not granted, or the lent memory is not there after all: the ordinary way tells which, and of which request.
            if (try? host.perform(&copiesOut)) != nil, copiesOut.succeeded(0..<copiesOut.count) { return true }
            unsafe copiesOut.takeFrom(buffer, lent: false)
            return false
        }
    }

    private mutating func expectReads() {
        expected.removeAll(keepingCapacity: true)
        for job in jobs where job.operation == .read {
            if let range = SectorRange(start: job.sector, count: job.sectorCount) { expected.append(range) }
        }
        if expected.count > 1 { device.expectReads(of: expected) }
    }

    /// The jobs from `first` on that are coalesced: of one kind, one behind the other in the buffer and on the disk.
    private func run(from first: Int) -> Range<Int> {
        let operation = jobs[first].operation
        guard operation == .read || operation == .write else { return first..<first + 1 }
        var end = first + 1
        var byteCount = jobs[first].byteCount
        while end < jobs.count, jobs[end].operation == operation, jobs[end].sector == jobs[end - 1].sector &+ jobs[end - 1].sectorCount,
            jobs[end].offset == jobs[end - 1].dataEnd, byteCount + jobs[end].byteCount <= largestTransfer
        {
            byteCount += jobs[end].byteCount
            end += 1
        }
        return first..<end
    }

    private mutating func perform(_ run: Range<Int>, _ log: LogLimiter) {
        let byteCount = run.reduce(0) { $0 + jobs[$1].byteCount }
        do throws(Failure) {
            try perform(jobs[run.lowerBound], byteCount: byteCount)
        } catch {
            if run.count > 1 {
                // Only the request that can't be done fails.
                for index in run { perform(index..<index + 1, log) }
            } else {
                jobs[run.lowerBound].isInterrupted = error.kind == .interrupted
                // Whether it fails, or stays on the ring, is decided when it is to be answered.
                if error.kind != .interrupted { fail(run.lowerBound, "\(error)", log) }
            }
        }
    }

    /// Does a job, together with those that follow it if `byteCount` is more than its own.
    private func perform(_ job: Job, byteCount: Int) throws(Failure) {
        switch job.operation {
        case .read:
            var bytes = unsafe MutableRawSpan(_unsafeStart: buffer + job.offset, byteCount: byteCount)
            try device.read(at: job.sector, into: &bytes)
        case .write:
            try write(job, byteCount)
        case .flush:
            try device.flush()
            if byteCount > 0 { try write(job, byteCount) }
        case .barrier:
            try device.flush()
            if byteCount > 0 {
                try write(job, byteCount)
                try device.flush()
            }
        case .discard:
            if let range = SectorRange(start: job.sector, count: job.sectorCount) { try device.discard(range) }
        case .indirect, nil:
            break
        }
    }

    private func write(_ job: Job, _ byteCount: Int) throws(Failure) {
        // Private memory: what is hashed is what is stored.
        try device.write(at: job.sector, unsafe RawSpan(_unsafeStart: buffer + job.offset, byteCount: byteCount))
    }

    private mutating func fail(_ index: Int, _ why: String, _ log: LogLimiter) {
        let job = jobs[index]
        if job.operation == .read {
            // Its part of the buffer is copied to the guest all the same, and must have nothing of others' data.
            unsafe (buffer + job.offset).initializeMemory(as: UInt8.self, repeating: 0, count: job.byteCount)
        } else {
            jobs[index].operation = nil
        }
        jobs[index].status = .error
        counts.countFailed()
        log("request \(job.rawOperation) of domain \(domain) at sector \(job.sector) failed: \(why)")
    }

    // MARK: Answering

    /// Answers the requests of the batch, in their order.
    /// - Returns: false: some are left on the ring, for the next process.
    private mutating func respond(_ log: LogLimiter, _ isLettingGo: () -> Bool) throws(Failure) -> Bool {
        var wantsEvent = false
        var isLeft = false
        for index in jobs.indices {
            if jobs[index].isInterrupted {
                isLeft = isLettingGo()
                if isLeft { break }
                fail(index, "it waited for room, and is waited for no longer", log)
            }
            if jobs[index].operation == .read, jobs[index].status == .okay, !copiesOut.succeeded(jobs[index].copies) {
                fail(index, "its pages are not granted", log)
            }
            let job = jobs[index]
            if respond(id: job.id, rawOperation: job.rawOperation, status: job.status) { wantsEvent = true }
        }
        if wantsEvent { try channel.notify() }
        return !isLeft
    }

    /// Shows each response by itself, so that the only one that can be half written is the recorded one.
    private mutating func respond(id: UInt64, rawOperation: UInt8, status: Status) -> Bool {
        record.set(index: responseIndex, id: id, rawOperation: rawOperation, status: status)
        ring.respond(id: id, rawOperation: rawOperation, status: status)
        responseIndex &+= 1
        return ring.pushResponses()
    }

    /// To be called first after resuming: writes the response that the predecessor was writing, and wakes the guest, as
    /// its last event may have been lost.
    mutating func finishRecordedResponse() throws(Failure) {
        if let response = record.response(at: responseIndex), try ring.nextRequest() != nil {
            _ = respond(id: response.id, rawOperation: response.rawOperation, status: response.status)
        }
        try channel.notify()
    }
}

/// A request of the current batch, as it was taken.
private struct Arrival {
    let request: Request
    /// Where the segments of an indirect request are, and which copy brings them; nil when it has none.
    var tableOffset = 0
    var tableCopy: Int?
}

/// A request of the current batch, checked.
private struct Job {
    let id: UInt64
    let rawOperation: UInt8
    /// What to do; nil for a request that has its status already.
    var operation: Operation?
    let sector: UInt64
    let sectorCount: UInt64
    /// Where its data is in the buffer.
    var offset = 0
    /// Its copies among those in or out.
    var copies = 0..<0
    var status = Status.okay
    /// It waited for room in the store when that was ended, and was not done.
    var isInterrupted = false

    /// Bytes of its data.
    var byteCount: Int { operation == .discard ? 0 : Int(sectorCount) * sectorSize }
    var dataEnd: Int { offset + byteCount }
}

/// Segments that an indirect request may have, which fit in one page of them.
let maximumIndirectSegments = 256
/// Bytes of a segment, in that page as in a slot.
private let segmentByteCount = 8
/// Bytes for the data of a batch, which bound what a batch of a large ring takes, and the segments that these are enough for.
private let bufferByteCount = 4 << 20
private let segmentBudget = bufferByteCount / xenPageSize
/// Most bytes that neighbouring requests are coalesced into.
private let largestTransfer = 1 << 20
/// After so many batches, orders and events get a look.
private let batchesPerCall = 4
