import TestSupport
import Testing

@testable import System

/// Files that come to their name when they are whole; also where a filesystem can't have them without one.
@Suite struct NewFileTests {
    let scratch: ScratchDirectory
    var path: String { scratch.path + "/file" }
    var names: Set<String> { Set(File.names(in: scratch.path)) }

    init() throws { scratch = try ScratchDirectory() }

    @Test(arguments: [true, false]) func nothingIsThereBefore(unnamed: Bool) throws {
        do {
            let new = try NewFile(for: path, unnamed: unnamed)
            try new.file.write(at: 0, ([1, 2, 3] as [UInt8]).rawBytes)
            #expect(!names.contains("file") && names.count == (unnamed ? 0 : 1))
        }
        #expect(names.isEmpty)
        try Files.write(path, [9])
        let new = try NewFile(for: path, unnamed: unnamed), other = try NewFile(for: path, unnamed: unnamed)
        try new.file.write(at: 0, ([1, 2, 3] as [UInt8]).rawBytes)
        try other.file.write(at: 0, ([4] as [UInt8]).rawBytes)
        #expect(try Files.bytes(path) == [9])
        try new.put(durably: true)
        #expect(try Files.bytes(path) == [1, 2, 3])
        try other.put(durably: false)
        #expect(try Files.bytes(path) == [4])
        #expect(names == ["file"])
        #expect(try File.status(of: path)?.mode == 0o600)
    }

    @Test(arguments: [true, false]) func aDirectoryThatIsNotThere(unnamed: Bool) {
        #expect(throws: Failure.self) { try NewFile(for: scratch.path + "/none/file", unnamed: unnamed) }
    }

    @Test func whereAPathEnds() {
        for (path, directory, name) in [("a", ".", "a"), ("/a", "/", "a"), ("a/b", "a", "b"), ("/a/b/c", "/a/b", "c"), ("./a", ".", "a")] {
            #expect(File.split(path) == (directory, name))
        }
    }
}
