import Glibc
import System
import Testing
import TestSupport

/// What README, docs and the help show as commands is run as it stands there: nothing that is documented fails.
///
/// In README and docs those are the lines of indented blocks that begin with a prompt, `# `, and `dedupdisk ...` in a sentence; in
/// help, the indented lines. A block is run by one shell, in a directory with the files that examples name. What needs Xen, or a
/// device that a machine may not have, is in a table here, with the script of Tests/Xen that has it.
@Suite(.enabled(if: Client.areInstalled, "clients of NBD are missing: see client_packages in tools/lab/common.sh"))
struct ExampleTests {
    let tool: Tool

    init() throws { tool = try Tool() }

    static let root = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }

    /// Commands that are not run here.
    struct Elsewhere {
        /// How such a command begins.
        let command: String
        /// The script of Tests/Xen that does it, with what is in it; nil: see `why`.
        let script: (name: String, words: String)?
        let why: String
        /// What makes, without Xen, the disk that later commands of the block take.
        var standIn = "true"
    }
    static let elsewhere = [
        Elsewhere(
            command: "dedupdisk connect web1 --size 20G", script: ("connect-mkfs-checksum", "connect guest1 xvdb"), why: "Xen",
            standIn: "dedupdisk create web1 --size 20G"),
        Elsewhere(command: "dedupdisk connect web2 --disk gold --ephemeral", script: ("ephemeral", "--ephemeral"), why: "Xen"),
        Elsewhere(command: "dedupdisk backend", script: ("toolstack", "dedupdisk backend"), why: "Xen"),
        Elsewhere(command: "xl create web3.cfg", script: ("root-disk", "xl create"), why: "Xen"),
        Elsewhere(command: "qemu-system-x86_64", script: nil, why: "a guest to boot; qemu-io of ServeTests has the same driver"),
        Elsewhere(command: "nbd-client", script: nil, why: "the kernel's nbd, which few machines have loaded"),
    ]

    /// Files that examples name, and what makes them, in this order.
    static let files = [
        (name: "debian.img", maker: "head -c 2M /dev/urandom >debian.img"),
        (name: "debian.raw", maker: "head -c 1M /dev/urandom >debian.raw"),
        (name: "debian.qcow2", maker: "qemu-img convert -f raw -O qcow2 debian.img debian.qcow2"),
        (name: "debian.raw.xz", maker: "xz -k debian.raw"),
    ]

    /// What has to be there before a block, by where it is.
    static let beforehand = [
        "help export": "dedupdisk import debian.img gold",
        "help snapshot": "for disk in web1 data log; do dedupdisk create $disk --size 1G; done",
        "help prune": "dedupdisk create web1 --size 1G && dedupdisk snapshot web1@a",
        "help set": "dedupdisk create web1 --size 1G",
        "README.md, in a sentence": "dedupdisk create web1 --size 20G",
    ]

    struct Block {
        let place: String
        /// Commands, and lines that they print.
        var lines: [(text: String, isCommand: Bool)] = []
    }

    // MARK: Finding them

    private func text(_ path: String) throws -> String { String(decoding: try Files.bytes(Self.root + "/" + path), as: UTF8.self) }

    private func documents() throws -> [String] {
        ["README.md"]
            + (try Child("/usr/bin/find", [Self.root + "/docs", "-name", "*.md"]).wait().text.split(separator: "\n").map {
                "docs/" + ($0.split(separator: "/").last ?? "")
            }).sorted()
    }

    private func blocks(of document: String) throws -> [Block] {
        var blocks: [Block] = []
        var isWithin = false
        for (number, line) in try text(document).split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            guard line.hasPrefix("    ") else {
                isWithin = false
                continue
            }
            let isCommand = line.hasPrefix("    # ")
            if isCommand, !isWithin { blocks.append(Block(place: "\(document):\(number + 1)")) }
            isWithin = isWithin || isCommand
            if isWithin { blocks[blocks.count - 1].lines.append((String(line.dropFirst(isCommand ? 6 : 4)), isCommand)) }
        }
        return blocks
    }

    private func commands() throws -> [String] {
        let help = try tool.succeed("--help")
        let listing = help.split(separator: "SUBCOMMANDS:\n").last ?? ""
        return listing.split(separator: "\n").compactMap { $0.firstMatch(of: /^  ([a-z]+)( |$)/).map { String($0.output.1) } }
    }

    /// A line that was too long goes on at the margin.
    private func block(ofHelp command: String) throws -> Block {
        var block = Block(place: "help \(command)")
        let arguments = command.isEmpty ? ["--help"] : ["help", command]
        let help = try tool.start(arguments).wait().text
        var isWithin = false
        for line in (help.split(separator: "USAGE:").first ?? "").split(separator: "\n", omittingEmptySubsequences: false) {
            if line.hasPrefix("  ") {
                block.lines.append((String(line.drop { $0 == " " }), true))
                isWithin = true
            } else if isWithin, !line.isEmpty {
                block.lines[block.lines.count - 1].text += " " + line
            } else {
                isWithin = false
            }
        }
        return block
    }

    // MARK: Running them

    /// The shell's script, and what is to be on standard error behind it.
    private func script(_ block: Block, used: inout Set<String>) -> (text: String, output: [String]) {
        func placed(_ text: String) -> String { text.replacing("/run/", with: tool.path("run/")) }
        var script = """
            set -o pipefail; mkdir -p "$T/run" "$T/bin" && ln -s "$P" "$T/bin/dedupdisk" && cd "$T" || exit 1
            PATH=$T/bin:$PATH
            fails() { echo "fails: $1" >&2; kill $(jobs -p) 2>/dev/null; exit 1; }

            """
        let all = block.lines.map(\.text).joined()
        for file in Self.files where all.contains(file.name) || file.name == "debian.img" || all.contains("debian.raw.xz") { script += file.maker + "\n" }
        if let command = Self.beforehand[block.place] { script += command + "\n" }
        var output: [String] = []
        var isHere = true
        for line in block.lines {
            guard line.isCommand else {
                if isHere, line.text.hasPrefix("dedupdisk: ") { output.append(placed(line.text)) }
                continue
            }
            let other = Self.elsewhere.first { line.text.hasPrefix($0.command) }
            isHere = other == nil
            if let other { used.insert(other.command) }
            let command = placed(other?.standIn ?? line.text)
            let quoted = line.text.replacing("'", with: "'\\''")
            if command.contains(/&( *#.*)?$/) {
                // A server says when it is ready.
                script += """
                    said=$(grep -c ' is at ' errors); \(command)
                    for _ in {1..12000}; do [ "$(grep -c ' is at ' errors)" -gt "$said" ] && break; sleep 0.01; done
                    kill -0 $! || fails '\(quoted)'

                    """
            } else {
                script += "\(command)\n[ $? = 0 ] || fails '\(quoted)'\n"
            }
        }
        script += "for job in $(jobs -p); do kill -INT $job; wait $job || fails 'the end of a server'; done\n"
        return (script, output)
    }

    private func run(_ block: Block, used: inout Set<String>) throws {
        let (text, output) = script(block, used: &used)
        let outcome = try Child(
            "/bin/bash", ["-c", "cd \"$T\" && exec 2>errors && bash -c \"$1\"", "bash", text],
            environment: ["DEDUPDISK_STORE": tool.store, "P": tool.executable, "T": tool.scratch.path]
        ).wait()
        let errors = String(decoding: try Files.bytes(tool.path("errors")), as: UTF8.self)
        #expect(outcome.status == 0, "\(block.place):\n\(errors)\n\(text)")
        for line in output { #expect(errors.contains(line + "\n"), "\(block.place) says that it prints: \(line)\nbut: \(errors)") }
    }

    @Test func everyExampleWorks() throws {
        var used: Set<String> = []
        var count = 0
        let documented = try documents().flatMap { try blocks(of: $0) }
        let help = try ([""] + commands()).map { try block(ofHelp: $0) }
        for block in documented + help where !block.lines.isEmpty {
            // A store for each.
            try ExampleTests().run(block, used: &used)
            count += block.lines.count { $0.isCommand }
        }
        #expect(count > 15)
        #expect(documented.count > 2 && help.contains { !$0.lines.isEmpty })
        // The table says nothing that is not there.
        for other in Self.elsewhere {
            #expect(used.contains(other.command), "nobody shows: \(other.command)")
            if let script = other.script { #expect(try text("Tests/Xen/\(script.name).sh").contains(script.words), "\(script)") }
        }
    }

    /// `dedupdisk ...` in a sentence: a command that there is; one that names what it is done to, and needs no Xen, is run.
    @Test func commandsInSentences() throws {
        let known = Set(try commands() + ["help"])
        var run = 0
        for document in try documents() {
            var block = Block(place: "\(document), in a sentence")
            for match in try text(document).matches(of: /`dedupdisk ([a-z]+)((?: [^`]+)?)`/) {
                let (command, rest) = (String(match.output.1), String(match.output.2))
                #expect(known.contains(command), "\(document): \(match.output.0)")
                // In capitals: what the reader fills in.
                guard !rest.isEmpty, !["connect", "backend"].contains(command), !rest.contains(/(^| )[A-Z]{2}/) else { continue }
                block.lines.append(("dedupdisk \(command)\(rest)", true))
            }
            var used: Set<String> = []
            if !block.lines.isEmpty { try ExampleTests().run(block, used: &used) }
            run += block.lines.count
        }
        #expect(run > 0)
    }
}
