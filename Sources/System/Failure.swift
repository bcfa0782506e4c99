/// The one error type of the project: what was done (`operation`) to what (`subject`), why it failed, and the way out where that lies in the environment.
/// Prints as `operation subject: why: cause (remedy)`. A program that knows commands adds those to the remedies.
public struct Failure: Error, Equatable, Sendable, CustomStringConvertible {
    /// What a caller may want to tell apart.
    public enum Kind: Sendable {
        /// The command, a name or a size is wrong.
        case usage
        /// The operating system or a library refused.
        case system
        /// This user may not.
        case notPermitted
        /// Nothing can be written on that filesystem.
        case readOnly
        /// There is no such store, disk, file or VM.
        case notFound
        /// It is there already.
        case exists
        /// Another process holds it.
        case busy
        /// No room: the filesystem, a quota or the map is full.
        case noSpace
        /// No memory, or no address space.
        case noMemory
        /// What is stored is not what was written.
        case damage
        /// An older version of the program made the store: whoever may write to it upgrades it.
        case outdated
        /// The end was asked for while it waited, or was at work.
        case interrupted
        /// The request is outside the disk, or the disk is read-only, or the request is malformed.
        case invalidRequest
    }

    /// A verb, and what leads to its object: `read`, `commit to`.
    public struct Operation: Equatable, Sendable, ExpressibleByStringLiteral, CustomStringConvertible {
        private let verb: StaticString
        public init(_ verb: StaticString) { self.verb = verb }
        public init(stringLiteral verb: StaticString) { self.verb = verb }
        public var description: String { verb.description }
        public static func == (a: Operation, b: Operation) -> Bool { a.description == b.description }

        /// Nothing in particular: the subject is not as it should be.
        public static let none: Operation = ""
        // Those that callers tell apart.
        public static let create: Operation = "create", `import`: Operation = "import", export: Operation = "export to"
        public static let listen: Operation = "listen on", read: Operation = "read", resize: Operation = "resize"
        public static let upgrade: Operation = "upgrade"
    }

    public let kind: Kind
    public let operation: Operation
    public let subject: Subject
    public let why: String
    public let remedy: String?
    /// One at most; a value can't hold another of its own type.
    private let causes: [Failure]

    public init(_ kind: Kind, _ operation: Operation, _ subject: Subject, _ why: String, cause: Failure? = nil, remedy: String? = nil) {
        self.kind = kind
        self.operation = operation
        self.subject = subject
        self.why = why
        self.remedy = remedy
        causes = cause.map { [$0] } ?? []
    }

    public init(_ kind: Kind, _ subject: Subject, _ why: String, cause: Failure? = nil, remedy: String? = nil) {
        self.init(kind, .none, subject, why, cause: cause, remedy: remedy)
    }

    /// The failure behind this one.
    public var cause: Failure? { causes.first }

    /// What was done to what.
    public var what: String { operation == .none ? "\(subject)" : "\(operation) \(subject)" }

    public var description: String {
        "\(what): \(why)" + (cause.map { ": \($0)" } ?? "") + (remedy.map { " (\($0))" } ?? "")
    }
}
