import Activity
import Synchronization

/// What is counted of a device's requests: what was done (`activity`), and those that were refused or failed, also where the log leaves them out. The
/// threads of all its rings count.
final class RequestCounts: Sendable {
    let activity: Activity
    /// Those that ask for what can't be: outside the disk, malformed, unknown, a change of a read-only disk.
    private let refused = Atomic(0)
    /// Those that were right, and whose pages were not granted or that the disk could not do.
    private let failed = Atomic(0)

    init(_ activity: Activity) { self.activity = activity }

    func countRefused() { refused.add(1, ordering: .relaxed) }
    func countFailed() { failed.add(1, ordering: .relaxed) }

    /// A line for people; nil: none was refused, and none failed.
    var summary: String? {
        let refused = refused.load(ordering: .relaxed), failed = failed.load(ordering: .relaxed)
        return refused + failed > 0 ? "requests refused: \(refused), failed: \(failed)" : nil
    }
}
