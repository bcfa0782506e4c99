internal import System

/// A use that the system makes of a block device, or of a file as one, beside whoever opens it: a filesystem that is mounted, swap,
/// another device that is made of it.
struct FileUse: Equatable {
    /// Goes on behind "it ": `is mounted on /mnt`.
    let words: String
    /// What ends it.
    let remedy: String
    /// Whether it changes nothing.
    let isReadOnly: Bool

    /// All that is known of the file with this status. Nothing here opens it.
    static func all(of status: File.Status) -> [FileUse] {
        switch status.kind {
        case .blockDevice: mounts(of: status) + swaps(of: status) + holders(of: status) + loops(over: status)
        case .regular: swaps(of: status) + loops(over: status)
        default: []
        }
    }

    /// Why `path` is not opened; nil: nothing is in the way.
    /// - Parameter writing: whether it would be changed. Else only uses that may write are in the way.
    static func refusal(_ path: String, _ status: File.Status, _ operation: Failure.Operation, writing: Bool) -> Failure? {
        guard let use = all(of: status).first(where: { writing || !$0.isReadOnly }) else { return nil }
        return Failure(.busy, operation, .image(path), "it \(use.words)", remedy: "\(use.remedy) first")
    }

    /// Whether something is mounted at `path`, which has no link in it.
    static func isMountPoint(_ path: String) -> Bool { Mount.all().contains { $0.place == path } }

    // MARK: Kinds

    private static func mounts(of status: File.Status) -> [FileUse] {
        let devices = [status.deviceName] + partitions(of: status.deviceName)
        return Mount.all().compactMap { mount in
            let source = mount.source.hasPrefix("/") ? device(at: mount.source) : nil
            guard let found = [mount.device, source].compactMap({ $0 }).first(where: devices.contains) else { return nil }
            let part = found == status.deviceName ? "" : "has a partition that "
            return FileUse(words: "\(part)is mounted on \(mount.place)", remedy: "unmount it", isReadOnly: mount.isReadOnly)
        }
    }

    /// As sysfs names them, `8:1`.
    private static func partitions(of device: String) -> [String] {
        let place = "/sys/dev/block/\(device)"
        return File.names(in: place).compactMap { name in
            guard File.text(ofKernelFile: "\(place)/\(name)/partition") != nil else { return nil }
            return File.text(ofKernelFile: "\(place)/\(name)/dev").map(line)
        }
    }

    /// Device mapper, MD and the like.
    private static func holders(of status: File.Status) -> [FileUse] {
        ([status.deviceName] + partitions(of: status.deviceName)).flatMap { device in
            File.names(in: "/sys/dev/block/\(device)/holders").map { holder in
                let title = File.text(ofKernelFile: "/sys/block/\(holder)/dm/name").map { ", \(line($0))" } ?? ""
                return FileUse(words: "is part of /dev/\(holder)\(title)", remedy: "take that down", isReadOnly: isReadOnly(holder))
            }
        }
    }

    /// Loop devices. One that nothing uses does not change the file below it.
    private static func loops(over status: File.Status) -> [FileUse] {
        File.names(in: "/sys/block").filter { $0.hasPrefix("loop") }.compactMap { loop in
            guard let path = File.text(ofKernelFile: "/sys/block/\(loop)/loop/backing_file").map(line), isSame(path, as: status) else { return nil }
            // A loop device over itself there can't be. What can't be looked at has, as far as is known, no use.
            let uses = (try? File.status(of: "/dev/\(loop)")).map { $0.map(all) ?? [] } ?? []
            let worst = uses.first { !$0.isReadOnly } ?? uses.first
            return FileUse(
                words: "is what /dev/\(loop) shows" + (worst.map { ", which \($0.words)" } ?? ""), remedy: "detach that",
                isReadOnly: isReadOnly(loop) || worst?.isReadOnly ?? true)
        }
    }

    private static func swaps(of status: File.Status) -> [FileUse] {
        let lines = File.text(ofKernelFile: "/proc/swaps")?.split(separator: "\n").dropFirst() ?? []
        guard lines.contains(where: { $0.split(separator: " ").first.map { isSame(unescaped($0), as: status) } ?? false }) else { return [] }
        return [FileUse(words: "is swap", remedy: "swapoff it", isReadOnly: false)]
    }

    // MARK: Helpers

    private static func isReadOnly(_ device: String) -> Bool { File.text(ofKernelFile: "/sys/block/\(device)/ro").map(line) == "1" }

    private static func line(_ text: String) -> String { String(text.prefix { $0 != "\n" }) }

    private static func isSame(_ path: String, as status: File.Status) -> Bool {
        // What can't be looked at is, as far as anybody knows, another file.
        (try? File.status(of: path))?.isSame(as: status) ?? false
    }

    /// The device at `path`, as sysfs names it.
    private static func device(at path: String) -> String? {
        // What can't be looked at is, as far as anybody knows, no device.
        guard let status = try? File.status(of: path), status.kind == .blockDevice else { return nil }
        return status.deviceName
    }

    /// A path as the kernel's tables have it: spaces and the like are `\040`.
    fileprivate static func unescaped(_ text: Substring) -> String {
        var bytes: [UInt8] = []
        var rest = PathText.bytes(String(text))[...]
        while let byte = rest.popFirst() {
            let digits = rest.prefix(3)
            if byte == UInt8(ascii: "\\"), digits.count == 3, let value = UInt8(String(decoding: digits, as: UTF8.self), radix: 8) {
                bytes.append(value)
                rest = rest.dropFirst(3)
            } else {
                bytes.append(byte)
            }
        }
        return PathText.text(bytes)
    }

    /// A line of /proc/self/mountinfo (proc(5)): `36 35 98:0 /root /place rw,noatime master:1 - ext4 /dev/source rw,errors=continue`.
    private struct Mount {
        let device, place, source: String
        /// Of the filesystem, whichever of its mounts this is.
        let isReadOnly: Bool

        init?(_ line: Substring) {
            let fields = line.split(separator: " ")
            guard let dash = fields.firstIndex(of: "-"), dash >= 6, fields.count > dash + 3 else { return nil }
            device = String(fields[2])
            place = FileUse.unescaped(fields[4])
            source = FileUse.unescaped(fields[dash + 2])
            isReadOnly = fields[dash + 3].split(separator: ",").contains("ro")
        }

        static func all() -> [Mount] {
            File.text(ofKernelFile: "/proc/self/mountinfo")?.split(separator: "\n").compactMap { Mount($0) } ?? []
        }
    }
}

/// A block device or a file that is opened as a disk or an image, under locks that other programs can ask for: it has one writer, or any number
/// of readers. The locks are the device's, whichever of its names it was opened by.
enum SharedFile {
    /// Opens what is at `path`, and takes its lock.
    /// - Parameters:
    ///   - what: what for, as errors say it.
    ///   - isForced: opens it whoever uses it. Locks that are free are taken.
    /// - Throws: `.busy` when somebody else uses it in a way that does not go with this, and who it is, as far as that can be told.
    static func open(_ path: String, _ operation: Failure.Operation, writing: Bool, isForced: Bool) throws(Failure) -> (file: FileHolder, status: File.Status) {
        guard let status = try File.status(of: path) else { throw Failure(systemCall: "open", .file(path), errno: 2) }
        guard status.kind == .regular || status.kind == .blockDevice else {
            throw Failure(.usage, operation, .image(path), "neither a file nor a block device")
        }
        if !isForced, let refusal = FileUse.refusal(path, status, operation, writing: writing) { throw refusal }
        let file = try openFile(path, operation, status, writing: writing, isForced: isForced)
        let opened = try file.status()
        guard opened.isSame(as: status) else { throw Failure(.busy, operation, .file(path), "it was replaced meanwhile", remedy: "try again") }
        let holder = FileHolder(file, canonical: try canonicalNode(of: opened, writing: writing))
        let isLocked: Bool
        do throws(Failure) { isLocked = try holder.tryLock(exclusive: writing) } catch {
            // Some filesystems have no locks: nobody can say there that he writes, and who reads needs not to.
            guard isForced || !writing else { throw error }
            isLocked = true
        }
        guard isForced || (isLocked && !isWritten(holder.file)) else { throw inUse(path, operation, opened, writing: writing) }
        return (holder, opened)
    }

    /// Whether somebody has it locked to write; false where the filesystem has no locks.
    static func isWritten(_ file: borrowing File) -> Bool {
        // Where there are no locks, nobody says so.
        (try? file.isWrittenElsewhere()) ?? false
    }

    /// The same for a descriptor that was given, and so is open already; its locks would be those of whoever gave it. A device is
    /// opened anew, by the name that the system has for it.
    static func claim(_ file: borrowing File, _ status: File.Status, _ operation: Failure.Operation, writing: Bool) throws(Failure) -> FileHolder? {
        if let refusal = FileUse.refusal(file.path, status, operation, writing: writing) { throw refusal }
        if isWritten(file) { throw inUse(file.path, operation, status, writing: writing) }
        guard let path = systemName(of: status), let found = try File.status(of: path), found.isSame(as: status) else { return nil }
        return try open(path, operation, writing: writing, isForced: false).file
    }

    /// open(2), and of a device that is to be written O_EXCL, which the kernel gives to one program or filesystem at a time.
    private static func openFile(
        _ path: String, _ operation: Failure.Operation, _ status: File.Status, writing: Bool, isForced: Bool
    ) throws(Failure) -> File {
        let isExclusive = writing && !isForced && status.kind == .blockDevice
        // As long as for a lock: a process that was killed has its files until the kernel has closed them.
        for _ in 0..<32 {
            do throws(Failure) {
                return try File(path: path, options: writing ? (isExclusive ? [.write, .exclusive] : .write) : [])
            } catch {
                guard isExclusive, error.kind == .busy else { throw error }
                pause(milliseconds: 10)
            }
        }
        throw inUse(path, operation, status, writing: writing)
    }

    static func inUse(_ path: String, _ operation: Failure.Operation, _ status: File.Status, writing: Bool) -> Failure {
        let users = programs(using: status)
        let who = users.isEmpty ? "something else, perhaps in another container," : users.prefix(3).joined(separator: ", ")
        return Failure(
            .busy, operation, .image(path), "it is in use: \(who) has it open",
            remedy: writing ? "end that first" : "wait until it is closed")
    }

    /// Programs that have it open, as far as this one may see: /proc/PID/fd.
    private static func programs(using status: File.Status) -> [String] {
        let own = File.resolved("/proc/self").map { File.split($0).name }
        return File.names(in: "/proc").filter { $0.utf8.allSatisfy { (48...57).contains($0) } && $0 != own }.compactMap { process in
            let place = "/proc/\(process)/fd"
            let hasIt = File.names(in: place).contains { name in
                // What can't be looked at is not known.
                (try? File.status(of: "\(place)/\(name)"))?.isSame(as: status) ?? false
            }
            guard hasIt else { return nil }
            let name = File.text(ofKernelFile: "/proc/\(process)/comm").map { $0.prefix { $0 != "\n" } } ?? "a program"
            return "\(name) (process \(process))"
        }
    }

    /// A lock belongs to the name of a device that was opened, not to the device. So the one that the system gave it is locked,
    /// too. Nil: it is that one, or there is none here.
    private static func canonicalNode(of status: File.Status, writing: Bool) throws(Failure) -> FileHolder.Node? {
        guard let path = systemName(of: status), let found = try File.status(of: path), found.isSame(as: status),
            (found.filesystem, found.inode) != (status.filesystem, status.inode)
        else { return nil }
        return FileHolder.Node(try File(path: path, options: writing ? .write : []))
    }

    /// What the system calls a block device: /dev/sda.
    private static func systemName(of status: File.Status) -> String? {
        guard status.kind == .blockDevice, let event = File.text(ofKernelFile: "/sys/dev/block/\(status.deviceName)/uevent") else { return nil }
        return event.split(separator: "\n").first { $0.hasPrefix("DEVNAME=") }.map { "/dev/" + $0.dropFirst(8) }
    }
}

/// An opened file with its locks.
final class FileHolder: Sendable {
    let file: File
    private let canonical: Node?

    final class Node: Sendable {
        let file: File
        init(_ file: consuming File) { self.file = file }
    }

    init(_ file: consuming File, canonical: Node?) {
        self.file = file
        self.canonical = canonical
    }

    func tryLock(exclusive: Bool) throws(Failure) -> Bool {
        guard try file.tryLock(exclusive: exclusive) else { return false }
        return try canonical?.file.tryLock(exclusive: exclusive) ?? true
    }

    func unlock() throws(Failure) {
        try canonical?.file.unlock()
        try file.unlock()
    }
}
