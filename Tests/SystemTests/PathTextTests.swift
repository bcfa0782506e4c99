import System
import Testing
import TestSupport

@Suite struct PathTextTests {
    @Test(arguments: [1, 2, 3] as [UInt64]) func everyPathComesBack(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        for _ in 0..<2000 {
            // Bytes that begin and continue sequences, the escapes' own among them, more often than others.
            let bytes = (0..<Int.random(in: 0...12, using: &random)).map { _ in
                Bool.random(using: &random)
                    ? UInt8.random(in: 1...255, using: &random) : [0x2f, 0x61, 0xc3, 0xa9, 0xf4, 0x8f, 0xbe, 0xbf, 0x80][Int.random(in: 0..<9, using: &random)]
            }
            let text = PathText.text(bytes)
            #expect(PathText.bytes(text) == bytes, "seed \(seed)")
            #expect(unsafe PathText.withCString(text) { unsafe PathText.text($0) }.hasSameBytes(as: text))
            #expect(PathText.shown(text).unicodeScalars.allSatisfy { !PathText.isInvisible($0) })
        }
    }

    @Test func whatIsTextStaysIt() {
        for text in ["", "/a/b", "größe/日本語", "e\u{301}", "\u{1f600}"] { #expect(PathText.text(Array(text.utf8)).hasSameBytes(as: text)) }
    }

    @Test func whatIsShown() {
        #expect(PathText.shown(PathText.text([0x62, 0xe9])) == "b\\xe9")
        #expect(PathText.shown("é a\n\u{1b}[2J\u{202e}\u{2028}\u{9b}\u{200b}") == "é a\\x0a\\x1b[2J\\xe2\\x80\\xae\\xe2\\x80\\xa8\\xc2\\x9b\\xe2\\x80\\x8b")
    }

    @Test func namesAreTheirBytes() {
        #expect("e\u{301}" == "\u{e9}")
        #expect(!"e\u{301}".hasSameBytes(as: "\u{e9}"))
        #expect("gold".hasSameBytes(as: "gold"))
    }
}
