import LMDB
import LMDBTestSupport
import System

@testable import Catalogue

/// Transactions over what a catalogue lies in.
protocol CataloguePlace {
    associatedtype Catalogue: DiskCatalogue
    var catalogue: Catalogue { get }
    func read<Result>(_ body: (Catalogue.Reading) throws -> Result) throws -> Result
    /// Commits what `body` does; nothing of it when that throws.
    func write(_ body: (inout Catalogue.Writing) throws -> Void) throws
    /// What a transaction sees of what it has done so far.
    func look<Result>(_ writing: borrowing Catalogue.Writing, _ body: (Catalogue.Reading) throws -> Result) throws -> Result
    /// The bytes of a record, whatever becomes of it.
    func damage(_ name: String, _ change: (inout [UInt8]) -> Void, _ writing: inout Catalogue.Writing) throws
}

/// A catalogue in an environment of its own.
struct LMDBPlace: CataloguePlace {
    private let environment: ScratchEnvironment
    let catalogue: LMDBDiskCatalogue

    init(_ path: String) throws {
        (environment, catalogue) = try ScratchEnvironment.make(path) { (tables) throws(Failure) in try LMDBDiskCatalogue(&tables) }
    }

    func read<Result>(_ body: (View) throws -> Result) throws -> Result { try environment.read { (view, _) in try body(view) } }

    func write(_ body: (inout WriteTransaction) throws -> Void) throws { try environment.write(body) }

    func look<Result>(_ writing: borrowing WriteTransaction, _ body: (View) throws -> Result) throws -> Result { try body(writing.view) }

    func damage(_ name: String, _ change: (inout [UInt8]) -> Void, _ writing: inout WriteTransaction) throws {
        var bytes = try unsafe writing.view.value(catalogue.table, name)?.withUnsafeBytes { unsafe [UInt8]($0) } ?? []
        change(&bytes)
        try writing.put(catalogue.table, name, bytes.rawBytes)
    }
}
