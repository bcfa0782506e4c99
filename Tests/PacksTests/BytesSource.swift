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
    func count() throws(Failure) -> Int { packs.count }
    func last() throws(Failure) -> UInt64? { packs.keys.max() }
    func expect(_ number: UInt64) throws(Failure) {}

    @unsafe func pack(_ number: UInt64) throws(Failure) -> UnsafeRawBufferPointer? {
        guard let pack = packs[number] else { return nil }
        return unsafe UnsafeRawBufferPointer(start: pack.address, count: directoryLength(pack.bytes))
    }

    @unsafe func part(_ range: Range<Int>, ofPack number: UInt64) throws(Failure) -> UnsafeRawBufferPointer? {
        guard let pack = packs[number], range.upperBound <= pack.count else { return nil }
        return unsafe UnsafeRawBufferPointer(start: pack.address + range.lowerBound, count: range.count)
    }

    @unsafe func forEachPack(from first: UInt64, _ body: (UInt64, UnsafeRawBufferPointer) throws(Failure) -> Bool) throws(Failure) {
        for number in packs.keys.sorted() where number >= first {
            guard let pack = unsafe try pack(number), unsafe try body(number, pack) else { return }
        }
    }
}

/// Bytes of header and directory, as far as there are so many.
func directoryLength(_ pack: RawSpan) -> Int {
    guard pack.byteCount >= PackFormat.headerSize else { return pack.byteCount }
    return min(pack.byteCount, PackFormat.headerSize + Int(pack.load(at: 6, as: UInt16.self)) * PackFormat.entrySize)
}
