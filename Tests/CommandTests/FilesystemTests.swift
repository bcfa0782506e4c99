import Glibc
import System
import Testing
import TestSupport

/// Stores on the filesystems that people have, each made for the test.
@Suite(.enabled(if: PlacesTests.canUnshare)) struct FilesystemTests {
    let tool: Tool

    init() throws { tool = try Tool() }

    /// What mounts a filesystem of each kind at $M, with room for 400 MB.
    private static let mounts = [
        "ext4": "truncate -s 400M $M.img; mkfs.ext4 -q $M.img; mount -o loop $M.img $M",
        "xfs": "truncate -s 400M $M.img; mkfs.xfs -q $M.img; mount -o loop $M.img $M",
        "btrfs": "truncate -s 400M $M.img; mkfs.btrfs -q $M.img; mount -o loop $M.img $M",
        "tmpfs": "mount -t tmpfs -o size=400m none $M",
        "overlay":
            "mkdir $M.l $M.u $M.w; mount -t tmpfs none $M.l; mkdir $M.l/u $M.l/w; mount -t overlay -o lowerdir=$M.w,upperdir=$M.l/u,workdir=$M.l/w none $M",
    ]

    private func run(_ script: String, on filesystem: String) throws -> Child.Outcome {
        try Child(
            "/usr/bin/unshare", ["--mount", "sh", "-ec", "mkdir $M; \(Self.mounts[filesystem] ?? "false"); \(script)"],
            environment: ["M": tool.path("mounted"), "DEDUPDISK_STORE": tool.path("mounted/store"), "D": tool.executable]
        ).wait()
    }

    /// Whether this machine's kernel has it.
    private func isThere(_ filesystem: String) throws -> Bool {
        let known = try Files.text("/proc/filesystems").split { $0 == "\n" || $0 == "\t" }
        if known.contains(filesystem[...]) { return true }
        print("This kernel has no \(filesystem): not tested")
        return false
    }

    @Test(arguments: ["ext4", "xfs", "btrfs", "tmpfs", "overlay"]) func allThatIsDoneInALifetime(_ filesystem: String) throws {
        guard try isThere(filesystem) else { return }
        let outcome = try run(
            """
            head -c 30000000 /dev/urandom >$M/image
            $D import $M/image d; $D create e --size 1G
            $D export d - | cmp -n 30000000 - $M/image; $D export d $M/out; cmp -n 30000000 $M/out $M/image
            $D serve e --socket $M/nbd >/dev/null 2>&1 & server=$!
            while ! [ -S $M/store/journals/2.socket ]; do sleep 0.1; done
            # A server holds still for a tenth of a second, and who finds it too busy is told to try again.
            tries=0; until $D snapshot e@s d@s 2>$M/said; do
                tries=$((tries + 1)); if [ $tries = 50 ] || ! grep -q 'hold still\\|not answer' $M/said; then cat $M/said >&2; exit 1; fi
            done
            kill $server; wait $server
            $D clone d@s c; $D rollback d@s; $D export c - | cmp -n 30000000 - $M/image; $D delete c; $D delete d@s
            $D stats >/dev/null; $D check --read-data; full=$(du -sk $M/store | cut -f1)
            $D delete d; $D gc >/dev/null; $D check --read-data; sync $M
            [ $(du -sk $M/store | cut -f1) -lt $((full - 28000)) ]
            """, on: filesystem)
        #expect(outcome.status == 0 && outcome.errors == "", "\(filesystem): \(outcome.errors) \(outcome.text)")
    }

    /// No network filesystem is at hand: what statfs(2) says of it is.
    @Test func aFilesystemOfOtherMachinesIsRefused() throws {
        let library = tool.path("nfs.so")
        try Files.write(
            tool.path("nfs.c"),
            Array(
                """
                #define _GNU_SOURCE
                #include <sys/syscall.h>
                #include <sys/vfs.h>
                #include <unistd.h>
                int statfs(const char *path, struct statfs *status) {
                    long result = syscall(SYS_statfs, path, status);
                    status->f_type = 0x6969;
                    return result;
                }
                """.utf8))
        #expect(try Child("/usr/bin/cc", ["-shared", "-fPIC", "-o", library, tool.path("nfs.c")]).wait().status == 0)
        let outcome = try Child(
            tool.executable, ["create", "d", "--size", "1G"], environment: ["DEDUPDISK_STORE": tool.store, "LD_PRELOAD": library]
        ).wait()
        tool.expectFailure(outcome, naming: ["NFS"])
        // Nothing is left of the try.
        #expect(unsafe access(tool.store, F_OK) != 0)
        try tool.succeed("create", "d", "--size", "1G")
        let other = try Child(tool.executable, ["list"], environment: ["DEDUPDISK_STORE": tool.store, "LD_PRELOAD": library]).wait()
        tool.expectFailure(other, naming: ["NFS"])
    }
}
