public import BlockModel
import CXen
import Glibc

extension SimulatedXen {
    @unsafe public func mapPages(of domain: DomainID, _ references: [GrantReference]) throws(Failure) -> UnsafeMutableRawPointer {
        let what = "map \(references.count) page(s) of domain \(domain), grant \(references.first ?? 0)"
        let byteCount = references.count * xenPageSize
        do throws(StoreRefusal) {
            return unsafe try call { state throws(StoreRefusal) in
                var pages: [Int] = []
                for reference in references {
                    guard let grant = state.grant(reference, of: domain, to: self.domain) else { throw StoreRefusal(code: EINVAL) }
                    pages.append(grant.page)
                }
                let reserved = unsafe mmap(nil, byteCount, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                guard byteCount > 0, let reserved = unsafe reserved, unsafe reserved != MAP_FAILED else {
                    throw StoreRefusal(code: ENOMEM)
                }
                for (index, page) in pages.enumerated() {
                    _ = unsafe mmap(
                        reserved + index * xenPageSize, xenPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                        machine.memoryFile, page * xenPageSize)
                }
                state.processes[id]?.mappings[Int(bitPattern: reserved)] = .init(domain: domain, references: references)
                return unsafe reserved
            }
        } catch {
            throw Failure(.system, what, systemError(error.code), remedy: "the guest may have gone, or not granted them")
        }
    }

    @unsafe public func unmapPages(_ pages: UnsafeMutableRawPointer, count: Int) {
        machine.state.with { state in
            _ = state.processes[id]?.mappings.removeValue(forKey: Int(bitPattern: pages))
        }
        _ = unsafe munmap(pages, count * xenPageSize)
    }

    public func perform(_ batch: inout GrantCopyBatch) throws(Failure) {
        do throws(StoreRefusal) {
            try call { state throws(StoreRefusal) in
                for index in 0..<batch.count {
                    unsafe batch.segments[index].status = Int16(try copy(batch.segments[index], state, isLent: batch.isFromLentMemory))
                }
            }
        } catch {
            throw Failure(.system, "copy \(batch.count) granted ranges", systemError(error.code))
        }
    }

    /// Does one copy, and returns its GNTST status.
    @unsafe private func copy(
        _ segment: xengnttab_grant_copy_segment_t, _ state: borrowing SimulatedMachine.State, isLent: Bool
    ) throws(StoreRefusal) -> Int32 {
        let isFromGrant = unsafe segment.flags == UInt16(GNTCOPY_source_gref)
        let foreign = unsafe isFromGrant ? segment.source.foreign : segment.dest.foreign
        let length = unsafe Int(segment.len)
        // gntdev refuses the whole call.
        guard Int(foreign.offset) + length <= xenPageSize else { throw StoreRefusal(code: EINVAL) }
        guard state.domains[foreign.domid]?.isAlive == true else { return GNTST_bad_domain }
        guard let grant = state.grant(foreign.ref, of: foreign.domid, to: domain),
            let local = unsafe isFromGrant ? segment.dest.virt : segment.source.virt
        else { return GNTST_bad_gntref }
        let page = unsafe machine.memory + grant.page * xenPageSize + Int(foreign.offset)
        if isFromGrant {
            unsafe local.copyMemory(from: page, byteCount: length)
        } else if isLent {
            let offset = grant.page * xenPageSize + Int(foreign.offset)
            guard unsafe copyLent(local, length, to: machine.memoryFile, at: offset) else { throw StoreRefusal(code: EFAULT) }
        } else {
            unsafe page.copyMemory(from: local, byteCount: length)
        }
        return GNTST_okay
    }
}

/// Copies from memory that may not be there to a machine's: by pwrite(2), which then fails as gntdev does. False: it was not.
@unsafe func copyLent(_ local: UnsafeRawPointer, _ byteCount: Int, to memoryFile: Int32, at offset: Int) -> Bool {
    unsafe pwrite(memoryFile, local, byteCount, offset) == byteCount
}

extension SimulatedMachine.State {
    /// The grant under this reference, when `grantee` may use it.
    func grant(_ reference: GrantReference, of domain: DomainID, to grantee: DomainID) -> Grant? {
        guard let grant = domains[domain]?.grants[reference], grant.grantee == grantee else { return nil }
        return grant
    }
}
