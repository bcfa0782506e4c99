/// What a store or a disk tells beside results and errors: what it does by itself, and what its owner should see to.
public struct Event: Equatable, Sendable, CustomStringConvertible {
    /// What happens. docs/design.md ("What it tells") says when each is told.
    public enum Kind: CaseIterable, Sendable {
        /// A lock that another process holds is waited for.
        case lockWait
        /// A commit failed and is tried again: what it has is in the journal.
        case commitRetry
        /// Writes to a disk wait for room in the store.
        case roomWait
        /// What an interrupted writer left in a disk's journal is in the map now.
        case journalReplay
        /// What an interrupted writer left in a disk's journal stays there for now, and is read there.
        case journalLeft
        /// A journal could not be made durable: the disk takes no more writes.
        case syncFailure
        /// A block's stored data is not what was written.
        case damage
        /// Damaged blocks got their data back.
        case healing
        /// The filter of digests is made anew.
        case filterRebuild
        /// The filter has no file, and is this process's alone.
        case filterPrivate
        /// The room that deleting needs on a full filesystem is not set aside.
        case reserve
        /// What an interrupted command had left is gone.
        case leftover
        /// Many blocks can't be hashed at once, as the library for that failed.
        case hashing
        /// What nothing refers to can't be collected.
        case maintenance
        /// The socket by which others ask for copies of a disk that is served can't be made.
        case control
        /// The store's filesystem is about to be full.
        case filling
        /// A store of an older format becomes one of today's.
        case upgrade
    }

    /// As syslog(3) counts them.
    public enum Priority: Int, Sendable {
        case error = 3
        case warning, notice, info
    }

    /// Whether it lasts, and if so whether it begins or is over.
    public enum Phase: Equatable, Sendable {
        /// It does not last.
        case once
        case begins
        /// - Parameters:
        ///   - seconds: how long it lasted.
        ///   - times: how often it was met meanwhile.
        case over(seconds: Double, times: Int)
    }

    public let kind: Kind
    public let subject: Subject
    public let phase: Phase
    /// What is told of the subject; does not name it.
    public let text: String
    /// Why; nil: there is nothing to say, or it is in the text.
    public let failure: Failure?

    public init(_ kind: Kind, _ subject: Subject, _ text: String, _ phase: Phase = .once, because failure: Failure? = nil) {
        self.kind = kind
        self.subject = subject
        self.phase = phase
        self.text = text
        self.failure = failure
    }

    public var priority: Priority {
        if case .over = phase { return beginning == .info ? .info : .notice }
        return beginning
    }

    private var beginning: Priority {
        switch kind {
        case .damage, .syncFailure: .error
        case .commitRetry, .roomWait, .journalLeft, .filterPrivate, .hashing, .control, .maintenance, .filling: .warning
        case .lockWait, .reserve, .healing, .upgrade: .notice
        case .journalReplay, .filterRebuild, .leftover: .info
        }
    }

    /// A line: `disk web1: its writes are committed again, after 12 s (12 times)`.
    public var description: String {
        guard case .over(let seconds, let times) = phase else { return "\(subject): \(text)" + (failure.map { ": \($0)" } ?? "") }
        return "\(subject): \(text), after \(Int(seconds)) s" + (times > 1 ? " (\(times) times)" : "")
    }
}
