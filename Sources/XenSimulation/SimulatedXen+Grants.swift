import CXen
import Glibc
public import System
public import XenBus

extension SimulatedXen {
    @unsafe public func mapPages(of domain: DomainID, _ references: [GrantReference]) throws(Failure) -> UnsafeMutableRawPointer {
        let what: Subject = "\(references.count) page(s) of domain \(domain), grant \(references.first ?? 0)"
        do throws(StoreRefusal) {
            return unsafe try call { state throws(StoreRefusal) in
                var pages: [Int] = []
                for reference in references {
                    guard let grant = state.grant(reference, of: domain, to: self.domain) else { throw StoreRefusal(code: EINVAL) }
                    pages.append(grant.page)
                }
                guard let mapped = unsafe machine.memory.map(pages) else { throw StoreRefusal(code: ENOMEM) }
                state.processes[id]?.mappings[Int(bitPattern: mapped)] = .init(domain: domain, references: references)
                return unsafe mapped
            }
        } catch {
            throw Failure(.system, "map", what, systemError(error.code), remedy: "the guest may have gone, or not granted them")
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
        let foreign = unsafe segment.foreignSide
        // gntdev refuses the whole call.
        guard foreign.range.upperBound <= xenPageSize else { throw StoreRefusal(code: EINVAL) }
        guard state.domains[foreign.domain]?.isAlive == true else { return GNTST_bad_domain }
        guard let grant = state.grant(foreign.reference, of: foreign.domain, to: domain), let local = unsafe segment.localSide
        else { return GNTST_bad_gntref }
        guard unsafe machine.memory.copy(segment, local, page: grant.page, isLent: isLent) else { throw StoreRefusal(code: EFAULT) }
        return GNTST_okay
    }
}

extension SimulatedMachine.State {
    /// The grant under this reference, when `grantee` may use it.
    func grant(_ reference: GrantReference, of domain: DomainID, to grantee: DomainID) -> Grant? {
        guard let grant = domains[domain]?.grants[reference], grant.grantee == grantee else { return nil }
        return grant
    }
}
