public import LMDB
public import System

/// An environment of a test's own, with the tables that it wants.
public struct ScratchEnvironment {
    public let environment: Environment

    /// Makes it in a directory.
    /// - Parameter open: opens the tables.
    /// - Returns: it, and what `open` did.
    public static func make<Tables>(
        _ path: String, _ open: (inout TableOpening) throws(Failure) -> Tables
    ) throws(Failure) -> (ScratchEnvironment, Tables) {
        let lockFile = try LockFile(try File.owned(path + "/lock"), patience: Patience())
        let opening = try lockFile.hold(.opening)
        defer { withExtendedLifetime(opening) {} }
        let environment = try Environment.open(path: path, number: 0, lockFile, mapBytes: 1 << 30, tables: 8, creating: true)
        var tables = try TableOpening(environment, creating: true)
        let opened = try open(&tables)
        try tables.finish()
        return (ScratchEnvironment(environment: environment), opened)
    }

    /// What was committed last, and its number.
    public func read<Result>(_ body: (View, Int) throws -> Result) throws -> Result {
        let reading = try ReadTransaction(environment)
        return try body(reading.view, reading.id)
    }

    /// Commits what `body` does; nothing of it when that throws.
    public func write(_ body: (inout WriteTransaction) throws -> Void) throws {
        var writing = try WriteTransaction(environment)
        try body(&writing)
        try writing.commit()
    }
}
