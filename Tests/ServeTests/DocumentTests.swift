import System
import Testing
import TestSupport

/// docs/blkif.md promises nothing without a test.
@Suite struct DocumentTests {
    /// The directory that has docs and Tests.
    private static let root = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }
    private static let targets = ["BlkifTests", "DiskTests", "ServeTests", "XenBusTests"]

    private func text(_ path: String) throws -> String { String(decoding: try Files.bytes(Self.root + "/" + path), as: UTF8.self) }

    /// The suite's source, in the file of its name.
    private func source(of suite: Substring) -> String? {
        Self.targets.lazy.compactMap { try? text("Tests/\($0)/\(suite).swift") }.first
    }

    /// Tests that a line names, and of these what there is none of.
    private func named(_ line: Substring) -> (count: Int, missing: [Substring]) {
        var count = 0
        var missing: [Substring] = []
        for match in line.matches(of: /`([A-Z][A-Za-z]*Tests)(?:\.([A-Za-z]+))?`/) {
            count += 1
            let source = source(of: match.output.1)
            let isThere = source.map { source in match.output.2.map { source.contains("func \($0)(") } ?? true } ?? false
            if !isThere { missing.append(match.output.0) }
        }
        for match in line.matches(of: /([a-z][a-z0-9-]*)\.sh/) {
            count += 1
            if (try? text("Tests/Xen/\(match.output.0)")) == nil { missing.append(match.output.0) }
        }
        for match in line.matches(of: /fuzzer `([a-z]+)`/) {
            count += 1
            if (try? text("Fuzz/Sources/fuzz-\(match.output.1)/target.swift")) == nil { missing.append(match.output.0) }
        }
        return (count, missing)
    }

    @Test func everyTestThatIsNamedIsThere() throws {
        var rows = 0
        /// Within a table whose last column is one of tests.
        var isOfTests = false
        for line in try text("docs/blkif.md").split(separator: "\n", omittingEmptySubsequences: false) {
            let cells = line.split(separator: "|").map { $0.drop { $0 == " " } }
            let (_, missing) = named(line)
            #expect(missing == [], "\(line)")
            if !line.hasPrefix("|") {
                isOfTests = false
            } else if cells.last?.hasPrefix("test") == true {
                isOfTests = true
            } else if isOfTests, cells.last?.hasPrefix("---") != true {
                rows += 1
                #expect(cells.last.map { named($0).count > 0 } == true, "\(line)")
            }
        }
        #expect(rows > 40)
    }
}
