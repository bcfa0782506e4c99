import Glibc
import System
import Testing
import TestSupport

/// Images that are not raw: they become no disk by mistake, and the way that is named makes one.
@Suite(.enabled(if: Client.areInstalled, "needs the package qemu-utils"))
struct FormatTests {
    let tool: Tool
    let bytes: [UInt8]

    init() throws {
        tool = try Tool()
        bytes = try tool.image("raw", [0, 1, 2, 0, 3] + [UInt64](repeating: 0, count: 500) + [4])
    }

    /// Does what the refusal says, in a shell that finds the program.
    func follow(_ outcome: Child.Outcome, input: Child.Input = .nothing) throws -> Child.Outcome {
        let line = outcome.errorLines.first ?? ""
        let command = line.split(separator: " (", maxSplits: 1).last.map { String($0.dropLast()) } ?? "false"
        let directory = File.split(tool.executable).directory
        let path = unsafe getenv("PATH").map { unsafe String(cString: $0) } ?? "/usr/bin:/bin"
        return try Child(
            "/bin/bash", ["-c", command], environment: ["DEDUPDISK_STORE": tool.store, "PATH": "\(directory):\(path)"], input: input
        ).wait()
    }

    @Test(arguments: [
        ["qcow2"], ["qcow"], ["vmdk"], ["vmdk", "subformat=monolithicFlat"], ["vmdk", "subformat=twoGbMaxExtentSparse"], ["vmdk", "subformat=streamOptimized"],
        ["vpc"], ["vpc", "subformat=fixed"], ["vhdx"], ["vdi"], ["qed"], ["parallels"],
    ]) func othersImages(format: [String]) throws {
        let image = tool.path("it's an image")
        let options = format.dropFirst().flatMap { ["-o", $0] }
        let made = try Child("/usr/bin/qemu-img", ["convert", "-f", "raw", "-O", format[0]] + options + [tool.path("raw"), image]).wait()
        try #require(made.status == 0, "\(made)")
        let outcome = try tool.run("import", image, "new")
        tool.expectFailure(outcome, naming: ["--format raw", "qemu-img convert -f \(format[0])", "&& dedupdisk import"])
        #expect(unsafe access(tool.store, F_OK) != 0, "a refused import made a store")
        let followed = try follow(outcome)
        #expect(followed.status == 0, "\(followed)")
        // Some formats' disks are somewhat longer.
        #expect(try tool.run("export", "new", "-").output.starts(with: bytes))
        // As what they are, on demand, and of a pipe as well.
        try tool.succeed("import", "--format", "raw", image, "literal")
        let literal = try Files.bytes(image)
        #expect(try tool.run("export", "literal", "-").output.starts(with: literal))
        let importer = try tool.start(["import", "-", "piped"], input: .pipe)
        importer.send(literal)
        // A text of a few hundred bytes names files that no pipe brings along.
        let piped = importer.wait()
        tool.expectFailure(piped, naming: ["standard input", "qemu-img convert -f \(format[0])"])
        #expect(!(try tool.succeed("list").contains("piped")))
        let again = try tool.run("import", "--format", format[0], image, "again")
        tool.expectFailure(again, naming: ["qemu-img convert -f \(format[0])"])
        let server = try tool.start(["serve", "x", "--path", image, "--read-only", "--socket", tool.path("socket")])
        if literal.count % 512 == 0 { #expect(server.receiveErrors(until: "is served raw").contains("is served raw")) }
        server.kill(SIGINT)
        try tool.expectClean()
    }

    /// The command that is named finds the image, whatever its path is.
    @Test(arguments: ["end\n", "\n\n", "\u{200b} 100%"]) func pathsThatCanNotBeShown(name: String) throws {
        let image = tool.path(name)
        let made = try Child("/usr/bin/qemu-img", ["convert", "-f", "raw", "-O", "qcow2", tool.path("raw"), image]).wait()
        try #require(made.status == 0, "\(made)")
        let outcome = try tool.run("import", image, "new")
        tool.expectFailure(outcome, naming: ["qemu-img convert -f qcow2"])
        let followed = try follow(outcome)
        #expect(followed.status == 0, "\(followed)")
        #expect(try tool.run("export", "new", "-").output.starts(with: bytes))
    }

    @Test(arguments: ["gzip", "xz", "zstd", "bzip2"]) func compressedImages(program: String) throws {
        guard unsafe access("/usr/bin/" + program, X_OK) == 0 else { return print("there is no \(program) here: not tried") }
        let made = try Child("/bin/bash", ["-c", "\(program) -c \"$0\" >\"$0.compressed\"", tool.path("raw")]).wait()
        try #require(made.status == 0, "\(made)")
        let outcome = try tool.run("import", tool.path("raw.compressed"), "new")
        tool.expectFailure(outcome, naming: ["--format raw", "\(program) -dc"])
        #expect(try follow(outcome).status == 0)
        #expect(try tool.run("export", "new", "-").output == bytes)
        let given = try tool.run("import", "-", "given", input: .file(tool.path("raw.compressed")))
        tool.expectFailure(given, naming: ["--format raw", "\(program) -dc"])
        #expect(try follow(given, input: .file(tool.path("raw.compressed"))).status == 0)
        #expect(try tool.run("export", "given", "-").output == bytes)
    }

    /// Bytes that are in every raw disk of their kind.
    @Test func whatIsADisksOwn() throws {
        let luks = Array("LUKS".utf8) + [0xba, 0xbe, 0, 1], sector = [UInt8](repeating: 0, count: 512)
        var iso = [UInt8](repeating: 0, count: 64 << 10)
        iso.replaceSubrange(32769..<32774, with: "CD001".utf8)
        for (name, image) in [("luks", luks + sector), ("iso", iso), ("text", Array("# a script\n".utf8)), ("mbr", [0xeb, 0x63, 0x90] + sector)] {
            try Files.write(tool.path(name), image)
            try tool.succeed("import", tool.path(name), name)
        }
        try tool.expectClean()
    }

    @Test func formatsByName() throws {
        try tool.fail("import", "--format", "floppy", tool.path("raw"), "x", status: 64, naming: ["floppy"])
        try tool.succeed("import", "--format", "raw", tool.path("raw"), "gold")
        try tool.fail("export", "--format", "qcow2", "gold", tool.path("out"), status: 64, naming: ["qemu-img convert -f raw"])
        try tool.succeed("export", "--format", "raw", "gold", tool.path("out"))
        #expect(try Files.bytes(tool.path("out")) == bytes)
    }
}
