import Synchronization
import System

@testable import Packs

/// Which versions are current, in memory. `source()` is for one thread, as others are.
final class MemoryVersions: Sendable {
    private let states = Mutex<[UInt64: VersionState]>([:])

    func state(of pack: UInt64) -> VersionState { states.withLock { $0[pack] ?? .sealed } }

    /// What was written anew becomes current, in one moment.
    /// - Returns: those that could not.
    @discardableResult
    func makeCurrent(_ packs: [RewrittenPack]) -> [RewrittenPack] {
        states.withLock { states in
            packs.filter { pack in
                var state = states[pack.number] ?? .sealed
                guard pack.canBecomeCurrent(state) else { return true }
                state.current = pack.new
                if let new = pack.new { state.next = new + 1 }
                states[pack.number] = state
                return false
            }
        }
    }

    /// These never become current.
    func giveUp(_ versions: [PackVersion]) {
        states.withLock { states in
            for version in versions {
                var state = states[version.number] ?? .sealed
                state.next = max(state.next, version.version + 1)
                states[version.number] = state
            }
        }
    }

    func forget(_ pack: UInt64) { states.withLock { $0[pack] = nil } }

    func source() -> any VersionSource { Source(self) }

    private final class Source: VersionSource {
        private let versions: MemoryVersions
        private var seen: [UInt64: VersionState]?

        init(_ versions: MemoryVersions) { self.versions = versions }

        func state(of pack: UInt64) throws(Failure) -> VersionState {
            let seen = self.seen ?? versions.states.withLock { $0 }
            self.seen = seen
            return seen[pack] ?? .sealed
        }

        func reset() { seen = nil }
    }
}

extension PackStore {
    /// Packs as they are now, of which none was written anew.
    func snapshot() throws(Failure) -> PackSnapshot { try snapshot(MemoryVersions().source()) }
    func snapshot(_ versions: MemoryVersions) throws(Failure) -> PackSnapshot { try snapshot(versions.source()) }

    func rewrite(_ changes: [PackRewrite], _ versions: MemoryVersions) throws(Failure) -> [RewrittenPack] {
        try rewrite(changes, versions.source(), nil)
    }

    /// Removes all that is loose and over, as whoever owns the versions does.
    func sweep(_ versions: MemoryVersions) throws(Failure) {
        let loose = try loose(from: 0, limit: .max)
        let snapshot = try snapshot(versions)
        for version in loose where versions.state(of: version.number).mayBecomeCurrent(version.version) {
            if try snapshot.holds(version) { versions.giveUp([version]) }
        }
        try sweep(loose, versions.source(), nil)
        let rest = try self.snapshot(versions)
        for number in Set(loose.map(\.number)) where versions.state(of: number).current == nil {
            if try !rest.holdsAny(of: number) { versions.forget(number) }
        }
        try sweep(loose, versions.source(), nil)
    }
}

extension PackSnapshot {
    /// Packs that are shown.
    var count: Int {
        get throws(Failure) {
            var count = 0
            try forEachPack { (_, _) throws(Failure) in
                count += 1
                return true
            }
            return count
        }
    }
}
