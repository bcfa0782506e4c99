import ArgumentParser
import Volumes
import Workloads

/// Faults that a program could have, planted into the recording of a sound one.
enum Plant: String, CaseIterable, ExpressibleByArgument {
    /// A class of syncs is left out: of journals, packs, the map, of the names in a store's directories, of the names of journals.
    case noJournalSync, noPackSync, noMapSync, noNameSync, noJournalNameSync
    /// The map is committed before what it refers to.
    case mapBeforePacks
    /// Room in a journal is used again as soon as the commit that has its records has begun.
    case earlyRelease
    /// A filter of another start of the machine is trusted.
    case staleFilter

    /// The workload in which it shows.
    var kind: Workload.Kind {
        switch self {
        case .noJournalSync: .writing
        case .noPackSync, .mapBeforePacks, .earlyRelease, .staleFilter: .duplicates
        case .noMapSync: .lifetimes
        case .noNameSync: .making
        case .noJournalNameSync: .writing
        }
    }

    /// The trace with the fault. But for `noNameSync`, it is planted behind the first step, which makes the store.
    /// - Parameter known: inode numbers of what there was before, by path.
    func apply(to trace: Trace, _ known: [String: UInt64]) -> Trace {
        let made = trace.calls.first { $0.kind == .say && $0.data.first == UInt8(ascii: "e") }?.ended ?? 0
        return switch self {
        case .noJournalSync: trace.forgettingSyncs(known, of: Self.isJournal)
        case .noPackSync: trace.forgettingSyncs(known, behind: made, of: Self.isPacks)
        case .noMapSync: trace.forgettingSyncs(known, behind: made, of: Self.isMap)
        case .noNameSync: trace.forgettingSyncs(known) { Self.hasName($0, ["store", "meta", "packs", "journals"]) }
        case .noJournalNameSync: trace.forgettingSyncs(known, behind: made) { Self.hasName($0, ["journals"]) }
        case .mapBeforePacks: trace.delayingSyncs(known, behind: made, of: Self.isPacks, behindWritesTo: Self.isMap)
        case .earlyRelease: trace.writingOver(known, Self.isJournal, beforeSyncsOf: Self.isMap)
        // It is no matter of calls: `Recording.rebooted` does it.
        case .staleFilter: trace
        }
    }

    private static func isJournal(_ path: String) -> Bool { path.contains("/journals/") }
    private static func isPacks(_ path: String) -> Bool { path.hasSuffix("/packs/data.mdb") }
    private static func isMap(_ path: String) -> Bool { path.hasSuffix("/meta/data.mdb") }
    private static func hasName(_ path: String, _ names: [String]) -> Bool { names.contains { path.hasSuffix("/" + $0) } }
}
