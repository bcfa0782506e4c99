import Glibc
import System
import Testing
import TestSupport

/// A page that names a file of the project sends nobody in vain.
@Suite struct DocumentTests {
    static let root = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }

    @Test func everyPathThatIsNamedIsThere() throws {
        var count = 0
        let pages = try Child("/usr/bin/find", [Self.root, Self.root + "/docs", "-maxdepth", "1", "-name", "*.md"]).wait().text.split(separator: "\n")
        for page in pages {
            let text = try Files.text(String(page))
            // To its end.
            #expect(try Files.bytes(String(page)).count == text.utf8.count, "\(page)")
            for match in text.matches(
                of: /[^\/\w]((?:Sources|Tests|Benchmarks|Crash|Fuzz|docs|tools|\.ci)\/[A-Za-z0-9_+@.\/-]*[A-Za-z0-9\/])/)
            {
                count += 1
                #expect(unsafe access("\(Self.root)/\(match.1)", F_OK) == 0, "\(page) names \(match.1)")
            }
        }
        #expect(pages.count > 5 && count > 40)
    }

    /// A text is read whole, or not at all.
    @Test(arguments: [0, 65_535, 65_536, 65_537, Files.largestText, Files.largestText + 1]) func textsAreWhole(byteCount: Int) throws {
        let scratch = try ScratchDirectory()
        let path = scratch.path + "/text"
        try Files.write(path, [UInt8](repeating: UInt8(ascii: "x"), count: byteCount))
        if byteCount > Files.largestText {
            #expect(throws: Failure.self) { try Files.text(path) }
        } else {
            #expect(try Files.text(path).utf8.count == byteCount)
        }
    }
}
