import LMDB
import LMDBTestSupport
import System

@testable import Maps

/// Transactions over what nodes lie in.
protocol MapPlace {
    associatedtype Nodes: MapNodes
    var nodes: Nodes { get }
    /// What was committed last, and its number.
    func read<Result>(_ body: (Nodes.Reading, Int) throws -> Result) throws -> Result
    /// Commits what `body` does; nothing of it when that throws.
    func write(_ body: (inout Nodes.Writing) throws -> Void) throws
    /// Changes the bytes of a node behind everybody's back.
    func damage(_ number: UInt64, _ change: (inout [UInt8]) -> Void) throws
}

/// Nodes in an environment of their own.
struct LMDBPlace: MapPlace {
    private let environment: ScratchEnvironment
    let nodes: LMDBMapNodes

    init(_ path: String) throws {
        (environment, nodes) = try ScratchEnvironment.make(path) { (tables) throws(Failure) in try LMDBMapNodes(&tables) }
    }

    func read<Result>(_ body: (View, Int) throws -> Result) throws -> Result { try environment.read(body) }

    func write(_ body: (inout WriteTransaction) throws -> Void) throws { try environment.write(body) }

    func damage(_ number: UInt64, _ change: (inout [UInt8]) -> Void) throws {
        try write { (writing) throws in
            var bytes = try unsafe writing.view.value(nodes.nodes, number)?.withUnsafeBytes { unsafe [UInt8]($0) } ?? []
            change(&bytes)
            try writing.put(nodes.nodes, number, count: bytes.count) { $0.copy(bytes.rawBytes, to: 0) }
        }
    }
}
