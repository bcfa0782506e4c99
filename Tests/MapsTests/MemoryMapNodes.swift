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

    struct Reading: ~Escapable {
        fileprivate let nodes: [UInt64: Node]

        @_lifetime(immortal)
        fileprivate init(_ nodes: [UInt64: Node]) { self.nodes = nodes }
    }

    struct Writing: ~Copyable {
        fileprivate var nodes: [UInt64: Node]
        fileprivate var used: Set<UInt64>
        /// Nodes that were made here.
        fileprivate var own: Set<UInt64> = []
    }

    static let misuse = Failure(.invalidRequest, "map node", "it is not there to be written to")

    @_lifetime(copy reading)
    func bytes(of number: UInt64, _ reading: Reading) throws(Failure) -> RawSpan? {
        guard let node = reading.nodes[number] else { return nil }
        return unsafe _overrideLifetime(RawSpan(_unsafeBytes: node.bytes), copying: reading)
    }

    func expect(_ numbers: [UInt64], _ reading: Reading) {}
    func count(_ reading: Reading) throws(Failure) -> Int { reading.nodes.count }

    @_lifetime(borrow writing)
    func reading(_ writing: borrowing Writing) -> Reading { Reading(writing.nodes) }

    func isOwn(_ number: UInt64, _ writing: borrowing Writing) throws(Failure) -> Bool { writing.own.contains(number) }

    func add(_ number: UInt64, count: Int, _ writing: inout Writing, fill: (inout MutableRawSpan) -> Void) throws(Failure) {
        guard writing.used.insert(number).inserted else { throw Self.misuse }
        writing.own.insert(number)
        writing.nodes[number] = Node([UInt8](count: count, fill: fill))
    }

    func replace(_ number: UInt64, count: Int, _ writing: inout Writing, fill: (inout MutableRawSpan) -> Void) throws(Failure) {
        guard writing.own.contains(number) else { throw Self.misuse }
        writing.nodes[number] = Node([UInt8](count: count, fill: fill))
    }

    func release(_ number: UInt64, _ writing: inout Writing) throws(Failure) {
        guard writing.nodes.removeValue(forKey: number) != nil else { throw Self.misuse }
        writing.own.remove(number)
    }
}

/// Where they lie.
final class MemoryPlace: MapPlace {
    let nodes = MemoryMapNodes()
    private let content = Mutex(Content())

    private struct Content {
        var nodes: [UInt64: MemoryMapNodes.Node] = [:]
        var used: Set<UInt64> = []
        var state = 1
    }

    func read<Result>(_ body: (MemoryMapNodes.Reading, Int) throws -> Result) throws -> Result {
        let (nodes, state) = content.withLock { ($0.nodes, $0.state) }
        return try body(.init(nodes), state)
    }

    func write(_ body: (inout MemoryMapNodes.Writing) throws -> Void) throws {
        let (nodes, used) = content.withLock { ($0.nodes, $0.used) }
        var writing = MemoryMapNodes.Writing(nodes: nodes, used: used)
        try body(&writing)
        let new = Content(nodes: writing.nodes, used: writing.used, state: content.withLock { $0.state + 1 })
        content.withLock { $0 = new }
    }

    func damage(_ number: UInt64, _ change: (inout [UInt8]) -> Void) throws {
        content.withLock { content in
            var bytes = content.nodes[number].map { unsafe [UInt8]($0.bytes) } ?? []
            change(&bytes)
            content.nodes[number] = .init(bytes)
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

    func release(_ number: UInt64, _ writing: inout Below.Writing) throws(Failure) {
        try faults.call()
        try below.release(number, &writing)
    }
}

let failure = Failure(.system, "reach the nodes", "the connection was cut")
