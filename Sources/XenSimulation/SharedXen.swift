import CXen
import Glibc
import Synchronization
public import System
public import XenBus

/// A view of a `SimulatedMachine` that another process has, as `SimulatedXen` is one within that process. Its grant copies and
/// events cost what they cost without a hypervisor in between.
///
/// It is for benchmarks, and for processes that tests kill. It knows one guest's grants at most, and looks each up once: it does not see that
/// a grant was taken back.
@safe public final class SharedXen: XenHost, @unchecked Sendable {
    fileprivate let descriptors: SharedDescriptors
    private let memory: SimulatedMemory
    /// For each grant reference the page's number and one, once it was looked up; else 0. Threads that look one up at the same time find the
    /// same.
    private let pages: UnsafeMutablePointer<Atomic<UInt32>>
    /// Calls of several threads take turns: the answer to one comes before the next.
    private let turn = Mutex(())
    /// Event channels, by their place in `descriptors`, that no `SharedChannel` has.
    private let free: Mutex<[Int]>

    public var storeDescriptor: Int32 { descriptors.store }

    /// Joins the machine. The descriptors stay the caller's.
    public init(_ descriptors: SharedDescriptors) throws(Failure) {
        self.descriptors = descriptors
        memory = try SimulatedMemory(file: descriptors.memory)
        unsafe pages = .allocate(capacity: Self.referenceLimit)
        for index in 0..<Self.referenceLimit { unsafe (pages + index).initialize(to: Atomic(0)) }
        free = Mutex(Array(descriptors.events.indices))
    }

    deinit { unsafe pages.deallocate() }

    /// Asks the other process. Nil: there is none.
    fileprivate func ask(_ call: SharedCall, _ fields: [[UInt8]] = []) throws(Failure) -> SharedMessage? {
        let answer = try turn.withLock { _ throws(Failure) in
            try SharedMessage(call.rawValue, fields).send(to: descriptors.calls)
            return SharedMessage.receive(from: descriptors.calls)
        }
        guard let answer else {
            throw Failure(.system, "call", "the process that has the simulated machine", "it is gone")
        }
        if answer.code == 2 { throw Failure(.system, .named(answer.text(0)), answer.text(1)) }
        return answer.code == 0 ? answer : nil
    }

    // MARK: Xenstore

    public func read(_ path: String, in transaction: XenstoreTransaction) throws(Failure) -> [UInt8]? {
        try ask(.read, [field(path), field(transaction.number)])?.fields.first
    }
    public func write(_ path: String, _ value: [UInt8], in transaction: XenstoreTransaction) throws(Failure) {
        _ = try ask(.write, [field(path), field(transaction.number), value])
    }
    public func makeDirectory(_ path: String, in transaction: XenstoreTransaction) throws(Failure) {
        _ = try ask(.makeDirectory, [field(path), field(transaction.number)])
    }
    public func remove(_ path: String, in transaction: XenstoreTransaction) throws(Failure) {
        _ = try ask(.remove, [field(path), field(transaction.number)])
    }
    public func list(_ path: String, in transaction: XenstoreTransaction) throws(Failure) -> [String]? {
        try ask(.list, [field(path), field(transaction.number)])?.fields.map { String(decoding: $0, as: UTF8.self) }
    }
    public func setPermissions(
        _ path: String, owner: DomainID, readers: [DomainID], in transaction: XenstoreTransaction
    ) throws(Failure) {
        _ = try ask(.setPermissions, [field(path), field(transaction.number), field(owner)] + readers.map { field($0) })
    }
    public func watch(_ path: String, token: String) throws(Failure) { _ = try ask(.watch, [field(path), field(token)]) }
    public func unwatch(_ path: String, token: String) throws(Failure) { _ = try ask(.unwatch, [field(path), field(token)]) }
    public func nextWatchEvent() throws(Failure) -> WatchEvent? {
        try ask(.nextWatchEvent).map { WatchEvent(path: $0.text(0), token: $0.text(1)) }
    }
    // When the process that has the machine can't be asked, there is no domain any more.
    public func isIntroduced(_ domain: DomainID) -> Bool { (try? ask(.isIntroduced, [field(domain)])) != nil }
    public func beginTransaction() throws(Failure) -> XenstoreTransaction {
        XenstoreTransaction(number: UInt32(truncatingIfNeeded: try ask(.beginTransaction)?.number(0) ?? 0))
    }
    public func endTransaction(_ transaction: XenstoreTransaction, commit: Bool) throws(Failure) -> Bool {
        try ask(.endTransaction, [field(transaction.number), field(commit ? 1 : 0)]) != nil
    }

    // MARK: Event channels

    /// One of those that were inherited. Throws `.noSpace` when all are taken.
    public func openChannels() throws(Failure) -> SharedChannel {
        guard let index = free.withLock({ $0.popLast() }) else {
            throw Failure(.noSpace, "open", "event channels", "all \(descriptors.events.count) that were inherited are taken")
        }
        return SharedChannel(self, index)
    }

    fileprivate func giveBack(_ index: Int) { free.withLock { $0.append(index) } }

    // MARK: Grants

    private func page(_ reference: GrantReference, of domain: DomainID) throws(Failure) -> Int? {
        let index = Int(reference)
        guard index < Self.referenceLimit else { return nil }
        let known = unsafe pages[index].load(ordering: .relaxed)
        if known > 0 { return Int(known) - 1 }
        guard let found = try ask(.findPages, [field(domain), field(reference)]) else { return nil }
        for offset in found.fields.indices where !found.fields[offset].isEmpty {
            let page = found.number(offset)
            if page >= 0, page < memory.pageCount, index + offset < Self.referenceLimit {
                unsafe pages[index + offset].store(UInt32(page + 1), ordering: .relaxed)
            }
        }
        let looked = unsafe pages[index].load(ordering: .relaxed)
        return looked > 0 ? Int(looked) - 1 : nil
    }

    /// Grant references that the table has room for: the guest's beyond it are taken for none.
    private static let referenceLimit = 1 << 18

    @unsafe public func mapPages(of domain: DomainID, _ references: [GrantReference]) throws(Failure) -> UnsafeMutableRawPointer {
        let what: Subject = "\(references.count) page(s) of domain \(domain)"
        var found: [Int] = []
        for reference in references {
            guard let page = try page(reference, of: domain) else { throw Failure(.system, "map", what, "grant \(reference) is none of ours") }
            found.append(page)
        }
        guard let mapped = unsafe memory.map(found) else { throw Failure(.system, "map", what, systemError(errno)) }
        return unsafe mapped
    }

    @unsafe public func unmapPages(_ pages: UnsafeMutableRawPointer, count: Int) { _ = unsafe munmap(pages, count * xenPageSize) }

    public func perform(_ batch: inout GrantCopyBatch) throws(Failure) {
        for index in 0..<batch.count {
            unsafe batch.segments[index].status = Int16(try copy(batch.segments[index], isLent: batch.isFromLentMemory))
        }
    }

    /// Does one copy, and returns its GNTST status.
    @unsafe private func copy(_ segment: xengnttab_grant_copy_segment_t, isLent: Bool) throws(Failure) -> Int32 {
        let foreign = unsafe segment.foreignSide
        guard foreign.range.upperBound <= xenPageSize, let page = try page(foreign.reference, of: foreign.domain), let local = unsafe segment.localSide
        else { return GNTST_bad_gntref }
        guard unsafe memory.copy(segment, local, page: page, isLent: isLent) else {
            throw Failure(.system, "copy to", "granted pages", systemError(EFAULT))
        }
        return GNTST_okay
    }
}

/// An event channel of a `SharedXen`, for one thread: a bit in an eventfd of its own.
public final class SharedChannel: EventChannels, Sendable {
    private let xen: SharedXen
    private let index: Int
    /// 0: it is not bound.
    private let port = Atomic<EventPort>(0)

    public var eventDescriptor: Int32 { xen.descriptors.events[index] }

    fileprivate init(_ xen: SharedXen, _ index: Int) {
        self.xen = xen
        self.index = index
    }

    deinit { xen.giveBack(index) }

    public func bindInterdomain(_ domain: DomainID, remotePort: EventPort) throws(Failure) -> EventPort {
        let answer = try xen.ask(.bind, [field(domain), field(remotePort), field(index)])
        let port = EventPort(truncatingIfNeeded: answer?.number(0) ?? 0)
        self.port.store(port, ordering: .relaxed)
        return port
    }
    public func unbind(_ port: EventPort) {
        // When the other process can't be asked, the channel has ended with it.
        _ = try? xen.ask(.unbind, [field(port), field(index)])
        self.port.store(0, ordering: .relaxed)
    }
    public func notify(_ port: EventPort) throws(Failure) { _ = eventfd_write(xen.descriptors.guestEvents, 1) }
    public func pendingEvent() throws(Failure) -> EventPort? {
        var count: eventfd_t = 0
        let port = port.load(ordering: .relaxed)
        return unsafe eventfd_read(eventDescriptor, &count) == 0 && port > 0 ? port : nil
    }
    public func unmask(_ port: EventPort) throws(Failure) {}
}
