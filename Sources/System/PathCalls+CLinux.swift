internal import CLinux
internal import Glibc

// CLinux's functions with a path (see `PathText`).

@unsafe func clinux_open_temporary(_ directory: String) -> Int32 { unsafe PathText.withCString(directory) { unsafe CLinux.clinux_open_temporary($0) } }
@unsafe func clinux_filesystem(_ path: String, _ found: UnsafeMutablePointer<clinux_filesystem_status>) -> Int32 {
    unsafe PathText.withCString(path) { unsafe CLinux.clinux_filesystem($0, found) }
}
@unsafe func clinux_create_at(_ directory: Int32, _ name: String, _ mode: mode_t) -> Int32 {
    unsafe PathText.withCString(name) { unsafe CLinux.clinux_create_at(directory, $0, mode) }
}
@unsafe func clinux_name_temporary(_ descriptor: Int32, _ directory: Int32, _ name: String) -> Int32 {
    unsafe PathText.withCString(name) { unsafe CLinux.clinux_name_temporary(descriptor, directory, $0) }
}
@unsafe func clinux_get_acl(_ path: String, _ value: UnsafeMutableRawPointer?, _ size: Int) -> Int {
    unsafe PathText.withCString(path) { unsafe CLinux.clinux_get_acl($0, value, size) }
}
