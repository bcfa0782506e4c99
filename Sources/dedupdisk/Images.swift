import ArgumentParser
import Disk
import Glibc
import Serve
import Store
import System

struct Import: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "import", abstract: "Make a disk of a raw image.",
        discussion: """
            The image is a file, a block device, a pipe, or - for standard input, which is read from where it stands. The disk \
            appears when all of it is in. Holes of a sparse file take no time and no space.

            Images of other formats are known by their bytes, and refused. qemu-img makes raw ones of them:

              qemu-img convert -f qcow2 -O raw debian.qcow2 debian.raw && dedupdisk import debian.raw gold
              xz -dc debian.raw.xz | dedupdisk import - silver

            A device that is mounted, or a file that somebody writes to, is refused; mounted read-only it is taken.
            """)
    @OptionGroup var options: StoreOptions
    @Argument(help: "The image, or - for standard input.") var file: String
    @Argument(help: "Name of the new disk.", transform: CommandLineText.name) var disk: String
    @Option(
        help: ArgumentHelp(
            "What the image's bytes are: raw takes any as they are, also those of other formats. When not given, other formats are refused.",
            valueName: "format"))
    var format: FormatName?
    @Flag(help: "Import also what is mounted or written to: the disk may be of no one moment.") var force = false

    func run() throws {
        let stop = try StopRequest()
        stop.sendOnSignals()
        let source = try ImageSource(file, isForced: force)
        if let format = format?.format, format != .raw { throw refusal(format, source) }
        try refuseForeign(source)
        let store = try options.openOrCreate()
        try store.removeLeftovers()
        let progress = Progress("imported")
        defer { progress.end() }
        try Image.load(
            source, into: store, as: disk, check: { () throws(Failure) in try refuseForeign(source) }, shouldStop: { stop.take() > 0 }
        ) { progress.update($0, of: $1) }
    }

    private func refuseForeign(_ source: ImageSource) throws(Failure) {
        if format == nil, let found = try source.foreignFormat() { throw refusal(found, source) }
    }

    /// - Returns: a failure whose remedy is the shell's command that converts and imports the image.
    private func refusal(_ format: ImageFormat, _ source: ImageSource) -> Failure {
        let name = Shell.quoted(disk) + (options.store.map { " --store " + Shell.quoted(path: $0) } ?? "")
        let image = source.hasPath ? Shell.quoted(path: file) : "\"$image\""
        let raw = source.hasPath ? Shell.quoted(path: Shell.unusedName(source.isDevice ? "/var/tmp/" + File.split(file).name : file)) : "\"$image.raw\""
        let convert = (format.conversion(of: image, to: raw) ?? "true") + " && dedupdisk import \(raw) \(name)"
        let command = source.hasPath ? convert : "image=$(mktemp /var/tmp/image.XXXXXX) && cat >\"$image\" && \(convert)"
        return Failure(
            .system, .import, .image(source.name), "it is \(format.title), not a raw image; --format raw would take its bytes as they are",
            remedy: command)
    }
}

struct Export: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export", abstract: "Write a disk as a raw image.",
        discussion: """
            The image is a file, a block device, a pipe, or - for standard output, which is written from where it stands.

            A file appears when all of it is written, readable by its owner alone. A file that is there is replaced then by \
            a whole new one with the same owner, group, permissions and access control list; a link to it stays. Where \
            that can't be, as it has several names or a directory that can't be written, --in-place overwrites it.

            A disk may be in use: the image has every write that was answered before, as after a loss of power.

            What is not mapped becomes a hole in a file, zeros in a pipe and on a device. A device's bytes behind the \
            disk's end stay as they were. A device that is mounted is refused, and so is a file that a VM uses.

              dedupdisk export gold gold.raw && qemu-img convert -f raw -O qcow2 gold.raw gold.qcow2
              dedupdisk export gold - | xz >gold.raw.xz
            """)
    @OptionGroup var options: StoreOptions
    @Argument(help: "Name of the disk.", transform: CommandLineText.name) var disk: String
    @Argument(help: "The image, or - for standard output.") var file: String
    @Option(help: ArgumentHelp("What is written: raw, the disk's bytes.", valueName: "format")) var format: FormatName?
    @Flag(help: "Overwrite a file that is there, instead of replacing it. Until that is done it is neither the old image nor the new one.")
    var inPlace = false
    @Flag(help: "Write also where something is mounted, or in use.") var force = false

    func run() throws {
        if let format = format?.format, format != .raw { throw refusal(format) }
        let stop = try StopRequest()
        stop.sendOnSignals()
        // Before the store is opened: later the descriptor's number may be one of the store's files.
        let given = try ImageTarget(given: file, isForced: force)
        let store = try options.open(for: .reading)
        guard try store.disk(disk) != nil else { throw store.noSuchDisk(disk) }
        let target = if let given { given } else { try ImageTarget(file, inPlace: inPlace, isForced: force) }
        let progress = Progress("exported")
        defer { progress.end() }
        try CopiedDisk.open(disk, of: store) { (source) throws(Failure) in
            try Image.save(source, to: target, shouldStop: { stop.take() > 0 }) { progress.update($0, of: $1) }
        }
    }

    private func refusal(_ format: ImageFormat) -> Failure {
        Failure(
            .usage, "export", .disk(disk), "images are written raw, not as \(format.title)",
            remedy: "export it, and convert that: dedupdisk export \(Shell.quoted(disk)) IMAGE.raw && qemu-img convert -f raw -O FORMAT IMAGE.raw IMAGE")
    }
}

/// A format's name on the command line.
struct FormatName: ExpressibleByArgument {
    let format: ImageFormat

    init?(argument: String) {
        guard let found = ImageFormat(rawValue: argument) else { return nil }
        format = found
    }
    // All formats are accepted by the parser, and all but raw are refused with the command that converts; the help names the one that works.
    static var allValueStrings: [String] { [ImageFormat.raw.rawValue] }
}

/// Words for sh(1).
enum Shell {
    /// `word` as one word, whatever is in it. What can't be shown is written by its bytes' numbers.
    static func quoted(_ word: String) -> String {
        guard !word.unicodeScalars.contains(where: PathText.isInvisible) else {
            let bytes = PathText.bytes(word)
            // Those at the end of what a program prints are dropped; the third of the characters that a shell separates words at is one.
            let newlines = bytes.reversed().prefix { $0 == UInt8(ascii: "\n") }.count
            let ending = String(repeating: "${IFS#??}", count: newlines)
            return "\"$(printf '" + bytes.dropLast(newlines).map { "\\" + octal($0) }.joined() + "')\(ending)\""
        }
        let isPlain =
            !word.isEmpty && word.utf8.first != UInt8(ascii: "-")
            && word.utf8.allSatisfy {
                (48...57).contains($0) || (65...90).contains($0 & 0xdf) && $0 < 128 || "-_./:@%+=,".utf8.contains($0)
            }
        return isPlain ? word : "'" + word.split(separator: "'", omittingEmptySubsequences: false).joined(separator: #"'\''"#) + "'"
    }

    /// The same for a path, which is not to be taken for an option.
    static func quoted(path: String) -> String { quoted(path.utf8.first == UInt8(ascii: "-") ? "./" + path : path) }

    private static func octal(_ byte: UInt8) -> String {
        let digits = String(byte, radix: 8)
        return String(repeating: "0", count: 3 - digits.count) + digits
    }

    /// `file` with `.raw` behind it, or something like it that nothing is called yet.
    static func unusedName(_ file: String) -> String {
        // A name that can't be looked up is taken for one that is taken.
        (0..<100).lazy.map { file + ($0 == 0 ? ".raw" : ".\($0).raw") }.first { (try? File.status(of: $0)) == .some(.none) } ?? file + ".raw"
    }
}
