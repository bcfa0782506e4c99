public import Glibc

// System calls with a path (see `PathText`), as section 2 or 3 of the manual has them.

@unsafe @discardableResult public func access(_ path: String, _ mode: Int32) -> Int32 { unsafe PathText.withCString(path) { unsafe Glibc.access($0, mode) } }
@unsafe public func open(_ path: String, _ flags: Int32) -> Int32 { unsafe PathText.withCString(path) { unsafe Glibc.open($0, flags) } }
@unsafe public func open(_ path: String, _ flags: Int32, _ mode: mode_t) -> Int32 {
    unsafe PathText.withCString(path) { unsafe Glibc.open($0, flags, mode) }
}
@unsafe @discardableResult public func stat(_ path: String, _ status: UnsafeMutablePointer<stat>) -> Int32 {
    unsafe PathText.withCString(path) { unsafe stat($0, status) }
}
@unsafe @discardableResult public func lstat(_ path: String, _ status: UnsafeMutablePointer<stat>) -> Int32 {
    unsafe PathText.withCString(path) { unsafe Glibc.lstat($0, status) }
}
@unsafe @discardableResult public func unlink(_ path: String) -> Int32 { unsafe PathText.withCString(path) { unsafe Glibc.unlink($0) } }
@unsafe @discardableResult public func mkdir(_ path: String, _ mode: mode_t) -> Int32 { unsafe PathText.withCString(path) { unsafe Glibc.mkdir($0, mode) } }
@unsafe @discardableResult public func rmdir(_ path: String) -> Int32 { unsafe PathText.withCString(path) { unsafe Glibc.rmdir($0) } }
@unsafe public func opendir(_ path: String) -> OpaquePointer? { unsafe PathText.withCString(path) { unsafe Glibc.opendir($0) } }
@unsafe public func realpath(_ path: String, _ resolved: UnsafeMutablePointer<CChar>?) -> UnsafeMutablePointer<CChar>? {
    unsafe PathText.withCString(path) { unsafe Glibc.realpath($0, resolved) }
}
@unsafe @discardableResult public func chmod(_ path: String, _ mode: mode_t) -> Int32 { unsafe PathText.withCString(path) { unsafe Glibc.chmod($0, mode) } }
@unsafe @discardableResult public func chown(_ path: String, _ owner: uid_t, _ group: gid_t) -> Int32 {
    unsafe PathText.withCString(path) { unsafe Glibc.chown($0, owner, group) }
}
@unsafe @discardableResult public func rename(_ from: String, _ to: String) -> Int32 {
    unsafe PathText.withCString(from) { from in unsafe PathText.withCString(to) { unsafe Glibc.rename(from, $0) } }
}
@unsafe @discardableResult public func link(_ from: String, _ to: String) -> Int32 {
    unsafe PathText.withCString(from) { from in unsafe PathText.withCString(to) { unsafe Glibc.link(from, $0) } }
}
@unsafe @discardableResult public func renameat(_ directory: Int32, _ from: String, _ other: Int32, _ to: String) -> Int32 {
    unsafe PathText.withCString(from) { from in unsafe PathText.withCString(to) { unsafe Glibc.renameat(directory, from, other, $0) } }
}
@unsafe @discardableResult public func unlinkat(_ directory: Int32, _ path: String, _ flags: Int32) -> Int32 {
    unsafe PathText.withCString(path) { unsafe Glibc.unlinkat(directory, $0, flags) }
}
@unsafe public func readlink(_ path: String, _ buffer: UnsafeMutablePointer<CChar>, _ size: Int) -> Int {
    unsafe PathText.withCString(path) { unsafe Glibc.readlink($0, buffer, size) }
}
