import CXen
import Glibc
import System
import XenBus

/// The memory of a `SimulatedMachine`, as one process has it: one memory file, whole, so that mapping grants gives what
/// gntdev gives: the same memory at another address, any pages one after the other.
@safe final class SimulatedMemory: @unchecked Sendable {
    let file: Int32
    let pageCount: Int
    private let base: UnsafeMutableRawPointer

    /// - Parameter file: a memory file, which stays the caller's.
    init(file: Int32) throws(Failure) {
        let byteCount = lseek(file, 0, SEEK_END)
        let base = unsafe mmap(nil, max(0, byteCount), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
        guard byteCount > 0, let base = unsafe base, unsafe base != MAP_FAILED else {
            throw Failure(.system, "memory of a simulated machine", systemError(errno))
        }
        unsafe self.base = base
        self.file = file
        pageCount = byteCount / xenPageSize
    }

    deinit { unsafe munmap(base, pageCount * xenPageSize) }

    /// A page's first byte, for as long as the memory is.
    @unsafe func pointer(toPage page: Int) -> UnsafeMutableRawPointer { unsafe base + page * xenPageSize }

    /// These pages at addresses that follow each other. Nil: there are none of them, or no room.
    @unsafe func map(_ pages: [Int]) -> UnsafeMutableRawPointer? {
        let reserved = unsafe mmap(nil, pages.count * xenPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let reserved = unsafe reserved, unsafe reserved != MAP_FAILED else { return nil }
        for (index, page) in pages.enumerated() {
            _ = unsafe mmap(
                reserved + index * xenPageSize, xenPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, page * xenPageSize)
        }
        return unsafe reserved
    }

    /// Does what a segment of a grant copy asks for, which lies within `page`.
    /// - Parameter isLent: the local side, which is read, may not be there.
    /// - Returns: false: it was not, and gntdev would fail with EFAULT.
    @unsafe func copy(_ segment: xengnttab_grant_copy_segment_t, _ local: UnsafeMutableRawPointer, page: Int, isLent: Bool) -> Bool {
        let range = unsafe segment.foreignSide.range
        let length = range.count
        let offset = page * xenPageSize + range.lowerBound
        if unsafe segment.isFromGrant {
            unsafe local.copyMemory(from: base + offset, byteCount: length)
        } else if isLent {
            // The system call fails as gntdev's does.
            return unsafe pwrite(file, local, length, offset) == length
        } else {
            unsafe (base + offset).copyMemory(from: local, byteCount: length)
        }
        return true
    }
}

extension xengnttab_grant_copy_segment_t {
    @unsafe fileprivate var isFromGrant: Bool { unsafe flags == UInt16(GNTCOPY_source_gref) }

    /// The granted bytes it is about: their grant, and where they are in its page, or beyond its end.
    @unsafe var foreignSide: (reference: GrantReference, domain: DomainID, range: Range<Int>) {
        let foreign = unsafe isFromGrant ? source.foreign : dest.foreign
        return unsafe (foreign.ref, foreign.domid, Int(foreign.offset)..<Int(foreign.offset) + Int(len))
    }

    /// Where the others are.
    @unsafe var localSide: UnsafeMutableRawPointer? { unsafe isFromGrant ? dest.virt : source.virt }
}
