import Glibc
import System
import TestSupport

/// A small filesystem of its own, gone with this.
final class Volume {
    enum Kind: String, CaseIterable, Sendable { case tmpfs, ext4 }

    let path: String
    private let image: String
    private let hasImage: Bool

    /// What a test says when it can't have one.
    static let why: String = "mounting a filesystem takes root, and for ext4 a loop device and mkfs.ext4"

    static func isAvailable(_ kind: Kind) -> Bool { (try? Volume(kind, megabytes: 8)) != nil }
    static let available = Kind.allCases.filter { isAvailable($0) }

    init(_ kind: Kind, megabytes: Int) throws {
        var random = SystemRandomNumberGenerator()
        path = "/tmp/dedupdisk-volume-\(getpid())-\(random.next() as UInt64)"
        image = path + ".image"
        hasImage = kind == .ext4
        unsafe mkdir(path, 0o700)
        do {
            if kind == .ext4 {
                try File(path: image, options: [.write, .create]).truncate(to: UInt64(megabytes) << 20)
                try Self.run("mkfs.ext4", "-q", "-F", "-m", "0", image)
                try Self.run("mount", "-o", "loop", image, path)
            } else {
                try Self.run("mount", "-t", "tmpfs", "-o", "size=\(megabytes)m", "tmpfs", path)
            }
        } catch {
            unsafe rmdir(path)
            unsafe unlink(image)
            throw error
        }
    }

    deinit {
        // Also when somebody still has a file open there.
        unsafe umount2(path, Int32(MNT_DETACH))
        unsafe rmdir(path)
        if hasImage { unsafe unlink(image) }
    }

    private static func run(_ name: String, _ arguments: String...) throws {
        let outcome = try Child("/usr/bin/env", ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", name] + arguments).wait()
        guard outcome.status == 0 else { throw Failure(.system, .named(name), outcome.errors) }
    }

    /// Takes every byte that is left; again and again, what comes back.
    func fill() {
        // No child of another test may have it: what it takes would not come back with its name.
        let descriptor = unsafe open(path + "/filler", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        var page = [UInt8](repeating: 1, count: 4096)
        while unsafe write(descriptor, &page, 4096) > 0 {}
        while unsafe write(descriptor, &page, 512) > 0 {}
        close(descriptor)
    }

    func empty() { unsafe unlink(path + "/filler") }

    /// Makes a tmpfs larger.
    func grow(to megabytes: Int) { unsafe mount("tmpfs", path, "tmpfs", UInt(MS_REMOUNT), "size=\(megabytes)m") }

    /// Bytes that are free.
    var free: UInt64 { (try? Filesystem(of: path).freeBytes) ?? 0 }
}
