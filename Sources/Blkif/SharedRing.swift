import CXen
import System

/// The memory that both ends share (xen/io/ring.h), little-endian:
///
///     0         4          8         12         16        64
///     req_prod  req_event  rsp_prod  rsp_event  padding   slots...
///
/// Indices run freely and wrap at 2³²; the slot of an index is the index modulo `entries`. The other end may change any
/// byte at any time: nothing is read twice here, and nothing that was read is trusted.
@safe struct SharedRing {
    /// A shared index: its byte offset.
    enum Index: Int {
        case requestProducer = 0
        case requestEvent = 4
        case responseProducer = 8
        case responseEvent = 12
    }

    let abi: ABI
    /// Number of slots, a power of two.
    let entries: UInt32
    private let memory: UnsafeMutableRawPointer

    /// `memory` stays mapped, read-write, for as long as the ring is in use.
    @unsafe init(_ memory: UnsafeMutableRawPointer, byteCount: Int, abi: ABI) throws(Failure) {
        guard (0...4).contains(where: { byteCount == 4096 << $0 }) else {
            throw Failure(.invalidRequest, "ring of \(byteCount) bytes", "a ring is 1, 2, 4, 8 or 16 pages of 4096 bytes")
        }
        unsafe self.memory = unsafe memory
        self.abi = abi
        let fitting = (byteCount - CXEN_RING_SLOTS) / abi.slotByteCount
        entries = 1 << UInt32(fitting.bitWidth - 1 - fitting.leadingZeroBitCount)
    }

    // In the functions below, fields and slots are within the memory that `init` was given.

    /// SHARED_RING_INIT.
    func reset() { unsafe cxen_ring_init(memory) }

    func load(_ index: Index) -> UInt32 { unsafe cxen_ring_load(memory, index.rawValue) }

    func store(_ index: Index, _ value: UInt32) { unsafe cxen_ring_store(memory, index.rawValue, value) }

    /// Moves a producer; whether the other end wants an event.
    func push(_ producer: Index, event: Index, from: UInt32, to: UInt32) -> Bool {
        unsafe cxen_ring_push(memory, producer.rawValue, event.rawValue, from, to)
    }

    /// Asks for an event once the other end's producer reaches `value`.
    func requestEvent(_ event: Index, at value: UInt32) { unsafe cxen_ring_request_event(memory, event.rawValue, value) }

    /// Copies the slot of `index` out, `byteCount` bytes of it.
    func copyOut(_ index: UInt32, byteCount: Int, into copy: inout MutableRawSpan) {
        let count = min(byteCount, copy.byteCount, abi.slotByteCount)
        unsafe copy.withUnsafeMutableBytes { bytes in
            guard let base = bytes.baseAddress else { return }
            unsafe cxen_ring_copy_out(base, slot(index), count)
        }
    }

    /// Copies `bytes` into the slot of `index`.
    func copyIn(_ index: UInt32, _ bytes: RawSpan) {
        unsafe bytes.withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress else { return }
            unsafe slot(index).copyMemory(from: base, byteCount: min(bytes.count, abi.slotByteCount))
        }
    }

    private func slot(_ index: UInt32) -> UnsafeMutableRawPointer {
        unsafe memory + CXEN_RING_SLOTS + Int(index & (entries - 1)) * abi.slotByteCount
    }
}

/// Room for the private copy of a slot of any ABI.
typealias SlotBytes = InlineArray<112, UInt8>
