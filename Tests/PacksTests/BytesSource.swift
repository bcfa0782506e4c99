import System
import TestSupport

@testable import Packs

/// Packs that are given bytes, the directory of each apart from what is behind it.
@safe final class BytesSource: PackSource {
    private let packs: [UInt64: LentBytes]
    init(_ packs: [UInt64: [UInt8]]) { self.packs = packs.mapValues { lend($0) } }

    var state: Int { 1 }
    func renew() throws(Failure) {}
    func reset() {}
    func last(before number: UInt64) throws(Failure) -> UInt64? { packs.keys.filter { $0 < number }.max() }
    func expect(_ version: PackVersion) throws(Failure) {}

    @unsafe func pack(_ version: PackVersion) throws(Failure) -> UnsafeRawBufferPointer? {
        guard version.version == 0, let pack = packs[version.number] else { return nil }
        return unsafe UnsafeRawBufferPointer(start: pack.address, count: directoryLength(pack.bytes))
    }

    @unsafe func part(_ range: Range<Int>, of version: PackVersion) throws(Failure) -> UnsafeRawBufferPointer? {
        guard let pack = packs[version.number], range.upperBound <= pack.count else { return nil }
        return unsafe UnsafeRawBufferPointer(start: pack.address + range.lowerBound, count: range.count)
    }

    @unsafe func forEachPack(
        from first: UInt64, where isWanted: (PackVersion) throws(Failure) -> Bool, _ body: (PackVersion, UnsafeRawBufferPointer) throws(Failure) -> Bool
    ) throws(Failure) {
        for version in packs.keys.sorted().map({ PackVersion($0, 0) }) where version.number >= first {
            guard try isWanted(version), let pack = unsafe try pack(version) else { continue }
            guard unsafe try body(version, pack) else { return }
        }
    }
}

/// Bytes of header and directory, as far as there are so many.
func directoryLength(_ pack: RawSpan) -> Int {
    guard pack.byteCount >= PackFormat.headerSize, let view = PackView(pack, number: pack.load(at: 8)) else { return pack.byteCount }
    return view.directoryEnd
}
