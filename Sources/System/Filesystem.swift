internal import CLinux
internal import Glibc

/// What a path is on: statfs(2).
public struct Filesystem: Sendable {
    private let type: UInt32
    /// It was mounted so that nobody writes (`ST_RDONLY`).
    public let isReadOnly: Bool

    public init(of path: String) throws(Failure) {
        var type: UInt32 = 0, isReadOnly: Int32 = 0
        guard unsafe clinux_filesystem(path, &type, &isReadOnly) == 0 else { throw Failure(systemCall: "look at the filesystem of", .file(path), errno: errno) }
        self.type = type
        self.isReadOnly = isReadOnly != 0
    }

    /// What it is called when other machines have it, too (statfs(2), linux/magic.h); nil: it is this machine's.
    public var networkName: String? {
        switch type {
        case 0x6969: "NFS"
        case 0x517b, 0xff53_4d42, 0xfe53_4d42: "SMB"
        case 0x0102_1997: "9P"
        case 0x5346_414f, 0x6b41_4653: "AFS"
        case 0x7375_7245: "Coda"
        case 0x00c3_6400: "CephFS"
        case 0x0bd0_0bd0: "Lustre"
        case 0x4750_4653: "GPFS"
        default: nil
        }
    }
}

/// Room on the filesystem of a path, as df(1) counts it: what others than root can have.
public struct FilesystemRoom: Sendable {
    public let freeBytes: UInt64
    /// How much of it is taken, in percent.
    public let fill: Double

    public init(freeBytes: UInt64, fill: Double) {
        self.freeBytes = freeBytes
        self.fill = fill
    }

    public init(of path: String) throws(Failure) {
        var status = statvfs()
        guard unsafe statvfs(path, &status) == 0 else { throw Failure(systemCall: "look at the filesystem of", .file(path), errno: errno) }
        let unit = UInt64(status.f_frsize), free = UInt64(status.f_bavail)
        let used = UInt64(status.f_blocks) - min(UInt64(status.f_blocks), UInt64(status.f_bfree))
        // Of a filesystem that counts no blocks, nothing can be said.
        self.init(
            freeBytes: free.multipliedReportingOverflow(by: unit).partialValue, fill: used == 0 ? 0 : Double(used) / (Double(used) + Double(free)) * 100)
    }
}
