import ArgumentParser
import Store
import System

/// A setting of a store, by its name and values on the command line.
private enum Setting: String, CaseIterable {
    case compression, maintenance, full

    func value(in settings: Settings) -> String {
        switch self {
        case .compression: settings.compression.name
        case .maintenance: settings.isMaintained ? "on" : "off"
        case .full: settings.whenFull.rawValue
        }
    }

    /// - Throws: which values there are.
    func change(_ settings: inout Settings, to value: String) throws {
        switch self {
        case .compression:
            guard let name = CompressionName(argument: value) else { throw wrong(value, CompressionName.allValueStrings) }
            settings.compression = name.compression
        case .maintenance:
            guard ["on", "off"].contains(value) else { throw wrong(value, ["on", "off"]) }
            settings.isMaintained = value == "on"
        case .full:
            guard let choice = Settings.WhenFull(rawValue: value) else { throw wrong(value, Settings.WhenFull.allCases.map(\.rawValue)) }
            settings.whenFull = choice
        }
    }

    private func wrong(_ value: String, _ values: [String]) -> ValidationError {
        ValidationError("\(rawValue) can't be '\(value)': it is one of \(values.joined(separator: ", "))")
    }

    static func named(_ name: String) throws -> Setting {
        guard let setting = Setting(rawValue: name) else {
            throw ValidationError("there is no setting '\(name)'; there are \(allCases.map(\.rawValue).joined(separator: ", "))")
        }
        return setting
    }
}

struct Change: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Change settings of a store.",
        discussion: """
            compression: none, lz4 or zstd, how new blocks are stored; background: they are stored as they come, and compressed by maintenance.
            maintenance: on; or off: what nothing refers to is left to gc.
            full: fail, or wait, what writes to disks in use do when the filesystem is full: a guest gets errors, or stands still until there is room.

              dedupdisk set compression=background
            """)
    @OptionGroup var options: StoreOptions
    @Argument(help: ArgumentHelp("What to change, and its new value.", valueName: "name=value")) var settings: [String]

    func validate() throws {
        var scratch = Settings()
        try apply(to: &scratch)
    }

    private func apply(to settings: inout Settings) throws {
        for text in self.settings {
            let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            guard parts.count == 2 else { throw ValidationError("'\(text)' is no setting: NAME=VALUE is one") }
            try Setting.named(parts[0]).change(&settings, to: parts[1])
        }
    }

    func run() throws {
        let store = try options.open()
        var settings = try store.settings()
        let before = settings
        try apply(to: &settings)
        if settings != before { try store.change { $0 = settings } }
    }
}

struct Get: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "get", abstract: "Print the settings of a store, a line each: NAME=VALUE.")
    @OptionGroup var options: StoreOptions
    @Argument(help: "Print this one's value alone.") var name: String?

    func validate() throws { if let name { _ = try Setting.named(name) } }

    func run() throws {
        let settings = try options.open(for: .reading).settings()
        if let name { return try Console.print(try Setting.named(name).value(in: settings)) }
        for setting in Setting.allCases { try Console.print("\(setting.rawValue)=\(setting.value(in: settings))") }
    }
}
