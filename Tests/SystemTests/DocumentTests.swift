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
            for match in try Files.text(String(page)).matches(
                of: /[^\/\w]((?:Sources|Tests|Benchmarks|Crash|Fuzz|docs|tools|\.ci)\/[A-Za-z0-9_+@.\/-]*[A-Za-z0-9\/])/)
            {
                count += 1
                #expect(unsafe access("\(Self.root)/\(match.1)", F_OK) == 0, "\(page) names \(match.1)")
            }
        }
        #expect(pages.count > 5 && count > 40)
    }
}
