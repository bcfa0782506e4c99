import ArgumentParser
import Glibc
import Packs
import Store
import System

struct StoreOptions: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("The store's directory.", discussion: "Default: $DEDUPDISK_STORE, else /var/lib/dedupdisk.", valueName: "dir"))
    var store: String?

    private var path: String {
        var path = store ?? CommandLineText.variable("DEDUPDISK_STORE") ?? "/var/lib/dedupdisk"
        while path.count > 1, path.hasSuffix("/") { path.removeLast() }
        return path
    }

    /// Opens the store, which has to exist.
    func open(for access: Store.Access = .writing) throws(Failure) -> Store { try Store(path: path, for: access, events: Console.events) }
    /// Opens the store, and makes it when there is none.
    func openOrCreate() throws(Failure) -> Store { try Store(path: path, creating: true, events: Console.events) }
}

/// How a store compresses, by its name on the command line.
struct CompressionName: ExpressibleByArgument {
    let compression: Settings.Compression

    init?(argument: String) {
        if argument == "background" {
            compression = .background
        } else if let codec = BlobCodec.allCases.first(where: { $0.name == argument }) {
            compression = .atOnce(codec)
        } else {
            return nil
        }
    }
    static var allValueStrings: [String] { BlobCodec.allCases.map(\.name) + ["background"] }
}

extension Settings.Compression {
    /// What it is called on the command line.
    var name: String {
        switch self {
        case .atOnce(let codec): codec.name
        case .background: "background"
        }
    }
}

/// A size on the command line: `4096`, `512M`, `20G`, `1.5TiB`.
struct ByteSize: ExpressibleByArgument, Equatable {
    let bytes: UInt64

    init?(argument: String) {
        let text = argument.lowercased()
        let digits = text.prefix { $0.isNumber || $0 == "." }
        let shift: UInt64
        switch text.dropFirst(digits.count) {
        case "", "b": shift = 0
        case "k", "kib": shift = 10
        case "m", "mib": shift = 20
        case "g", "gib": shift = 30
        case "t", "tib": shift = 40
        default: return nil
        }
        if let whole = UInt64(digits) {
            let (bytes, overflow) = whole.multipliedReportingOverflow(by: 1 << shift)
            guard !overflow else { return nil }
            self.bytes = bytes
        } else if let number = Double(digits), number.isFinite, shift > 0, number < Double(UInt64.max >> shift) {
            bytes = UInt64(number * Double(UInt64(1) << shift))
        } else {
            return nil
        }
    }
}
