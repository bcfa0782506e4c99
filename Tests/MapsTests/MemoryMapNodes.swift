import Synchronization
import System

@testable import Maps

/// Nodes as they lie in a cluster: what was committed is never written over, and no number is used twice. What is done against that, fails.
struct MemoryMapNodes: MapNodes {
    /// Bytes that stay where they are.
    @safe final class Node: @unchecked Sendable {
        let bytes: UnsafeRawBufferPointer

        init(_ content: [UInt8]) {
            let room = UnsafeMutableRawBufferPointer.allocate(byteCount: content.count, alignment: 8)
            unsafe room.copyBytes(from: content)
            unsafe bytes = UnsafeRawBufferPointer(room)
        }

        deinit { unsafe bytes.deallocate() }
    }

    /// All that is committed.
    struct Content {
        fileprivate var nodes: [UInt64: Node] = [:]
        fileprivate var used: Set<UInt64> = []
        fileprivate var references: [UInt64: UInt32] = [:]
        fileprivate var detached: [DetachedNode] = []
    }

    struct Reading: ~Escapable {
        fileprivate let content: Content

        @_lifetime(immortal)
        fileprivate init(_ content: Content) { self.content = content }
    }

    struct Writing: ~Copyable {
        fileprivate var content: Content
        /// Nodes that were made here.
        fileprivate var own: Set<UInt64> = []
    }

    static let misuse = Failure(.invalidRequest, "map node", "it is not there to be written to")

    @_lifetime(copy reading)
    func bytes(of number: UInt64, _ reading: Reading) throws(Failure) -> RawSpan? {
        guard let node = reading.content.nodes[number] else { return nil }
        return unsafe _overrideLifetime(RawSpan(_unsafeBytes: node.bytes), copying: reading)
    }

    func expect(_ numbers: [UInt64], _ reading: Reading) {}
    func count(_ reading: Reading) throws(Failure) -> Int { reading.content.nodes.count }

    @_lifetime(borrow writing)
    func reading(_ writing: borrowing Writing) -> Reading { Reading(writing.content) }

    func isOwn(_ number: UInt64, _ writing: borrowing Writing) throws(Failure) -> Bool { writing.own.contains(number) }

    func add(_ number: UInt64, count: Int, _ writing: inout Writing, fill: (inout MutableRawSpan) -> Void) throws(Failure) {
        guard writing.content.used.insert(number).inserted else { throw Self.misuse }
        writing.own.insert(number)
        writing.content.nodes[number] = Node([UInt8](count: count, fill: fill))
    }

    func replace(_ number: UInt64, count: Int, _ writing: inout Writing, fill: (inout MutableRawSpan) -> Void) throws(Failure) {
        guard writing.own.contains(number) else { throw Self.misuse }
        writing.content.nodes[number] = Node([UInt8](count: count, fill: fill))
    }

    // MARK: References

    func sharedCount(_ reading: Reading) throws(Failure) -> Int { reading.content.references.count }

    func references(to number: UInt64, _ reading: Reading) throws(Failure) -> UInt32 {
        guard reading.content.nodes[number] != nil else { throw Self.misuse }
        return reading.content.references[number] ?? 1
    }

    func retain(_ number: UInt64, _ writing: inout Writing) throws(Failure) {
        guard writing.content.nodes[number] != nil else { throw Self.misuse }
        writing.content.references[number, default: 1] += 1
    }

    func release(_ number: UInt64, _ writing: inout Writing) throws(Failure) {
        guard writing.content.nodes[number] != nil else { throw Self.misuse }
        switch writing.content.references[number] {
        case nil:
            writing.content.nodes[number] = nil
            writing.own.remove(number)
        case 2: writing.content.references[number] = nil
        case let references?: writing.content.references[number] = references - 1
        }
    }

    func forEachShared(_ reading: Reading, _ body: (UInt64, UInt32) throws(Failure) -> Void) throws(Failure) {
        for (number, references) in reading.content.references { try body(number, references) }
    }

    func forgetShared(_ writing: inout Writing) throws(Failure) { writing.content.references = [:] }

    // MARK: Detached trees

    func detach(_ node: DetachedNode, _ writing: inout Writing) throws(Failure) {
        guard writing.content.nodes[node.number] != nil, writing.content.references[node.number] == nil, !writing.content.detached.contains(node) else {
            throw Self.misuse
        }
        writing.content.detached.append(node)
    }

    func lowestDetached(_ reading: Reading) throws(Failure) -> DetachedNode? { reading.content.detached.min { $0.level < $1.level } }

    func free(_ node: DetachedNode, _ writing: inout Writing) throws(Failure) {
        guard let index = writing.content.detached.firstIndex(of: node) else { throw Self.misuse }
        writing.content.detached.remove(at: index)
        try release(node.number, &writing)
    }

    func forEachDetached(_ reading: Reading, _ body: (DetachedNode) throws(Failure) -> Void) throws(Failure) {
        for node in reading.content.detached { try body(node) }
    }
}

/// Where they lie.
final class MemoryPlace: MapPlace {
    let nodes = MemoryMapNodes()
    private let content = Mutex((committed: MemoryMapNodes.Content(), state: 1))

    func read<Result>(_ body: (MemoryMapNodes.Reading, Int) throws -> Result) throws -> Result {
        let (committed, state) = content.withLock { $0 }
        return try body(.init(committed), state)
    }

    func write(_ body: (inout MemoryMapNodes.Writing) throws -> Void) throws {
        var writing = MemoryMapNodes.Writing(content: content.withLock { $0.committed })
        try body(&writing)
        let new = writing.content
        content.withLock { $0 = (new, $0.state + 1) }
    }

    func damage(_ number: UInt64, _ change: (inout [UInt8]) -> Void) throws {
        content.withLock { content in
            var bytes = content.committed.nodes[number].map { unsafe [UInt8]($0.bytes) } ?? []
            change(&bytes)
            content.committed.nodes[number] = .init(bytes)
            content.state += 1
        }
    }
}

/// Nodes that can't be reached when somebody says so, and that count what is written.
struct FaultyMapNodes<Below: MapNodes>: MapNodes {
    let below: Below
    let faults = Faults()

    /// Calls that are well until one fails.
    final class Faults: Sendable {
        private let left = Mutex<Int?>(nil)
        /// Nodes that were made, and written over.
        let added = Atomic(0), replaced = Atomic(0)
        func fail(behind count: Int?) { left.withLock { $0 = count } }

        func call() throws(Failure) {
            let fails = left.withLock { left in
                guard let count = left else { return false }
                left = count > 0 ? count - 1 : nil
                return count == 0
            }
            if fails { throw failure }
        }
    }

    @_lifetime(copy reading)
    func bytes(of number: UInt64, _ reading: Below.Reading) throws(Failure) -> RawSpan? {
        try faults.call()
        return try below.bytes(of: number, reading)
    }

    func expect(_ numbers: [UInt64], _ reading: Below.Reading) { below.expect(numbers, reading) }
    func count(_ reading: Below.Reading) throws(Failure) -> Int { try below.count(reading) }

    @_lifetime(borrow writing)
    func reading(_ writing: borrowing Below.Writing) -> Below.Reading { below.reading(writing) }

    func isOwn(_ number: UInt64, _ writing: borrowing Below.Writing) throws(Failure) -> Bool {
        try faults.call()
        return try below.isOwn(number, writing)
    }

    func add(_ number: UInt64, count: Int, _ writing: inout Below.Writing, fill: (inout MutableRawSpan) -> Void) throws(Failure) {
        try faults.call()
        faults.added.add(1, ordering: .relaxed)
        try below.add(number, count: count, &writing, fill: fill)
    }

    func replace(_ number: UInt64, count: Int, _ writing: inout Below.Writing, fill: (inout MutableRawSpan) -> Void) throws(Failure) {
        try faults.call()
        faults.replaced.add(1, ordering: .relaxed)
        try below.replace(number, count: count, &writing, fill: fill)
    }

    func sharedCount(_ reading: Below.Reading) throws(Failure) -> Int {
        try faults.call()
        return try below.sharedCount(reading)
    }

    func references(to number: UInt64, _ reading: Below.Reading) throws(Failure) -> UInt32 {
        try faults.call()
        return try below.references(to: number, reading)
    }

    func retain(_ number: UInt64, _ writing: inout Below.Writing) throws(Failure) {
        try faults.call()
        try below.retain(number, &writing)
    }

    func release(_ number: UInt64, _ writing: inout Below.Writing) throws(Failure) {
        try faults.call()
        try below.release(number, &writing)
    }

    func forEachShared(_ reading: Below.Reading, _ body: (UInt64, UInt32) throws(Failure) -> Void) throws(Failure) {
        try faults.call()
        try below.forEachShared(reading, body)
    }

    func forgetShared(_ writing: inout Below.Writing) throws(Failure) {
        try faults.call()
        try below.forgetShared(&writing)
    }

    func detach(_ node: DetachedNode, _ writing: inout Below.Writing) throws(Failure) {
        try faults.call()
        try below.detach(node, &writing)
    }

    func lowestDetached(_ reading: Below.Reading) throws(Failure) -> DetachedNode? {
        try faults.call()
        return try below.lowestDetached(reading)
    }

    func free(_ node: DetachedNode, _ writing: inout Below.Writing) throws(Failure) {
        try faults.call()
        try below.free(node, &writing)
    }

    func forEachDetached(_ reading: Below.Reading, _ body: (DetachedNode) throws(Failure) -> Void) throws(Failure) {
        try faults.call()
        try below.forEachDetached(reading, body)
    }
}

let failure = Failure(.system, "reach the nodes", "the connection was cut")
