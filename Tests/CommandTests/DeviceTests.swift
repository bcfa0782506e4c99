import Glibc
import System
import Testing
import TestSupport

/// A loop device over a file of its own, detached with this.
final class LoopDevice {
    let path: String
    let file: String

    static let isAvailable: Bool = {
        guard geteuid() == 0, let scratch = try? ScratchDirectory(), let device = try? LoopDevice(scratch.path + "/probe", [UInt8](repeating: 0, count: 4096))
        else { return false }
        return !device.path.isEmpty
    }()

    init(_ file: String, _ bytes: [UInt8]) throws {
        self.file = file
        try Files.write(file, bytes)
        let outcome = try Child("/usr/sbin/losetup", ["-f", "--show", file]).wait()
        path = String(outcome.text.prefix { $0 != "\n" })
        guard outcome.status == 0, path.hasPrefix("/dev/loop") else { throw Failure(.system, "make a loop device", outcome.errors) }
    }

    deinit { _ = try? Child("/usr/sbin/losetup", ["-d", path]).wait() }
}

/// Block devices to import from, to export to, and to serve.
@Suite(.serialized, .enabled(if: LoopDevice.isAvailable, "needs root and loop devices"))
struct DeviceTests {
    let tool: Tool
    let bytes: [UInt8]

    init() throws {
        tool = try Tool()
        bytes = try tool.disk("gold", [1, 0, 0, 2] + [UInt64](repeating: 0, count: 600) + [3, 4, 0])
    }

    func run(_ program: String, _ arguments: String...) throws -> Child.Outcome { try Child(program, arguments).wait() }

    /// Another name for a device.
    func node(_ path: String, of device: String) throws {
        let status = try #require(try File.status(of: device))
        try #require(unsafe mknod(path, S_IFBLK | 0o600, dev_t(status.device)) == 0)
    }

    @Test func inAndOut() throws {
        let source = try LoopDevice(tool.path("source"), bytes)
        try tool.succeed("import", source.path, "named")
        #expect(try tool.run("import", "-", "given", input: .file(source.path)).status == 0)
        for name in ["named", "given"] { #expect(try tool.run("export", name, "-").output == bytes) }
        // What it held before shows nowhere but behind the disk's end.
        let rest = [UInt8](repeating: 0x5a, count: 40_960)
        let old = [UInt8](repeating: 0x5a, count: bytes.count) + rest
        for script in ["$dd export gold $0", "$dd export gold - >$0", "$dd export gold --in-place $0"] {
            let target = try LoopDevice(tool.path("target"), old)
            let outcome = try Child("/bin/bash", ["-c", script, target.path], environment: ["DEDUPDISK_STORE": tool.store, "dd": tool.executable]).wait()
            #expect(outcome.status == 0 && outcome.errors == "", "\(outcome)")
            #expect(try Files.bytes(target.file) == bytes + rest, "\(script)")
        }
    }

    @Test func aDeviceThatIsTooSmallKeepsWhatItHas() throws {
        let old = [UInt8](repeating: 0x5a, count: bytes.count - 4096)
        let target = try LoopDevice(tool.path("target"), old)
        try tool.fail("export", "gold", target.path, naming: ["\(old.count)", "\(bytes.count)"])
        #expect(try Files.bytes(target.file) == old)
    }

    /// A filesystem on it, mounted; gone with this.
    final class Mounted {
        let device: LoopDevice
        let place: String

        init(_ tool: Tool, _ name: String) throws {
            device = try LoopDevice(tool.path(name), [UInt8](repeating: 0, count: 8 << 20))
            place = tool.path("a mount")
            unsafe mkdir(place, 0o755)
            guard try Child("/usr/sbin/mkfs.ext4", ["-q", device.path]).wait().status == 0 else { throw Failure(.system, "make", "a filesystem") }
            guard unsafe mount(device.path, place, "ext4", 0, nil) == 0 else { throw Failure(systemCall: "mount", .file(device.path), errno: errno) }
        }

        func becomeReadOnly() throws {
            guard unsafe mount(nil, place, nil, UInt(MS_REMOUNT | MS_RDONLY), nil) == 0 else {
                throw Failure(systemCall: "remount", .file(place), errno: errno)
            }
        }

        deinit { unsafe umount2(place, Int32(MNT_DETACH)) }
    }

    @Test func aMountedDevice() throws {
        let mounted = try Mounted(tool, "fs")
        let (path, socket) = (mounted.device.path, tool.path("socket"))
        let other = tool.path("other")
        try node(other, of: path)
        let writing = [
            ["serve", "x", "--path", path, "--socket", socket], ["serve", "x", "--path", other, "--socket", socket], ["export", "gold", path],
            ["export", "gold", other], ["serve", "x", "--path", mounted.device.file, "--socket", socket],
            ["export", "gold", "--in-place", mounted.device.file],
            ["export", "gold", mounted.device.file],
        ]
        let reading = [
            ["serve", "x", "--read-only", "--path", path, "--socket", socket], ["serve", "x", "--ephemeral", "--path", path, "--socket", socket],
            ["import", path, "new"], ["import", other, "new"], ["import", mounted.device.file, "new"],
        ]
        for command in writing + reading { tool.expectFailure(try tool.start(command).wait(), naming: ["mounted on \(mounted.place)", "--force"]) }
        tool.expectFailure(try tool.run("import", "-", "new", input: .file(path)), naming: ["mounted on \(mounted.place)"])
        tool.expectFailure(try tool.run("export", "gold", "-", output: .file(path)), naming: ["mounted on \(mounted.place)"])
        try tool.succeed("import", "--force", path, "forced")
        let server = try Server(tool, ["x", "--force", "--path", path, "--socket", socket])
        server.end()
        // Who only reads is in nobody's way who does not write.
        try mounted.becomeReadOnly()
        for command in writing { tool.expectFailure(try tool.start(command).wait(), naming: ["mounted on \(mounted.place)", "--force"]) }
        try tool.succeed("import", path, "still")
        try tool.succeed("import", mounted.device.file, "file")
        let reader = try Server(tool, ["x", "--read-only", "--path", path, "--socket", socket])
        reader.end()
        #expect(try tool.run("export", "still", "-").output == Files.bytes(path))
    }

    @Test func oneDeviceByTwoNames() throws {
        let device = try LoopDevice(tool.path("device"), [UInt8](repeating: 0, count: 1 << 20))
        let other = tool.path("other")
        try node(other, of: device.path)
        for (first, second) in [(device.path, other), (other, device.path), (other, other)] {
            for (isReader, refused, taken) in [(false, [[], ["--read-only"]], [[]]), (true, [[]], [["--read-only"]])] as [(Bool, [[String]], [[String]])] {
                let server = try Server(tool, ["x", "--path", first, "--socket", tool.path("socket")] + (isReader ? ["--read-only"] : []))
                for options in refused {
                    tool.expectFailure(
                        try tool.start(["serve", "x", "--path", second, "--socket", tool.path("s")] + options).wait(),
                        naming: ["in use", "dedupdisk (process \(server.child.process))", "--force"])
                }
                tool.expectFailure(try tool.start(["export", "gold", second]).wait(), naming: ["in use", "--force"])
                for options in taken where isReader || !options.isEmpty {
                    let another = try Server(tool, ["x", "--path", second, "--socket", tool.path("s")] + options)
                    another.end()
                }
                if isReader { try tool.succeed("import", second, "copy"); try tool.succeed("delete", "copy") }
                server.end()
            }
        }
        // Nothing can mount it meanwhile, and nothing holds it after a kill.
        #expect(try run("/usr/sbin/mkfs.ext4", "-q", device.path).status == 0)
        let server = try Server(tool, ["x", "--path", device.path, "--socket", tool.path("socket")])
        #expect(unsafe mount(device.path, tool.scratch.path, "ext4", 0, nil) != 0 && errno == EBUSY)
        server.child.kill(SIGKILL)
        _ = server.child.wait()
        let again = try Server(tool, ["x", "--path", device.path, "--socket", tool.path("socket")])
        again.end()
    }

    @Test func swapIsInUse() throws {
        let device = try LoopDevice(tool.path("swap"), [UInt8](repeating: 0, count: 1 << 20))
        #expect(try run("/usr/sbin/mkswap", device.path).status == 0)
        // A kernel without it has nothing to refuse.
        guard try run("/usr/sbin/swapon", device.path).status == 0 else { return print("no swap can be used here: not tried") }
        defer { _ = try? run("/usr/sbin/swapoff", device.path) }
        for command in [["import", device.path, "new"], ["export", "gold", device.path], ["serve", "x", "--path", device.path, "--socket", tool.path("s")]] {
            tool.expectFailure(try tool.start(command).wait(), naming: ["it is swap", "--force"])
        }
    }

    /// As containers have for a file of their host.
    @Test func aFileThatIsAMountPoint() throws {
        try Files.write(tool.path("place"), [])
        try Files.write(tool.path("real"), [1])
        try #require(unsafe mount(tool.path("real"), tool.path("place"), nil, UInt(MS_BIND), nil) == 0)
        defer { unsafe umount2(tool.path("place"), Int32(MNT_DETACH)) }
        try tool.fail("export", "gold", tool.path("place"), naming: ["mount point", "--in-place"])
        try tool.succeed("export", "gold", "--in-place", tool.path("place"))
        #expect(try Files.bytes(tool.path("real")) == bytes)
    }
}
