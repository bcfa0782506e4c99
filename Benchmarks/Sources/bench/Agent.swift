import ArgumentParser

/// The other process of a measurement that takes two. Started by `Measure`, by nobody else.
struct Agent: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Another process's part.", shouldDisplay: false, subcommands: [RingAgent.self, DiskAgent.self])
}
