public import BlobModel
public import BlockModel
public import System

/// Packs as they are at one moment, each in the version that is current. A pack whose version became current only after that moment is missing:
/// a reader that needs it takes another snapshot. Belongs to one thread.
@safe
public struct PackSnapshot: ~Copyable {
    let source: any PackSource
    let versions: any VersionSource
    private let storeID: StoreID
    private var isShown = true

    init(_ source: any PackSource, _ versions: any VersionSource, _ storeID: StoreID) {
        self.source = source
        self.versions = versions
        self.storeID = storeID
    }

    /// Snapshots of equal states show the same packs, as far as the same versions are current.
    public var state: Int { source.state }
    /// Shows what is there now.
    public mutating func renew() throws(Failure) {
        if isShown { reset() }
        try source.renew()
        isShown = true
    }

    /// Shows nothing, and holds nothing up, until it is renewed.
    public mutating func reset() {
        versions.reset()
        source.reset()
        isShown = false
    }

    /// Nil: the pack is gone.
    private func current(_ number: UInt64) throws(Failure) -> PackVersion? {
        try versions.state(of: number).current.map { PackVersion(number, $0) }
    }

    /// The place behind the last blob. Nil: there is no pack, or the last one's header is damaged.
    public func last() throws(Failure) -> PackPlace? {
        var next = try source.last(before: .max)
        while let number = next {
            if let version = try current(number), let bytes = unsafe try source.pack(version) {
                guard let pack = PackView(unsafe RawSpan(_unsafeBytes: bytes), version) else { return nil }
                return PackPlace(pack: number, slots: UInt64(pack.slotCount))
            }
            next = try source.last(before: number)
        }
        return nil
    }

    /// The pack of that number, or nil: there is none, or what is there is none.
    @_lifetime(borrow self)
    public func pack(_ number: UInt64) throws(Failure) -> PackView? {
        guard let version = try current(number), let bytes = unsafe try source.pack(version) else { return nil }
        return unsafe PackView(_overrideLifetime(RawSpan(_unsafeBytes: bytes), borrowing: self), version)
    }

    /// Whether that version is there, current or not.
    public func holds(_ version: PackVersion) throws(Failure) -> Bool { unsafe try source.pack(version) != nil }

    /// Whether any version of a pack is there.
    public func holdsAny(of number: UInt64) throws(Failure) -> Bool { try source.last(before: number + 1) == number }

    /// Whether header and directory are as they were written, in this store.
    public func isIntact(_ pack: PackView) -> Bool { pack.isIntact(storeID) }

    /// Has all of a pack fetched that is about to be read as a whole: see `PackSource.expect`.
    public func expect(_ number: UInt64) throws(Failure) {
        do throws(Failure) {
            if let version = try current(number) { try source.expect(version) }
        } catch where error.kind == .damage {
            // What says which version is current is damaged: whoever reads the pack is told.
        }
    }

    /// Calls `body` with each pack from a number on, in order, until it says false; nil: its header is damaged, or what says which of its versions is
    /// current. Only directories are read.
    public func forEachPack(from first: UInt64 = 1, _ body: (UInt64, PackView?) throws(Failure) -> Bool) throws(Failure) {
        // The pack at hand, its current version, and whether that is known.
        var number: UInt64?
        var shown: PackVersion?
        var isKnown = true
        func isCurrent(_ version: PackVersion) throws(Failure) -> Bool {
            guard number != version.number else { return isKnown && version == shown }
            number = version.number
            isKnown = true
            do throws(Failure) {
                shown = try current(version.number)
            } catch where error.kind == .damage {
                isKnown = false
                // Once.
                return true
            }
            return version == shown
        }
        unsafe try source.forEachPack(from: first, where: isCurrent) { (version, bytes) throws(Failure) in
            try body(version.number, isKnown ? PackView(unsafe RawSpan(_unsafeBytes: bytes), version) : nil)
        }
    }
}

extension PackSnapshot: BlobDirectory {
    public func forEachBlob(
        from place: PackPlace, skippingDamaged: Bool, _ body: (BlobNumber, Digest) throws(Failure) -> Bool
    ) throws(Failure) {
        try forEachPack(from: max(place.pack, 1)) { (number, pack) throws(Failure) in
            guard let pack, skippingDamaged || isIntact(pack) else {
                if skippingDamaged { return true }
                throw Failure(.damage, .pack(number), "its directory is damaged", remedy: "restore the store from a copy")
            }
            let first = number == place.pack ? Int(place.slots) : 0
            for slot in first..<max(first, pack.slotCount) where !pack.isCollected(slot) {
                if let digest = pack.digest(slot), try !body(BlobNumber(pack: number, slot: slot), digest) { return false }
            }
            return true
        }
    }

    public func blobCount(from place: PackPlace) throws(Failure) -> UInt64 {
        var total: UInt64 = 0
        try forEachPack(from: max(place.pack, 1)) { (_, pack) throws(Failure) in
            total += UInt64(pack?.slotCount ?? 0)
            return true
        }
        return total
    }

    public func digest(of blob: BlobNumber) throws(Failure) -> Digest? { try pack(blob.pack)?.digest(blob.slot) }

    public func holds(_ digest: Digest, _ blob: BlobNumber) throws(Failure) -> Bool { try pack(blob.pack)?.holds(digest, blob.slot) ?? false }

    public func storedLengths(ofPack number: UInt64) throws(Failure) -> StoredLengths? {
        guard let pack = try pack(number) else { return nil }
        pack.expectDirectory()
        return (0..<pack.slotCount).map { UInt16(pack.storedLength($0)) }
    }
}
