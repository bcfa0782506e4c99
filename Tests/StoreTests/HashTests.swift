import BlockModel
import System
import Testing
import TestSupport

@testable import Hashing

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

    #if arch(x86_64)
        /// Every processor that runs Swift on x86_64 is one that the library knows code for: OpenSSL does not stand in unnoticed.
        @Test(arguments: [(7, 0), (8, 8), (16, 16), (19, 16), (40, 40)]) func groupsAreHashedAtOnce(count: Int, byTheLibrary: Int) {
            let message = [UInt8](repeating: 1, count: blockSize)
            let digests = unsafe message.withUnsafeBytes { bytes in
                unsafe bytes.baseAddress.map { unsafe MultiBuffer().digests(of: Array(repeating: $0, count: count), byteCount: blockSize) }
            }
            #expect(digests?.count == byTheLibrary)
        }
    #endif
}
