import BlobModel
import BlockModel
import Synchronization
import System
import TestSupport

@testable import Packs

/// Packs in memory. Of a pack, readers get the directory first and each blob when they ask for it, as from somewhere far away.
final class MemoryPackStore: PackStore {
    let storeID = StoreID.random()
    private let content = Mutex(Content())
    private let claims = Mutex<[UInt64]>([])

    struct Content {
        var packs: [PackVersion: LentBytes] = [:]
        var loose: Set<PackVersion> = []
        var next: UInt64 = 1
        /// The pack that is filled up first; 0: none.
        var open: UInt64 = 0
        var state = 0
    }

    func source() throws(Failure) -> any PackSource { Source(self) }

    func seal(_ blobs: [NewBlob], _ codec: BlobCodec, _ patience: Patience?) throws(Failure) -> SealedBlobs {
        try change { (content) throws(Failure) in
            let last = content.packs.keys.max() ?? PackVersion(0, 0)
            let slots = content.packs[last].flatMap { PackView($0.bytes, last)?.slotCount } ?? 0
            var filler = PackFiller(openPack(content), next: content.next)
            let sealed = try filler.fill(blobs, codec) { (pack, known) throws(Failure) in put(pack, &content, checkingFrom: known) }
            if let last = sealed.last {
                content.next = max(content.next, last.number + 1)
                content.open = last.number
            }
            let numbers = sealed.map(\.number)
            claims.withLock { $0 += numbers }
            return SealedBlobs(sealed, behind: PackPlace(pack: last.number, slots: UInt64(slots))) { [self] in
                claims.withLock { claims in
                    for number in numbers { if let place = claims.firstIndex(of: number) { claims.remove(at: place) } }
                }
            }
        }
    }

    func isClaimed(_ number: UInt64) throws(Failure) -> Bool { claims.withLock { $0.contains(number) } }

    private func openPack(_ content: Content) -> PackBuilder? {
        let open = PackVersion(content.open, 0)
        guard open.number > 0, let bytes = content.packs[open], let pack = PackView(bytes.bytes, open) else { return nil }
        return unsafe PackBuilder(continuing: pack, number: open.number)
    }

    /// All of it, or nothing.
    private func change<Result>(_ body: (inout Content) throws(Failure) -> Result) throws(Failure) -> Result {
        try content.withLock { (content) throws(Failure) in
            var changed = content
            changed.state += 1
            let result = try body(&changed)
            content = changed
            return result
        }
    }

    private func put(_ pack: PackBuilder, _ content: inout Content, checkingFrom first: Int = .max) -> Bool {
        var isTrue = false
        content.packs[PackVersion(pack.number, pack.version)] = lend(
            [UInt8](count: pack.byteCount) { isTrue = pack.write(into: &$0, storeID, checkingFrom: first) })
        return isTrue
    }

    func rewrite(_ changes: [PackRewrite], _ versions: any VersionSource, _ patience: Patience?) throws(Failure) -> [RewrittenPack] {
        try change { (content) throws(Failure) in
            versions.reset()
            var done: [RewrittenPack] = []
            for change in changes {
                let highest = content.packs.keys.filter { $0.number == change.from.number }.map(\.version).max()
                let next = try max(versions.state(of: change.from.number).next, highest.map { $0 + 1 } ?? 0)
                guard let bytes = content.packs[change.from], let pack = PackView(bytes.bytes, change.from), pack.isIntact(storeID),
                    let rewriting = unsafe try PackRewriting(change, of: pack, as: next)
                else { continue }
                let outcome = rewriting.outcome(change)
                if outcome.new != nil { _ = put(rewriting.builder, &content) }
                content.loose.formUnion(outcome.loose)
                if content.open == outcome.number { content.open = 0 }
                done.append(outcome)
            }
            return done
        }
    }

    func loose(from number: UInt64, limit: Int) throws(Failure) -> [PackVersion] {
        let loose = content.withLock { $0.loose }.filter { $0.number >= number }.sorted()
        let wanted = Set(loose.map(\.number)).sorted().prefix(limit)
        return loose.filter { wanted.contains($0.number) }
    }

    func sweep(_ loose: [PackVersion], _ versions: any VersionSource, _ patience: Patience?) throws(Failure) {
        try change { (content) throws(Failure) in
            versions.reset()
            for version in loose {
                let state = try versions.state(of: version.number)
                if state.isOver(version.version) { content.packs[version] = nil }
                guard let current = state.current else { continue }
                let there = content.packs.keys.filter { $0.number == version.number }
                if !there.contains(version) || there.count == 1 && current == version.version { content.loose.remove(version) }
            }
        }
    }

    func releaseSpace(_ patience: Patience?) throws(Failure) {}
    func giveBackSpace(_ patience: Patience?) throws(Failure) {}

    @safe private final class Source: PackSource {
        private let store: MemoryPackStore
        private var shown: Content

        init(_ store: MemoryPackStore) {
            self.store = store
            shown = store.content.withLock { $0 }
        }

        var state: Int { shown.state }
        func renew() throws(Failure) { shown = store.content.withLock { $0 } }
        func reset() { shown = Content() }
        func last(before number: UInt64) throws(Failure) -> UInt64? { shown.packs.keys.map(\.number).filter { $0 < number }.max() }
        func expect(_ version: PackVersion) throws(Failure) {}

        @unsafe func pack(_ version: PackVersion) throws(Failure) -> UnsafeRawBufferPointer? {
            guard let pack = shown.packs[version] else { return nil }
            return unsafe UnsafeRawBufferPointer(start: pack.address, count: directoryLength(pack.bytes))
        }

        @unsafe func part(_ range: Range<Int>, of version: PackVersion) throws(Failure) -> UnsafeRawBufferPointer? {
            guard let pack = shown.packs[version], range.upperBound <= pack.count else { return nil }
            return unsafe UnsafeRawBufferPointer(start: pack.address + range.lowerBound, count: range.count)
        }

        @unsafe func forEachPack(
            from first: UInt64, where isWanted: (PackVersion) throws(Failure) -> Bool, _ body: (PackVersion, UnsafeRawBufferPointer) throws(Failure) -> Bool
        ) throws(Failure) {
            for version in shown.packs.keys.sorted() where version.number >= first {
                guard try isWanted(version), let pack = unsafe try pack(version) else { continue }
                guard unsafe try body(version, pack) else { return }
            }
        }
    }
}
