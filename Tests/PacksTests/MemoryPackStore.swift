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
        var packs: [UInt64: LentBytes] = [:]
        var next: UInt64 = 1
        var state = 0
    }

    func source() throws(Failure) -> any PackSource { Source(self) }

    func seal(_ blobs: [NewBlob], _ codec: BlobCodec, _ patience: Patience?) throws(Failure) -> SealedBlobs {
        try change { (content) throws(Failure) in
            let last = content.packs.keys.max() ?? 0
            let slots = content.packs[last].flatMap { PackView($0.bytes, number: last)?.slotCount } ?? 0
            var filler = PackFiller(openPack(content), next: content.next)
            let sealed = try filler.fill(blobs, codec) { (pack, known) throws(Failure) in put(pack, &content, checkingFrom: known) }
            if let last = sealed.last { content.next = max(content.next, last.number + 1) }
            let numbers = sealed.map(\.number)
            claims.withLock { $0 += numbers }
            return SealedBlobs(sealed, behind: PackPlace(pack: last, slots: UInt64(slots))) { [self] in
                claims.withLock { claims in
                    for number in numbers { if let place = claims.firstIndex(of: number) { claims.remove(at: place) } }
                }
            }
        }
    }

    func isClaimed(_ number: UInt64) throws(Failure) -> Bool { claims.withLock { $0.contains(number) } }

    private func openPack(_ content: Content) -> PackBuilder? {
        guard let last = content.packs.keys.max(), last < content.next, let bytes = content.packs[last], let pack = PackView(bytes.bytes, number: last)
        else { return nil }
        return unsafe PackBuilder(continuing: pack, number: last)
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
        content.packs[pack.number] = lend([UInt8](count: pack.byteCount) { isTrue = pack.write(into: &$0, storeID, checkingFrom: first) })
        return isTrue
    }

    func rewrite(_ changes: [PackRewrite], _ patience: Patience?) throws(Failure) -> [RewrittenPack] {
        try change { (content) throws(Failure) in
            var done: [RewrittenPack] = []
            for change in changes {
                guard let bytes = content.packs[change.number], let pack = PackView(bytes.bytes, number: change.number), pack.isIntact(storeID),
                    let rewriting = unsafe try PackRewriting(change, of: pack)
                else { continue }
                _ = put(rewriting.builder, &content)
                done.append(RewrittenPack(number: change.number, healed: rewriting.healed))
            }
            return done
        }
    }

    func remove(_ numbers: [UInt64], _ patience: Patience?) throws(Failure) {
        try change { (content) throws(Failure) in
            for number in numbers {
                guard let bytes = content.packs[number], PackView(bytes.bytes, number: number)?.isEmpty == true else { continue }
                content.packs[number] = nil
            }
        }
    }

    func recover(_ patience: Patience?) throws(Failure) {}
    func settleSpace(_ patience: Patience?) throws(Failure) {}
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
        func count() throws(Failure) -> Int { shown.packs.count }
        func last() throws(Failure) -> UInt64? { shown.packs.keys.max() }
        func expect(_ number: UInt64) throws(Failure) {}

        @unsafe func pack(_ number: UInt64) throws(Failure) -> UnsafeRawBufferPointer? {
            guard let pack = shown.packs[number] else { return nil }
            return unsafe UnsafeRawBufferPointer(start: pack.address, count: directoryLength(pack.bytes))
        }

        @unsafe func part(_ range: Range<Int>, ofPack number: UInt64) throws(Failure) -> UnsafeRawBufferPointer? {
            guard let pack = shown.packs[number], range.upperBound <= pack.count else { return nil }
            return unsafe UnsafeRawBufferPointer(start: pack.address + range.lowerBound, count: range.count)
        }

        @unsafe func forEachPack(from first: UInt64, _ body: (UInt64, UnsafeRawBufferPointer) throws(Failure) -> Bool) throws(Failure) {
            for number in shown.packs.keys.sorted() where number >= first {
                guard let pack = unsafe try pack(number), unsafe try body(number, pack) else { return }
            }
        }
    }
}
