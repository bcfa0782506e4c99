import Blkif
import Synchronization
import System
import XenBus

/// The response that is being written, noted in the padding of the ring's header, so that a backend can be killed at
/// any instant. A response is written over its request before `rsp_prod` is moved beyond it. A successor begins at
/// `rsp_prod`, and would take for a request what is a response already, or half of one: it finds the response here.
///
///     offset 24   magic     tells a record from the zeros of a new ring
///     offset 28   index     of the response: the record counts while rsp_prod is the same
///     offset 32   id
///     offset 40   operation
///     offset 42   status
///
/// Nothing else uses these bytes (xen/io/ring.h, `__pad`). A guest that changes them gets a wrong response, and nobody else does.
@safe struct ResponseRecord {
    private let header: UnsafeMutableRawPointer

    private static let magic: UInt32 = 0x6464_7272

    /// `ring`: the mapped ring, for as long as this is in use.
    @unsafe init(ring: UnsafeMutableRawPointer) { unsafe header = ring }

    /// Call before the response at `index` is written.
    func set(index: UInt32, id: UInt64, rawOperation: UInt8, status: Status) {
        unsafe header.storeBytes(of: id, toByteOffset: 32, as: UInt64.self)
        unsafe header.storeBytes(of: rawOperation, toByteOffset: 40, as: UInt8.self)
        unsafe header.storeBytes(of: status.rawValue, toByteOffset: 42, as: Int16.self)
        unsafe header.storeBytes(of: Self.magic, toByteOffset: 24, as: UInt32.self)
        // Until `index` changes, the record is one of the past: the rest has to be there before.
        atomicMemoryFence(ordering: .acquiringAndReleasing)
        unsafe header.storeBytes(of: index, toByteOffset: 28, as: UInt32.self)
        atomicMemoryFence(ordering: .acquiringAndReleasing)
    }

    /// The response that the predecessor was writing at `index`, which is its `rsp_prod`; nil: it was writing none.
    func response(at index: UInt32) -> (id: UInt64, rawOperation: UInt8, status: Status)? {
        guard unsafe header.load(fromByteOffset: 24, as: UInt32.self) == Self.magic,
            unsafe header.load(fromByteOffset: 28, as: UInt32.self) == index,
            let status = unsafe Status(rawValue: header.load(fromByteOffset: 42, as: Int16.self))
        else { return nil }
        return unsafe (
            header.load(fromByteOffset: 32, as: UInt64.self), header.load(fromByteOffset: 40, as: UInt8.self), status
        )
    }
}
