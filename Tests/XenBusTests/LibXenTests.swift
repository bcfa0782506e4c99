import Glibc
import System
import Testing
import XenBus

private let hasXen = unsafe access("/dev/xen", F_OK) == 0 || access("/proc/xen/xenbus", F_OK) == 0

@Suite struct LibXenTests {
    @Test(.enabled(if: !hasXen))
    func withoutXenTheErrorSaysSo() throws {
        let failure = #expect(throws: Failure.self) { _ = try LibXen() }
        #expect(
            failure?.description
                == "the xenstore: there is no Xen here (run in dom0, as root, with xenstored running)")
        #expect(failure?.kind == .notFound)
    }
}
