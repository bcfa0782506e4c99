internal import Store
internal import System

/// Readers of one disk: as many as there are threads that read at the same time.
final class ReaderPool: Sendable {
    private let store: Store
    private let diskName: String
    private let idle = Monitor<[Slot]>([])

    /// A reader that whoever has taken it uses alone.
    private final class Slot: @unchecked Sendable {
        var reader: BlockReader
        init(_ reader: consuming BlockReader) { self.reader = reader }
    }

    /// - Throws: when there can't be even one.
    init(_ store: Store, disk name: String) throws(Failure) {
        self.store = store
        diskName = name
        let first = Slot(try BlockReader(store, disk: name))
        idle.with { $0.append(first) }
    }

    /// Lends a reader.
    @inline(__always)
    func with<Result>(_ body: (inout BlockReader) throws(Failure) -> Result) throws(Failure) -> Result {
        let slot = try take()
        defer { idle.with { $0.append(slot) } }
        return try body(&slot.reader)
    }

    private func take() throws(Failure) -> Slot {
        if let slot = idle.with({ $0.popLast() }) { return slot }
        return Slot(try BlockReader(store, disk: diskName))
    }
}
