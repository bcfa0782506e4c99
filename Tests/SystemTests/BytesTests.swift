import System
import Testing

@Suite struct BytesTests {
    /// Whatever way a copy takes: by its length, and by where it goes to from where, counted within a page.
    @Test(arguments: [0, 1, 63, 1023, 1024, 1025, 4095, 4096, 65_600])
    func aCopyIsOfAllBytesAndNoOthers(count: Int) {
        let distances = [0, 1, 15, 16, 17, 31, 32, 64, 2048, 4064, 4080, 4095]
        for from in [0, 4080] {
            for distance in distances {
                let at = (from + distance) % 4096
                let source = [UInt8](count: from + count) { bytes in
                    for index in 0..<bytes.byteCount { bytes.store(UInt8(truncatingIfNeeded: index &* 7 &+ index >> 8), at: index) }
                }
                let copied = [UInt8](count: at + count + 64) { $0.copy(source.rawBytes.extracting(droppingFirst: from), to: at) }
                let isAlone = copied[..<at].allSatisfy { $0 == 0 } && copied[(at + count)...].allSatisfy { $0 == 0 }
                let isWhole = copied[at..<at + count] == source[from...]
                #expect(isAlone && isWhole, "\(from) to \(at)")
            }
        }
    }
}
