import CXen
import Glibc
public import System

extension LibXen {
    @unsafe public func mapPages(of domain: DomainID, _ references: [GrantReference]) throws(Failure) -> UnsafeMutableRawPointer {
        var references = references
        let pages = unsafe xengnttab_map_domain_grant_refs(
            grants, UInt32(references.count), UInt32(domain), &references, PROT_READ | PROT_WRITE)
        guard let pages = unsafe pages else {
            throw Failure(
                .system, "map", "\(references.count) page(s) of domain \(domain), grant \(references.first ?? 0)",
                systemError(errno), remedy: "the guest may have gone, or not granted them")
        }
        return unsafe pages
    }

    @unsafe public func unmapPages(_ pages: UnsafeMutableRawPointer, count: Int) {
        // It can fail only for what is not mapped.
        _ = unsafe xengnttab_unmap(grants, pages, UInt32(count))
    }

    /// GNTST_eagain, a page that the toolstack has paged out, is tried again by the library.
    public func perform(_ batch: inout GrantCopyBatch) throws(Failure) {
        guard batch.count > 0 else { return }
        guard unsafe xengnttab_grant_copy(grants, UInt32(batch.count), batch.segments.baseAddress) == 0 else {
            throw Failure(.system, "copy", "\(batch.count) granted ranges", systemError(errno))
        }
    }
}
