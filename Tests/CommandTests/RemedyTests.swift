import System
import Testing
import TestSupport

@testable import dedupdisk

/// What can be done with commands is said by the program alone, whatever a library's own remedy is.
@Suite struct RemedyTests {
    static let advice: [(Failure, String)] = [
        (Failure(.notFound, .store("/s"), "there is none"), "store /s: there is none (make one with: dedupdisk create DISK --size SIZE --store /s)"),
        (Failure(.notFound, .diskOf(store: "/s", "d"), "there is none in store /s"), "disk d: there is none in store /s (see: dedupdisk list --store /s)"),
        (
            Failure(.notPermitted, .read, .store("/s"), "it has no lock file", remedy: "have its owner open it once"),
            "read store /s: it has no lock file (run: dedupdisk list --store /s once as the store's owner)"
        ),
        (Failure(.damage, .digestIndex(7), "damaged"), "digest index, bucket 7: damaged (run: dedupdisk check --repair)"),
        (Failure(.damage, .counts("pack 2"), "damaged"), "reference counts of pack 2: damaged (run: dedupdisk check --repair)"),
        (
            Failure(.noSpace, "write to", .store("/s"), "No space left", remedy: "free some space"),
            "write to store /s: No space left (delete disks and run gc, or free some space on the filesystem of /s)"
        ),
        (
            Failure(.noSpace, .upgrade, .store("/s"), "there is no room for it", remedy: "free some space"),
            "upgrade store /s: there is no room for it (free some space)"
        ),
        (
            Failure(.outdated, .file("/s/packs"), "made by an older version", remedy: "have it opened once"),
            "/s/packs: made by an older version (any command upgrades it, dedupdisk list, say, where and by whom it can be written to)"
        ),
        (
            Failure(.invalidRequest, .resize, .disk("d"), "data", remedy: "leave the disk larger, or throw them away"),
            "resize disk d: data (leave the disk larger, or throw them away with --discard-data)"
        ),
        (
            Failure(.busy, .import, .image("/dev/x"), "it is mounted", remedy: "unmount it first"),
            "import /dev/x: it is mounted (unmount it first, or insist with --force)"
        ),
        (
            Failure(.system, .export, .file("f"), "it has 2 names", remedy: "overwrite the file itself"),
            "export to f: it has 2 names (--in-place overwrites the file itself)"
        ),
        (
            Failure(.busy, .listen, .address("127.0.0.1:1"), "taken", remedy: "stop it"),
            "listen on 127.0.0.1:1: taken (stop it, or give --listen another port, or --socket)"
        ),
        (Failure(.busy, .device("xvdb", of: "web"), "in use", remedy: "xvdc is free"), "xvdb of VM web: in use (--device xvdc is free)"),
        (
            Failure(.usage, .import, .socket("s"), "it is a socket"),
            "import s: it is a socket (nbdcopy 'nbd+unix:///?socket=s' - | dedupdisk import - DISK imports what an NBD server has there)"
        ),
        (
            Failure(.usage, .import, .terminal("standard input"), "it is a terminal", remedy: "redirect it"),
            "import standard input: it is a terminal (name a file or a device, or give one: dedupdisk import - DISK <IMAGE)"
        ),
        (
            Failure(.usage, .import, .endless("/dev/zero"), "it has no end", remedy: "take a part of it"),
            "import /dev/zero: it has no end (head -c SIZE /dev/zero | dedupdisk import - DISK takes a part of it; dedupdisk create makes an empty disk)"
        ),
        (
            Failure(.usage, .import, .empty("standard input"), "the image is empty", remedy: "see why"),
            "import standard input: the image is empty (see why; dedupdisk create makes an empty disk)"
        ),
        (
            Failure(.usage, .export, .socket("s"), "it is a socket"),
            "export to s: it is a socket (dedupdisk export DISK - | nbdcopy - 'nbd+unix:///?socket=s' writes to an NBD server there)"
        ),
        (
            Failure(.usage, .export, .terminal("standard output"), "it is a terminal", remedy: "redirect it"),
            "export to standard output: it is a terminal (redirect it: dedupdisk export DISK - >IMAGE, or name a file)"
        ),
    ]

    @Test(arguments: advice) func commandsAreNamed(failure: Failure, text: String) {
        #expect("\(failure.advised)" == text)
        #expect(failure.advised.kind == failure.kind)
    }

    /// Commands are to be copied into a shell.
    @Test func pathsAreWords() {
        for (failure, text) in [
            (Failure(.notFound, .store("my store"), "none"), "(make one with: dedupdisk create DISK --size SIZE --store 'my store')"),
            (Failure(.notFound, .diskOf(store: "-s", "d"), "none"), "(see: dedupdisk list --store ./-s)"),
            (Failure(.notPermitted, .read, .store("a\n"), "none"), #"(run: dedupdisk list --store "$(printf '\141')${IFS#??}" once as the store's owner)"#),
            (Failure(.usage, .export, .socket("it's"), "none"), "nbdcopy - 'nbd+unix:///?socket=it%27s' writes to an NBD server there)"),
        ] as [(Failure, String)] {
            #expect("\(failure.advised)".hasSuffix(" " + text), "\(failure.advised)")
        }
    }

    @Test(arguments: [
        "plain", "", "it's", "two words", "$HOME `id` \\n", "a\nb", "end\n", "\n", "\n\nend\n\n\n", "100%\n", "%s\u{7f}", "\u{200b}é\u{301}", "*?\t",
        PathText.text([0x62, 0xe9, 0x0a]),
    ]) func wordsOfAShell(word: String) throws {
        let outcome = try Child("/bin/sh", ["-c", "for word in before \(Shell.quoted(path: word)) behind; do printf '%s|' \"$word\"; done"]).wait()
        #expect(outcome.output == Array("before|".utf8) + PathText.bytes(word) + Array("|behind|".utf8))
        #expect(!Shell.quoted(word).unicodeScalars.contains(where: PathText.isInvisible))
    }

    /// What lies in the environment stays as the library says it.
    @Test func othersStay() {
        let failure = Failure(.system, "open", .file("/x"), "no", remedy: "check the path")
        #expect(failure.advised == failure)
    }

    /// The failure behind a failure, and behind an event, is looked at, too.
    @Test func causesAreAdvised() {
        let full = Failure(.noSpace, "write to", .store("/s"), "No space left")
        let failure = Failure(.noSpace, .disk("d"), "its last writes wait in its journal", cause: full, remedy: "they go in when the disk is opened again")
        #expect(
            "\(failure.advised)" == "disk d: its last writes wait in its journal: write to store /s: No space left "
                + "(delete disks and run gc, or free some space on the filesystem of /s) (they go in when the disk is opened again)")
        #expect("\(Event(.commitRetry, .disk("d"), "tried again", .begins, because: full).advised)".contains("run gc"))
    }
}
