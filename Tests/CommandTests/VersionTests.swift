import System
import Testing
import TestSupport

/// The program and the list of its changes are of one version.
@Suite struct VersionTests {
    @Test func theNewestChangesAreOfThisVersion() throws {
        let root = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }
        let changes = try Files.text(root + "/CHANGELOG.md")
        let heading = try #require(changes.split(separator: "\n").first { $0.hasPrefix("## ") })
        let version = try Tool().succeed("--version").split(separator: "\n").first
        #expect(heading.dropFirst(3).prefix { $0 != "," && $0 != " " } == version, "\(heading)")
    }
}
