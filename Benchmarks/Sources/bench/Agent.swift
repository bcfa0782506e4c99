import ArgumentParser

/// The other process of a measurement that takes two: started by the measurement, not by people.
struct Agent: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Another process's part.", shouldDisplay: false, subcommands: [RingAgent.self, DiskAgent.self])
}
