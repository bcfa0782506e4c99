import BlobModel
import Synchronization
import System

@testable import Packs

/// A pack store that fails when it is told to: before a call is done, or after, so that its answer is lost.
final class FaultyPackStore: PackStore {
    let below: any PackStore
    private let faults = Mutex<[Fault]>([])

    enum Fault { case before, after, none }

    init(_ below: any PackStore) { self.below = below }

    var storeID: StoreID { below.storeID }
    static let failure = Failure(.system, "reach the packs", "the connection was cut")

    /// What becomes of the next calls, in turn; all is well after these.
    func fail(_ next: Fault...) { faults.withLock { $0 = next } }

    private func call<Result>(_ body: () throws(Failure) -> Result) throws(Failure) -> Result {
        let fault = faults.withLock { $0.isEmpty ? Fault.none : $0.removeFirst() }
        if fault == .before { throw Self.failure }
        let result = try body()
        if fault == .after { throw Self.failure }
        return result
    }

    func source() throws(Failure) -> any PackSource { FaultySource(try below.source(), self) }
    func seal(_ blobs: [NewBlob], _ codec: BlobCodec, _ patience: Patience?) throws(Failure) -> SealedBlobs {
        try call { () throws(Failure) in try below.seal(blobs, codec, patience) }
    }
    func rewrite(_ changes: [PackRewrite], _ versions: any VersionSource, _ patience: Patience?) throws(Failure) -> [RewrittenPack] {
        try call { () throws(Failure) in try below.rewrite(changes, versions, patience) }
    }
    func sweep(_ loose: [PackVersion], _ versions: any VersionSource, _ patience: Patience?) throws(Failure) {
        try call { () throws(Failure) in try below.sweep(loose, versions, patience) }
    }
    func loose(from number: UInt64, limit: Int) throws(Failure) -> [PackVersion] { try below.loose(from: number, limit: limit) }
    func isClaimed(_ number: UInt64) throws(Failure) -> Bool { try below.isClaimed(number) }
    func releaseSpace(_ patience: Patience?) throws(Failure) { try below.releaseSpace(patience) }
    func giveBackSpace(_ patience: Patience?) throws(Failure) { try below.giveBackSpace(patience) }

    @safe private final class FaultySource: PackSource {
        private let below: any PackSource
        private let store: FaultyPackStore

        init(_ below: any PackSource, _ store: FaultyPackStore) {
            self.below = below
            self.store = store
        }

        var state: Int { below.state }
        func renew() throws(Failure) { try below.renew() }
        func reset() { below.reset() }
        func last(before number: UInt64) throws(Failure) -> UInt64? { try below.last(before: number) }
        func expect(_ version: PackVersion) throws(Failure) { try below.expect(version) }
        @unsafe func pack(_ version: PackVersion) throws(Failure) -> UnsafeRawBufferPointer? {
            unsafe try store.call { () throws(Failure) in unsafe try below.pack(version) }
        }
        @unsafe func part(_ range: Range<Int>, of version: PackVersion) throws(Failure) -> UnsafeRawBufferPointer? {
            unsafe try store.call { () throws(Failure) in unsafe try below.part(range, of: version) }
        }
        @unsafe func forEachPack(
            from first: UInt64, where isWanted: (PackVersion) throws(Failure) -> Bool, _ body: (PackVersion, UnsafeRawBufferPointer) throws(Failure) -> Bool
        ) throws(Failure) {
            unsafe try below.forEachPack(from: first, where: isWanted, body)
        }
    }
}
