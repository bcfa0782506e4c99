internal import BlockModel
internal import Synchronization
internal import System

#if arch(x86_64)
    internal import CIPSecMB

    /// SHA-256 of many messages at once, by Intel's Multi-Buffer Crypto (intel-ipsec-mb.h). The processor's own instructions for
    /// SHA-256 wait for one another: two messages in turn take little longer than one. A vector of AVX-512 holds a word of
    /// sixteen messages, which is faster still. A processor that has neither gets shorter vectors. Belongs to one thread.
    @safe
    final class MultiBuffer {
        private typealias Manager = UnsafeMutablePointer<IMB_MGR>

        /// It failed, in its test of itself or at work.
        static let hasFailed = Atomic(false)

        /// Made when it is needed: 200 KB, and a tenth of a millisecond. `.some(nil)`: this processor can't.
        private var manager: Manager??

        /// Messages that are best handed over together, whichever way it takes; less than half of them are not hashed any
        /// faster than one after the other.
        private static let groupSize = 16

        deinit {
            if let manager = unsafe manager, let manager = unsafe manager { unsafe free_mb_mgr(manager) }
        }

        /// The digests of the first of these messages, as many as are best hashed at once: none, maybe.
        @unsafe func digests(of messages: [UnsafeRawPointer], byteCount: Int) -> [Digest] {
            let rest = unsafe messages.count % Self.groupSize
            let count = unsafe rest < Self.groupSize / 2 ? messages.count - rest : messages.count
            guard count > 0, let manager = unsafe managerIfCapable() else { return [] }
            var words = [(UInt64, UInt64, UInt64, UInt64)](repeating: (0, 0, 0, 0), count: count)
            let isDone = unsafe words.withUnsafeMutableBytes { unsafe Self.hash(messages[..<count], byteCount, into: $0, manager) }
            if !isDone { Self.hasFailed.store(true, ordering: .relaxed) }
            return isDone ? words.map { Digest($0.0.bigEndian, $0.1.bigEndian, $0.2.bigEndian, $0.3.bigEndian) } : []
        }

        private func managerIfCapable() -> Manager? {
            if let manager = unsafe manager { return unsafe manager }
            let new = unsafe Self.makeManager()
            unsafe manager = .some(new)
            return unsafe new
        }

        private static func makeManager() -> Manager? {
            guard let manager = unsafe alloc_mb_mgr(0) else { return nil }
            unsafe init_mb_mgr_auto(manager, nil)
            // Without AVX-512 it may choose vectors of eight though there are instructions for SHA-256, and takes twice as long.
            if unsafe manager.pointee.used_arch != UInt32(IMB_ARCH_AVX512.rawValue) && manager.pointee.features & UInt64(IMB_FEATURE_SHANI) != 0 {
                unsafe init_mb_mgr_sse(manager)
            }
            // The library's test of itself: not passed, too, where it knows no code for this processor.
            guard unsafe manager.pointee.features & UInt64(IMB_FEATURE_SELF_TEST_PASS) != 0 else {
                if unsafe imb_get_errno(manager) == IMB_ERR_SELFTEST.rawValue { hasFailed.store(true, ordering: .relaxed) }
                unsafe free_mb_mgr(manager)
                return nil
            }
            return unsafe manager
        }

        /// Writes a digest of 32 bytes for each message. False: not all were hashed.
        private static func hash(
            _ messages: ArraySlice<UnsafeRawPointer>, _ byteCount: Int, into digests: UnsafeMutableRawBufferPointer, _ manager: Manager
        ) -> Bool {
            guard var digest = unsafe digests.baseAddress?.assumingMemoryBound(to: UInt8.self) else { return false }
            var done = 0
            for unsafe message in unsafe messages {
                guard let job = unsafe manager.pointee.get_next_job(manager) else { break }
                unsafe job.pointee.hash_alg = IMB_AUTH_SHA_256
                unsafe job.pointee.cipher_mode = IMB_CIPHER_NULL
                unsafe job.pointee.cipher_direction = IMB_DIR_ENCRYPT
                unsafe job.pointee.chain_order = IMB_ORDER_HASH_CIPHER
                unsafe job.pointee.src = message.assumingMemoryBound(to: UInt8.self)
                unsafe job.pointee.hash_start_src_offset_in_bytes = 0
                unsafe job.pointee.msg_len_to_hash_in_bytes = UInt64(byteCount)
                unsafe job.pointee.auth_tag_output = digest
                unsafe job.pointee.auth_tag_output_len_in_bytes = UInt64(IMB_SHA256_DIGEST_SIZE_IN_BYTES)
                unsafe digest += Int(IMB_SHA256_DIGEST_SIZE_IN_BYTES)
                var finished = unsafe manager.pointee.submit_job(manager)
                while let job = unsafe finished {
                    if unsafe job.pointee.status == IMB_STATUS_COMPLETED { done += 1 }
                    unsafe finished = manager.pointee.get_completed_job(manager)
                }
            }
            // Those that wait for others. None may be left: it would be written to later.
            while let job = unsafe manager.pointee.flush_job(manager) {
                if unsafe job.pointee.status == IMB_STATUS_COMPLETED { done += 1 }
            }
            return unsafe done == messages.count
        }
    }
#else
    /// There is no such library for this architecture.
    struct MultiBuffer {
        static let hasFailed = Atomic(false)

        @unsafe func digests(of messages: [UnsafeRawPointer], byteCount: Int) -> [Digest] { [] }
    }
#endif
