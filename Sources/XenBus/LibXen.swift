import CXen
import Glibc
public import System

/// The real Xen, through libxenstore, libxengnttab and libxenevtchn.
///
/// Any thread may call: libxenstore takes a lock for each request (its header says so), and each call of libxengnttab is
/// one ioctl(2) of a device that other threads may use at the same time.
@safe public final class LibXen: XenHost, @unchecked Sendable {
    let store: OpaquePointer
    let grants: OpaquePointer

    /// Connects to the xenstore and opens the grant device.
    public init() throws(Failure) {
        unsafe store = try Self.open("the xenstore") { unsafe xs_open(0) }
        do {
            unsafe grants = try Self.open("/dev/xen/gntdev") { unsafe xengnttab_open(cxen_silent_logger(), 0) }
        } catch {
            unsafe xs_close(store)
            throw error
        }
    }

    public func openChannels() throws(Failure) -> LibXenChannels { try LibXenChannels() }

    deinit {
        unsafe xengnttab_close(grants)
        unsafe xs_close(store)
    }

    static func open(_ what: Subject, _ body: () -> OpaquePointer?) throws(Failure) -> OpaquePointer {
        errno = 0
        if let handle = unsafe body() { return unsafe handle }
        switch errno {
        case EACCES, EPERM:
            throw Failure(.system, what, "no permission", remedy: "run as root")
        case ENOENT, ENODEV, ENXIO, 0:
            throw Failure(.notFound, what, "there is no Xen here", remedy: "run in dom0, as root, with xenstored running")
        case let code:
            throw Failure(.system, what, systemError(code), remedy: "run in dom0, as root, with xenstored running")
        }
    }
}

/// What `errno` says, in words.
package func systemError(_ code: Int32) -> String {
    guard let text = unsafe strerror(code) else { return "error \(code)" }
    return unsafe String(cString: text)
}
