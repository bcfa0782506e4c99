/// The one error type of the project: it names the operation and the object (`what`), the cause (`why`) and
/// the way out (`remedy`), and prints as `what: why (remedy)`.
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
        /// A signal asked for the end.
        case interrupted
        /// The request is outside the disk, or the disk is read-only, or the request is malformed.
        case invalidRequest
    }

    public let kind: Kind
    public let what: String
    public let why: String
    public let remedy: String?

    public init(_ kind: Kind, _ what: String, _ why: String, remedy: String? = nil) {
        self.kind = kind
        self.what = what
        self.why = why
        self.remedy = remedy
    }

    public var description: String {
        if let remedy { "\(what): \(why) (\(remedy))" } else { "\(what): \(why)" }
    }
}
