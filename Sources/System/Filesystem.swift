internal import CLinux
internal import Glibc

/// What a path is on, and how much room is there: statfs(2).
public struct Filesystem: Sendable {
    private let type: UInt32
    /// It was mounted so that nobody writes (`ST_RDONLY`).
    public let isReadOnly: Bool
    /// What others than root can have, as df(1) counts it.
    public let freeBytes: UInt64
    /// How much of it is taken, in percent, as df(1) counts it. Of one that counts no blocks nothing can be said: 0.
    public let fill: Double

    public init(of path: String) throws(Failure) {
        var found = clinux_filesystem_status()
        guard unsafe clinux_filesystem(path, &found) == 0 else { throw Failure(systemCall: "look at the filesystem of", .file(path), errno: errno) }
        type = found.type
        isReadOnly = found.is_read_only != 0
        freeBytes = found.available_blocks.multipliedReportingOverflow(by: found.block_bytes).partialValue
        let used = Double(found.blocks - min(found.blocks, found.free_blocks))
        fill = used == 0 ? 0 : used / (used + Double(found.available_blocks)) * 100
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
