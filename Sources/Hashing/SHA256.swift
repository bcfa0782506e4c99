public import BlockModel
internal import CCrypto
public import System

/// SHA-256 through OpenSSL's EVP interface (EVP_DigestInit(3)): the algorithm is fetched once and the context
/// reused, which costs 40% less per 4 KiB block than `EVP_Digest` on a fresh one. Belongs to one thread.
@safe
public struct SHA256: ~Copyable {
    private let algorithm: OpaquePointer
    private let context: OpaquePointer
    private let multiBuffer = MultiBuffer()

    /// OpenSSL takes down all it has at exit(3) unless it is told not to before anything else, and a thread that is still hashing, or
    /// about to, would find nothing, or memory that is gone (OPENSSL_init_crypto(3)).
    private static let outlivesExit = OPENSSL_init_crypto(UInt64(OPENSSL_INIT_NO_ATEXIT), nil) == 1

    public init() throws(Failure) {
        guard Self.outlivesExit, let algorithm = unsafe EVP_MD_fetch(nil, "SHA256", nil), let context = unsafe EVP_MD_CTX_new() else {
            throw Failure(.system, "SHA-256", "OpenSSL does not offer it", remedy: "check the providers in openssl.cnf")
        }
        unsafe self.algorithm = algorithm
        unsafe self.context = context
    }

    deinit {
        unsafe EVP_MD_CTX_free(context)
        unsafe EVP_MD_free(algorithm)
    }

    /// Many messages at once can't be hashed in this process any more, as the library for that failed.
    public static var hashesSingly: Bool { MultiBuffer.hasFailed.load(ordering: .relaxed) }

    /// The digests of messages of `byteCount` bytes at these addresses: of several at once where that is faster.
    @unsafe public func digests(of messages: [UnsafeRawPointer], byteCount: Int) throws(Failure) -> [Digest] {
        var digests = unsafe multiBuffer.digests(of: messages, byteCount: byteCount)
        for unsafe message in unsafe messages[digests.count...] {
            unsafe digests.append(try digest(RawSpan(_unsafeStart: message, byteCount: byteCount)))
        }
        return digests
    }

    /// The digest of `bytes`.
    public func digest(_ bytes: RawSpan) throws(Failure) -> Digest {
        var out: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
        let done = unsafe withUnsafeMutableBytes(of: &out) { out in
            unsafe bytes.withUnsafeBytes { input in
                unsafe EVP_DigestInit_ex2(context, algorithm, nil) == 1
                    && EVP_DigestUpdate(context, input.baseAddress, input.count) == 1
                    && EVP_DigestFinal_ex(context, out.baseAddress?.assumingMemoryBound(to: UInt8.self), nil) == 1
            }
        }
        guard done else { throw Failure(.system, "SHA-256", "OpenSSL failed to compute a digest") }
        return Digest(out.0.bigEndian, out.1.bigEndian, out.2.bigEndian, out.3.bigEndian)
    }
}
