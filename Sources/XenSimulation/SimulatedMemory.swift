import CXen
import Glibc
import System
import XenBus

/// The memory of a `SimulatedMachine`, as one process has it: a memory file that is mapped as a whole. So granted pages can be mapped as
/// gntdev maps them: the same memory at another address, any pages one after the other.
@safe final class SimulatedMemory: @unchecked Sendable {
    let file: Int32
    let pageCount: Int
    private let base: UnsafeMutableRawPointer

    /// - Parameter file: a memory file, which stays the caller's.
    init(file: Int32) throws(Failure) {
        let byteCount = lseek(file, 0, SEEK_END)
        let base = unsafe mmap(nil, max(0, byteCount), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
        guard byteCount > 0, let base = unsafe base, unsafe base != MAP_FAILED else {
            throw Failure(.system, "map", "the memory of a simulated machine", systemError(errno))
        }
        unsafe self.base = base
        self.file = file
        pageCount = byteCount / xenPageSize
    }

    deinit { unsafe munmap(base, pageCount * xenPageSize) }

    /// A page's first byte, which is there as long as this is.
    @unsafe func pointer(toPage page: Int) -> UnsafeMutableRawPointer { unsafe base + page * xenPageSize }

    /// Maps these pages one after the other. Nil: there is no address space for them (`errno` says why).
    @unsafe func map(_ pages: [Int]) -> UnsafeMutableRawPointer? {
        let reserved = unsafe mmap(nil, pages.count * xenPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let reserved = unsafe reserved, unsafe reserved != MAP_FAILED else { return nil }
        for (index, page) in pages.enumerated() {
            _ = unsafe mmap(
                reserved + index * xenPageSize, xenPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, page * xenPageSize)
        }
        return unsafe reserved
    }

    /// Does one copy between `page` and `local`.
    /// - Parameter isLent: `local`, which is read, may be memory that is not there.
    /// - Returns: false: it was not there; gntdev would fail with EFAULT.
    @unsafe func copy(_ segment: xengnttab_grant_copy_segment_t, _ local: UnsafeMutableRawPointer, page: Int, isLent: Bool) -> Bool {
        let range = unsafe segment.foreignSide.range
        let length = range.count
        let offset = page * xenPageSize + range.lowerBound
        if unsafe segment.isFromGrant {
            unsafe local.copyMemory(from: base + offset, byteCount: length)
        } else if isLent {
            // By a system call, which fails where memcpy would end the process.
            return unsafe pwrite(file, local, length, offset) == length
        } else {
            unsafe (base + offset).copyMemory(from: local, byteCount: length)
        }
        return true
    }
}

extension xengnttab_grant_copy_segment_t {
    @unsafe fileprivate var isFromGrant: Bool { unsafe flags == UInt16(GNTCOPY_source_gref) }

    /// The side of the copy that is granted: its grant, and where it is in the granted page, or beyond its end.
    @unsafe var foreignSide: (reference: GrantReference, domain: DomainID, range: Range<Int>) {
        let foreign = unsafe isFromGrant ? source.foreign : dest.foreign
        return unsafe (foreign.ref, foreign.domid, Int(foreign.offset)..<Int(foreign.offset) + Int(len))
    }

    /// The other side.
    @unsafe var localSide: UnsafeMutableRawPointer? { unsafe isFromGrant ? dest.virt : source.virt }
}
