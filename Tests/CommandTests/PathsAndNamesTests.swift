import Glibc
import Catalogue
@testable import Store
import System
import Testing
import TestSupport

/// Paths are bytes; names are UTF-8, and their bytes tell them apart.
@Suite struct PathsAndNamesTests {
    var tool: Tool

    init() throws { tool = try Tool() }

    /// A name that is not UTF-8, as Latin-1 has it; and one that is, as far as it goes.
    static let odd = PathText.text([0x62, 0xe9])
    static let other = PathText.text([0x66, 0xc3, 0xa9, 0xff, 0xc3])

    /// The names in a directory, as bytes.
    private func names(in directory: String) -> Set<[UInt8]> {
        var names: Set<[UInt8]> = []
        guard let handle = unsafe opendir(directory) else { return [] }
        while let entry = unsafe readdir(handle) { names.insert(unsafe withUnsafeBytes(of: entry.pointee.d_name) { unsafe Array($0.prefix { $0 != 0 }) }) }
        unsafe closedir(handle)
        return names.subtracting([[0x2e], [0x2e, 0x2e]])
    }

    @Test(arguments: [odd, other]) mutating func pathsOfEveryOption(name: String) throws {
        let directory = tool.path("d")
        unsafe mkdir(directory, 0o700)
        let path = directory + "/" + name
        // An image out and in.
        let bytes = try tool.disk("gold", [1, 2, 3])
        try tool.succeed("export", "gold", path)
        #expect(names(in: directory) == [PathText.bytes(name)])
        #expect(try Files.bytes(path) == bytes)
        try tool.succeed("import", path, "again")
        #expect(try tool.run("export", "again", "-").output == bytes)
        // A file served, on a socket, and one that is not changed, with what is written in a directory.
        let socket = directory + "/s" + name
        for options in [[], ["--ephemeral"]] {
            unsafe mkdir(path + "t", 0o700)
            let child = try Child(
                tool.executable, ["serve", "file", "--path", path, "--socket", socket] + options, environment: ["TMPDIR": path + "t"])
            let said = child.receiveErrors(until: " is at ")
            let inURI = PathText.bytes("s" + name).map { $0 < 0x80 ? String(Unicode.Scalar($0)) : "%" + String($0, radix: 16, uppercase: true) }.joined()
            #expect(said.contains("socket=\(directory)/\(inURI)"), "\(said)")
            #expect(names(in: directory).contains(PathText.bytes("s" + name)))
            child.kill(SIGINT)
            #expect(child.wait().status == 0)
        }
        let refused = try Child(
            tool.executable, ["serve", "file", "--path", path, "--ephemeral", "--socket", socket], environment: ["TMPDIR": path + "no"])
        tool.expectFailure(refused.wait(), naming: [PathText.shown(path + "no")])
        // A store, by its option and by the environment.
        for command in [["create", "d", "--size", "1M"], ["list"], ["check"], ["gc"], ["stats", "--json"]] {
            #expect(try Child(tool.executable, command + ["--store", path + "t/../x" + name]).wait().status == 0, "\(command)")
        }
        #expect(names(in: directory).contains(PathText.bytes("x" + name)))
        tool.store = directory + "/x" + name
        #expect(try tool.succeed("list").contains("d "))
        try tool.fail("map", "none", naming: [PathText.shown(tool.store)])
        try tool.fail("import", directory + "/no" + name, "d", naming: [PathText.shown("no" + name)])
        try tool.expectClean()
    }

    /// A slash is one, whatever stands behind it.
    @Test mutating func aCombiningAccentBehindASlash() throws {
        tool.store = tool.scratch.path + "/a/\u{301}b/s"
        try tool.succeed("create", "d", "--size", "1M")
        let server = try Server(tool, ["d", "--socket", tool.scratch.path + "/a/\u{301}s"])
        server.end()
    }

    static let namers: [[String]] = [
        ["create", odd, "--size", "1M"], ["delete", odd], ["resize", odd, "2M"], ["map", odd], ["stats", odd], ["export", odd, "-"],
        ["import", "/dev/null", odd], ["serve", odd], ["connect", odd], ["connect", "vm", "--disk", odd],
    ]

    @Test(arguments: namers) func aNameThatIsNoText(command: [String]) throws {
        // What such a name became.
        try tool.succeed("create", "b\u{fffd}", "--size", "1M")
        try tool.fail(contentsOf: command, status: 64, naming: ["'b\\xe9'", "UTF-8"])
        #expect(try tool.succeed("list").split(separator: "\n").count == 2)
    }

    /// Names that look the same, and are not.
    @Test func namesThatMerelyLookTheSame() throws {
        let (one, two) = ("e\u{301}", "\u{e9}")
        let bytes = try tool.disk(two, [1, 2])
        for command in [["map", one], ["stats", one], ["delete", one], ["export", one, "-"]] {
            #expect(try tool.start(command).wait().status == 1, "\(command)")
        }
        try tool.succeed("create", one, "--size", "1M")
        for name in [one, two] { #expect(try tool.succeed("stats", name).split(separator: "\n").count == 2) }
        try tool.succeed("resize", one, "2M")
        try tool.succeed("delete", one)
        #expect(try tool.run("export", two, "-").output == bytes)
        let server = try Server(tool, [two, "--socket", tool.path("s")])
        server.end()
        try tool.expectClean()
    }

    @Test(arguments: [
        "a\nb", "a\u{1b}[2J", "a\u{9b}b", "a\u{2028}b", "a\u{202e}b", "a\u{200b}", "a\u{a0}b", "a b", "a/b", "-a", "-\u{301}a", ".a", "a\u{10fff0}",
    ])
    func aNameThatCannotBeSeen(name: String) throws {
        #expect(try tool.start(["create", "--size", "1M", "--", name]).wait().status == 64)
        #expect(try unsafe access(tool.store, F_OK) != 0 || tool.succeed("list") == "")
    }

    /// A store that has such a name, from before, lets go of it; and a terminal does not do what it says.
    @Test func aNameOfOldCanBeReached() throws {
        let name = "a\u{1b}[2J\u{202e}\u{2028}b"
        do {
            let store = try Store(path: tool.store, creating: true)
            var transaction = try StoreTransaction.begin(store)
            try transaction.put(DiskRecord(name: name, number: transaction.superblock.nextDisk, byteCount: 1 << 20, created: 0))
            transaction.superblock.nextDisk += 1
            try transaction.commit()
        }
        #expect(try tool.succeed("list").contains(name))
        let terminal = try Child("/usr/bin/script", ["-qec", "'\(tool.executable)' list", "/dev/null"], environment: ["DEDUPDISK_STORE": tool.store]).wait()
        #expect(terminal.text.contains("a\\x1b[2J\\xe2\\x80\\xae\\xe2\\x80\\xa8b"), "\(terminal)")
        try tool.succeed("map", name)
        try tool.succeed("delete", name)
        #expect(try tool.succeed("list") == "")
        try tool.expectClean()
    }

    // MARK: The source

    /// Every place where a path becomes the system's, or comes from there, is one that keeps its bytes.
    @Test func noPathGoesAnotherWay() throws {
        let root = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 } + "/Sources"
        var files = 0
        for file in try Child("/usr/bin/find", [root, "-name", "*.swift"]).wait().text.split(separator: "\n").map(String.init) {
            let text = String(decoding: try Files.bytes(file), as: UTF8.self)
            files += 1
            let calls = text.contains(/unsafe (open|access|stat|lstat|statvfs|unlink|rename|mkdir|rmdir|opendir|realpath|chmod|chown|link)\(/)
            #expect(!calls || text.contains("import System") || file.contains("/System/"), "\(file) calls Glibc's own")
            #expect(
                file.hasSuffix("PathCalls.swift")
                    || !text.contains(/Glibc\.(open|access|stat|lstat|statvfs|unlink|rename|mkdir|rmdir|opendir|realpath|chmod|chown|link)\(/), "\(file)")
            for word in ["CommandLine.arguments", "String(cString: getenv", "String(cString: real"] {
                #expect(file.hasSuffix("CommandLineText.swift") || !text.contains(word), "\(file): \(word)")
            }
        }
        #expect(files > 100)
    }
}
