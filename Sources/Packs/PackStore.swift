public import BlobModel
internal import BlockModel
public import System

/// Where packs are kept: durable, each found by its number, and each content of it by number and version (`PackVersion`). Neither is
/// ever used again, and a content never changes, but for the open pack: blobs are added to it until it is full or written anew.
///
/// What is sealed or written anew is durable when the call returns. Who refers to it, and which version is read, is decided
/// elsewhere (`VersionSource`). A call that fails may have done all of its work, or none of it: trying again stores a blob a second time at
/// worst. Errors that are not `.damage` say nothing of what is stored. Any thread of any process may call; `patience` says how long to wait for others.
public protocol PackStore: AnyObject, Sendable {
    /// The store that its packs belong to.
    var storeID: StoreID { get }

    /// What `PackSnapshot` reads from.
    func source() throws(Failure) -> any PackSource

    /// Stores blobs, in their order, in packs that are not full and in new ones.
    /// - Parameter blobs: their bytes are lent until this returns.
    /// - Returns: where they are, and the claim to them: as long as the caller keeps it, nobody collects them.
    /// - Throws: `.damage` when one is not what was hashed.
    func seal(_ blobs: [NewBlob], _ codec: BlobCodec, _ patience: Patience?) throws(Failure) -> SealedBlobs

    /// Whether somebody has a claim to blobs of a pack: what nothing refers to in it may be about to be referred to.
    func isClaimed(_ number: UInt64) throws(Failure) -> Bool

    /// Writes packs anew, as further versions, all of them together. Nobody reads these until they are current. Nothing is sealed into these packs
    /// any more, and both versions of each are loose from now on: one of the two will have to go.
    /// - Parameter versions: asked while no other call can change what there is.
    /// - Returns: the packs that were written anew. One whose blobs can't be had is left alone.
    func rewrite(_ changes: [PackRewrite], _ versions: any VersionSource, _ patience: Patience?) throws(Failure) -> [RewrittenPack]

    /// Loose versions, in order: all of a pack, and no more packs than `limit`.
    /// - Parameter number: the first pack to be looked at.
    func loose(from number: UInt64, limit: Int) throws(Failure) -> [PackVersion]

    /// Removes those of these versions that are over. One that is current and the only one of its pack is no longer loose.
    func sweep(_ loose: [PackVersion], _ versions: any VersionSource, _ patience: Patience?) throws(Failure)

    /// Has what was removed last count as free, so that `giveBackSpace` gives that back, too.
    func releaseSpace(_ patience: Patience?) throws(Failure)

    /// Gives the space of what was removed back to the filesystem.
    func giveBackSpace(_ patience: Patience?) throws(Failure)
}

extension PackStore {
    /// Packs as they are now.
    /// - Parameter versions: says which version of each is shown, and belongs to the snapshot.
    public func snapshot(_ versions: any VersionSource) throws(Failure) -> PackSnapshot { PackSnapshot(try source(), versions, storeID) }
}

/// Blobs that were stored together, and the claim to them: it ends with this, or with the process.
public final class SealedBlobs: Sendable {
    public let packs: [SealedPack]
    /// The place behind the last blob that there was before. The start: there was none.
    public let previous: PackPlace
    private let release: @Sendable () -> Void

    init(_ packs: [SealedPack], behind previous: PackPlace, release: @escaping @Sendable () -> Void) {
        self.packs = packs
        self.previous = previous
        self.release = release
    }

    deinit { release() }

    /// Where they are, in the order in which they came.
    public var numbers: [BlobNumber] {
        packs.flatMap { pack in (pack.first..<pack.slotCount).map { BlobNumber(pack: pack.number, slot: $0) } }
    }
}

/// Blobs that were stored in one pack.
public struct SealedPack: Sendable {
    public let number: UInt64
    /// Slots that it had before.
    public let first: Int
    /// Stored bytes of each new slot.
    public let lengths: [UInt16]
    /// Slots that it has now.
    public var slotCount: Int { first + lengths.count }
}

/// How a pack is to be written anew. Slots keep their numbers.
public struct PackRewrite {
    /// What is copied.
    public let from: PackVersion
    /// Slots that lose their bytes.
    public var dropped: Set<Int>
    /// Slots that get other bytes for the same block, in the form that they have.
    public var healed: [Int: NewBlob]
    /// The codec that raw blobs are stored by from now on, where it makes them shorter.
    public var codec: BlobCodec

    public init(from: PackVersion, dropped: Set<Int> = [], healed: [Int: NewBlob] = [:], codec: BlobCodec = .raw) {
        self.from = from
        self.dropped = dropped
        self.healed = healed
        self.codec = codec
    }
}

/// A pack that was written anew, for somebody to make it current.
public struct RewrittenPack: Sendable {
    /// What was copied.
    public let from: PackVersion
    /// What it was copied to. Nil: nothing is left of the pack, and nothing was written.
    public let new: UInt32?
    /// Slots that lost their bytes.
    public let dropped: [Int]
    /// Stored bytes of the slots that were healed, before and now.
    public let healed: [Int: (before: Int, now: Int)]
    /// The same of those that are stored by another codec now.
    public let recoded: [Int: (before: Int, now: Int)]

    public var number: UInt64 { from.number }

    /// Whether it may become current, by what is known of the pack's versions.
    public func canBecomeCurrent(_ state: VersionState) -> Bool {
        state.current == from.version && (new.map { state.mayBecomeCurrent($0) } ?? true)
    }

    /// Its versions that are loose.
    public var loose: [PackVersion] { [from] + (new.map { [PackVersion(number, $0)] } ?? []) }
}

/// How a kind of pack store is read: its packs as they are at one moment, for one thread. What it gives out stays where it is until the next
/// `renew` or `reset`.
public protocol PackSource: AnyObject {
    /// Sources of equal states show the same.
    var state: Int { get }
    /// Shows what is there now; `reset` came before.
    func renew() throws(Failure)
    /// Shows nothing, and holds nothing up, until it is renewed.
    func reset()
    /// The last pack before that number. Nil: there is none.
    func last(before number: UInt64) throws(Failure) -> UInt64?
    /// Header and directory of a version, and as much behind them as costs nothing. Nil: it is not there.
    @unsafe func pack(_ version: PackVersion) throws(Failure) -> UnsafeRawBufferPointer?
    /// Bytes of a version. Nil: it has none there.
    @unsafe func part(_ range: Range<Int>, of version: PackVersion) throws(Failure) -> UnsafeRawBufferPointer?
    /// Calls `body` with each version that is wanted, of packs from a number on, in order, as `pack` gives it, until it says false.
    @unsafe func forEachPack(
        from first: UInt64, where isWanted: (PackVersion) throws(Failure) -> Bool, _ body: (PackVersion, UnsafeRawBufferPointer) throws(Failure) -> Bool
    ) throws(Failure)
    /// Has all of a version fetched that is about to be read from its beginning to its end: a hint, which changes nothing of what is shown. Whoever goes
    /// over the store pack by pack calls it one pack ahead (`check --read-data`). To read a guest's blocks, `pack` and `part` are called, and not this.
    /// - Throws: when the version can't be looked up.
    func expect(_ version: PackVersion) throws(Failure)
}
