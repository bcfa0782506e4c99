import BlockModel
import Hashing
import TestSupport
import Testing

@Suite struct HashTests {
    /// Whichever library hashes them: each message has the digest that OpenSSL gives it alone.
    @Test(arguments: [0, 1, 64, 1000, 4096], 1...40) func groupsHaveTheDigestsOfTheirMessages(byteCount: Int, count: Int) throws {
        var generator = SeededGenerator(seed: UInt64(byteCount + count))
        let messages = (0..<count).map { _ in (0..<byteCount).map { _ in UInt8.random(in: 0...255, using: &generator) } }
        let all = Array(messages.joined()) + [0]
        let hasher = try SHA256()
        let digests = try unsafe all.withUnsafeBytes { bytes in
            guard let start = bytes.baseAddress else { return [Digest]() }
            return try unsafe hasher.digests(of: (0..<count).map { unsafe start + $0 * byteCount }, byteCount: byteCount)
        }
        #expect(try digests == messages.map { try hasher.digest($0.rawBytes) })
    }
}
