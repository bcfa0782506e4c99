public import System

/// Access to pages that other domains have granted to us (xengnttab.h).
public protocol GrantTable: AnyObject {
    /// Maps pages of `domain`, readable and writable, one after the other. Use `GrantMapping`, which unmaps them.
    ///
    /// The domain goes on writing to them: whatever is read there may change between two reads.
    @unsafe func mapPages(of domain: DomainID, _ references: [GrantReference]) throws(Failure) -> UnsafeMutableRawPointer
    /// Undoes `mapPages`.
    @unsafe func unmapPages(_ pages: UnsafeMutableRawPointer, count: Int)
    /// Does all the copies of a batch in one call. Whether a copy was done is in its status (`GrantCopyBatch.succeeded`).
    /// - Throws: when the call itself failed: nothing is known of any copy.
    func perform(_ batch: inout GrantCopyBatch) throws(Failure)
}

/// Granted pages in our address space, unmapped when this ends.
@safe public struct GrantMapping<Table: GrantTable>: ~Copyable {
    private let table: Table
    /// The first byte. The other domain writes here, too, at any time.
    @unsafe public let pointer: UnsafeMutableRawPointer
    public let pageCount: Int

    public var byteCount: Int { pageCount * xenPageSize }

    /// Maps the pages that `domain` granted under these references, read-write and one after the other.
    public init(_ table: Table, domain: DomainID, references: [GrantReference]) throws(Failure) {
        unsafe pointer = try table.mapPages(of: domain, references)
        self.table = table
        pageCount = references.count
    }

    deinit {
        unsafe table.unmapPages(pointer, count: pageCount)
    }
}
