internal import CLinux

// CLinux's functions with a path (see `PathText`).

@unsafe func clinux_open_temporary(_ directory: String) -> Int32 { unsafe PathText.withCString(directory) { unsafe CLinux.clinux_open_temporary($0) } }
@unsafe func clinux_filesystem(_ path: String, _ type: UnsafeMutablePointer<UInt32>, _ isReadOnly: UnsafeMutablePointer<Int32>) -> Int32 {
    unsafe PathText.withCString(path) { unsafe CLinux.clinux_filesystem($0, type, isReadOnly) }
}
